"""The wheel, built as it is published and installed into a fresh environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from nexus import __version__

ROOT = Path(__file__).parents[2]
BINARIES = ("nexusd", "nexus-vmm", "nexus-store")

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-build-isolation",
        "--no-deps",
        "--wheel-dir",
        str(directory),
    ]
    subprocess.run([*command, str(ROOT)], check=True, timeout=550)
    (file,) = directory.glob("*.whl")
    return file


def test_wheel_holds_the_programs_executable_and_nothing_it_should_not(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
    for name in BINARIES:
        assert entries[f"nexus/_bin/{name}"].external_attr >> 16 & 0o777 == 0o755
    assert "nexus/guest/abi.py" in entries
    assert "nexus/guest/device/_native.abi3.so" in entries
    assert "nexus/py.typed" in entries
    assert not [name for name in entries if name.startswith("tests") or name.endswith(".pyc")]
    assert __version__ in wheel.name


def test_installed_into_a_fresh_environment_it_runs_the_doctor(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    uv = str(Path(sys.executable).with_name("uv"))
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(environment)], check=True, timeout=60)
    subprocess.run(
        [uv, "pip", "install", "--quiet", "--python", str(environment / "bin" / "python"), str(wheel)], check=True, timeout=300
    )
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("NEXUS_", "PYTHON"))}
    nexus = str(environment / "bin" / "nexus")
    result = subprocess.run([nexus, "doctor", "--json"], capture_output=True, text=True, env=clean, cwd=tmp_path, check=False)
    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert result.returncode == 0, result.stdout
    for name in BINARIES:
        assert checks[name]["level"] == "ok"
        assert checks[name]["text"].startswith(str(environment))
    version = subprocess.run([nexus, "--version"], capture_output=True, text=True, env=clean, check=True)
    assert __version__ in version.stdout

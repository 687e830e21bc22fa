"""The cases of the hardware lane, on this machine's own /dev/kvm (`make test-hw` runs them under kvm_amd)."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from types import ModuleType

_HERE = Path(__file__).parent
_PROGRAMS = _HERE.parent / "programs"


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, _HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


_cases = _load("cases")


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test programs, linked statically."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is missing")
    directory = tmp_path_factory.mktemp("programs")
    for folder in (_PROGRAMS, _HERE):
        for source in folder.glob("*.c"):
            command = ["gcc", "-O1", "-static", "-pthread", "-o", str(directory / source.stem), str(source)]
            subprocess.run(command, check=True)
    return directory


@pytest.mark.kvm
@pytest.mark.parametrize("case", [c for c in _cases.CASES if c.local], ids=lambda c: c.name)
def test_holds_on_this_machine(case: Any, programs: Path, binaries: Path, tmp_path: Path) -> None:
    places = {"/bin": binaries, "/programs": programs, "/hardware": programs, "/tmp": tmp_path}  # noqa: S108 - the lane's

    def here(word: str) -> str:
        for place, local in places.items():
            if word == place or word.startswith(f"{place}/"):
                return f"{local}{word.removeprefix(place)}"
        return word

    command = [here(word) for word in case.command]
    result = subprocess.run(command, capture_output=True, check=False, timeout=60, stdin=subprocess.DEVNULL)
    status = result.returncode if result.returncode >= 0 else 128 - result.returncode
    output = (result.stdout + result.stderr).decode("utf-8", "replace")
    assert not case.wrong(status, output), output

"""The command line where no node runs: help, errors, and what starting it costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from framework.cli import run
from nexus import __version__
from nexus.cli import main
from nexus.cli.main import COMMANDS


def test_help_lists_every_command() -> None:
    result = run("--help")
    assert result.returncode == 0
    assert all(name in result.stdout for name in COMMANDS)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself(command: str) -> None:
    result = run(command, "--help")
    assert result.returncode == 0
    assert "Usage: nexus " + command in result.stdout


def test_version_is_the_packages() -> None:
    assert run("--version").stdout.strip().endswith(__version__)


@pytest.mark.parametrize(
    "arguments",
    [("status",), ("ps",), ("invoke", "f", "{}"), ("logs", "f"), ("delete", "f"), ("top", "--count", "1")],
)
def test_without_a_node_every_command_says_how_to_start_one(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    result = run(*arguments, state=tmp_path)
    assert result.returncode == 1
    assert result.stdout == ""
    assert "nexus up" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_down_without_a_node_is_no_error(tmp_path: Path) -> None:
    result = run("down", state=tmp_path)
    assert result.returncode == 0
    assert "no node" in result.stdout


def test_unknown_command_and_option_are_usage_errors() -> None:
    assert run("frobnicate").returncode == 2
    assert run("up", "--isolation", "magic").returncode == 2


def test_event_that_is_not_json_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    result = run("invoke", "f", "{bad", state=tmp_path)
    assert result.returncode == 1
    assert "is not JSON" in result.stderr


@pytest.mark.parametrize("command", ["up", "status", "down"])
def test_a_state_directory_that_is_a_file_is_named(tmp_path: Path, command: str) -> None:
    state = tmp_path / "state"
    state.write_text("")
    result = run(command, state=state)
    assert result.returncode == 1
    assert str(state) in result.stderr
    assert "--state" in result.stderr
    assert "Traceback" not in result.stderr


def test_damaged_node_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "node.json").write_text("{")
    result = run("status", state=tmp_path)
    assert result.returncode == 1
    assert str(tmp_path / "node.json") in result.stderr


def test_missing_binaries_are_named(tmp_path: Path) -> None:
    from nexus import paths
    from nexus.errors import NexusError

    with pytest.raises(NexusError, match="make setup"):
        paths.binary("nexus-nothing")


def test_starting_the_command_imports_little() -> None:
    code = "import sys, nexus.cli.main; print('\\n'.join(sys.modules))"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert not loaded & {"boto3", "botocore", "rich", "http.client", "subprocess"}


def test_state_directory_comes_from_the_environment(tmp_path: Path) -> None:
    environment = {**os.environ, "NEXUS_STATE": str(tmp_path / "here")}
    result = subprocess.run(
        [sys.executable, "-m", "nexus.cli.main", "status"], env=environment, capture_output=True, text=True, check=False
    )
    assert str(tmp_path / "here") in result.stderr


def test_doctor_gives_every_check_and_advice_where_something_lacks() -> None:
    result = run("doctor", "--json")
    document = json.loads(result.stdout)
    checks = {check["name"]: check for check in document["checks"]}
    wanted = {"machine", "nexusd", "nexus-vmm", "nexus-store", "kvm", "python", "landlock", "cgroups", "pid_max"}
    assert wanted | {"max_map_count", "nofile", "nproc", "isolation"} <= set(checks)
    assert all(check["advice"] for check in checks.values() if check["level"] in ("warn", "fail"))
    assert document["ok"] == (result.returncode == 0)


def test_doctor_names_the_same_in_words() -> None:
    result = run("doctor")
    assert "isolation" in result.stdout
    assert "python" in result.stdout


def is_one_clear_line(result: subprocess.CompletedProcess[str]) -> bool:
    """What every failure has to be."""
    return result.returncode == 1 and result.stderr.startswith("nexus: ") and len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("event", ["\udcff", "[" * 50_000 + "]" * 50_000, "@/", "@/nowhere", "@"])
def test_an_event_that_cannot_be_one_is_refused_in_one_line(tmp_path: Path, event: str) -> None:
    assert is_one_clear_line(run("invoke", "f", event, state=tmp_path))


@pytest.mark.parametrize("entry", ["store", "logs", "nexusd", "lock", "nexusd.toml", "credentials.json", "node.json"])
def test_a_state_directory_with_the_wrong_things_in_it_is_named(tmp_path: Path, entry: str) -> None:
    if entry in ("store", "logs", "nexusd"):
        (tmp_path / entry).write_text("")
    else:
        (tmp_path / entry).mkdir()
    result = run("up", "--port", "0", "--store-port", "0", "--isolation", "process", state=tmp_path)
    assert is_one_clear_line(result), result.stderr
    assert str(tmp_path) in result.stderr


@pytest.mark.parametrize("state", ["/proc/nowhere", "/dev/null/state", "/dev/null"])
def test_a_state_directory_that_cannot_be_made_is_named(state: str) -> None:
    result = run("up", "--port", "0", "--store-port", "0", state=Path(state))
    assert is_one_clear_line(result), result.stderr
    assert state in result.stderr


def test_a_state_directory_whose_name_is_not_utf8_is_refused(tmp_path: Path) -> None:
    result = run("up", "--port", "0", "--store-port", "0", state=tmp_path / "\udcff")
    assert is_one_clear_line(result), result.stderr
    assert "UTF-8" in result.stderr


@pytest.mark.parametrize("error", [OSError(28, "No space left on device", "/some/file"), UnicodeError("an odd\nname")])
def test_an_error_that_no_command_expects_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def fail(**_options: object) -> None:
        raise error

    monkeypatch.setattr(main.cli, "main", fail)
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 1
    shown = capsys.readouterr().err
    assert shown.startswith("nexus: ")
    assert shown.count("\n") == 1

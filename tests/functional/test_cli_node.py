"""The command line with a node, as the README shows it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from framework import kvm
from framework.cli import run

PORTS = ("--port", "0", "--store-port", "0")


@pytest.fixture(scope="module", params=["kvm", "process"])
def state(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if request.param == "kvm":
        kvm.require()
    directory = tmp_path_factory.mktemp("cli")
    result = run("up", *PORTS, "--isolation", request.param, state=directory)
    assert result.returncode == 0, result.stderr
    yield directory
    assert run("down", state=directory).returncode == 0


@pytest.fixture(scope="module")
def basic(state: Path, handlers: Path) -> Path:
    result = run("deploy", f"{handlers}/basic.py:handler", "--memory", "192", "--env", "COLOUR=red", state=state)
    assert result.returncode == 0, result.stderr
    assert "basic deployed" in result.stdout
    return state


def test_invoke_prints_the_result_and_nothing_else(basic: Path) -> None:
    result = run("invoke", "basic", '{"a": "ü"}', state=basic)
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout) == {"a": "ü"}


def test_event_from_file_and_standard_input(basic: Path, tmp_path: Path) -> None:
    (tmp_path / "event.json").write_text('{"do": "env", "name": "COLOUR"}')
    assert run("invoke", "basic", f"@{tmp_path}/event.json", state=basic).stdout.strip() == '"red"'
    assert run("invoke", "basic", "-", state=basic, stdin="[1]").returncode in (0, 1)
    assert run("invoke", "basic", "-", state=basic, stdin='{"x": 1}').stdout.strip() == '{"x": 1}'


def test_failure_of_the_function_is_status_1_with_the_error_on_standard_error(basic: Path) -> None:
    result = run("invoke", "basic", '{"do": "raise", "text": "boom"}', state=basic)
    assert result.returncode == 1
    assert result.stdout == ""
    assert json.loads(result.stderr)["errorMessage"] == "boom"


def test_log_of_the_invocation_is_shown_when_asked_for(basic: Path) -> None:
    result = run("invoke", "basic", '{"do": "print", "text": "words-to-find"}', "--log", state=basic)
    assert "words-to-find" in result.stderr
    assert "words-to-find" in run("logs", "basic", "-n", "50", state=basic).stdout


def test_following_a_log_shows_what_comes(basic: Path) -> None:
    command = [sys.executable, "-u", "-m", "nexus.cli.main", "logs", "basic", "-n", "1", "--follow"]
    environment = {**os.environ, "NEXUS_STATE": str(basic)}
    # A shell that runs in the background has its children ignore the signal.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, preexec_fn=heed) as follower:
        assert follower.stdout is not None
        follower.stdout.readline()
        run("invoke", "basic", '{"do": "print", "text": "later-words"}', state=basic)
        deadline = time.monotonic() + 20
        while "later-words" not in follower.stdout.readline():
            assert time.monotonic() < deadline
        follower.send_signal(signal.SIGINT)
        assert follower.wait(20) == 130


def test_following_a_log_shows_every_line_however_many_come(basic: Path, tmp_path: Path) -> None:
    lines = [f"line {number} of many" for number in range(20_000)]
    (tmp_path / "event.json").write_text(json.dumps({"do": "print", "text": "\n".join(lines)}))
    command = [sys.executable, "-m", "nexus.cli.main", "logs", "basic", "-n", "1", "--follow"]
    environment = {**os.environ, "NEXUS_STATE": str(basic)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as follower:
        assert follower.stdout is not None
        follower.stdout.readline()
        assert run("invoke", "basic", f"@{tmp_path}/event.json", state=basic).returncode == 0
        shown = []
        for line in follower.stdout:
            if " of many" in line:
                shown.append(line.rstrip("\n"))
                if len(shown) == len(lines) or shown[-1] == lines[-1]:
                    break
        follower.kill()
    assert shown == lines


@pytest.mark.parametrize(
    ("returned", "shown"),
    [('b"not json"', "not json"), ('b"\\xff\\xfe"', "\ufffd\ufffd"), ('"\\ud800 x"', '"\\ud800 x"'), ("[[]]", "[[]]")],
)
def test_a_result_that_is_no_text_or_no_json_is_shown_as_it_is(state: Path, tmp_path: Path, returned: str, shown: str) -> None:
    (tmp_path / "odd.py").write_text(f"def handler(event, context):\n    return {returned}\n")
    assert run("deploy", f"{tmp_path}/odd.py:handler", state=state).returncode == 0
    command = [sys.executable, "-m", "nexus.cli.main", "invoke", "odd"]
    result = subprocess.run(command, env={**os.environ, "NEXUS_STATE": str(state)}, capture_output=True, check=False)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.decode("utf-8", "replace").strip() == shown


def test_ps_status_and_top_show_it(basic: Path) -> None:
    run("invoke", "basic", "{}", state=basic)
    listing = json.loads(run("ps", "--json", state=basic).stdout)
    assert "basic" in [f["name"] for f in listing["functions"]]
    assert "basic" in [i["function"] for i in listing["instances"]]
    assert "basic" in run("ps", state=basic).stdout
    assert "basic" in run("top", "--count", "2", "--interval", "0.2", state=basic).stdout
    status = json.loads(run("status", "--json", state=basic).stdout)
    assert status["isolation"] in run("status", state=basic).stdout


def test_unknown_function_is_named(basic: Path) -> None:
    result = run("invoke", "nobody", "{}", state=basic)
    assert result.returncode == 1
    assert "nobody" in result.stderr


def test_deploy_of_a_broken_handler_shows_why(basic: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise RuntimeError('not today')\n")
    result = run("deploy", f"{tmp_path}/broken.py:handler", state=basic)
    assert result.returncode == 1
    assert "not today" in result.stderr


def test_up_twice_is_refused_and_leaves_the_node_alone(basic: Path) -> None:
    result = run("up", *PORTS, state=basic)
    assert result.returncode == 1
    assert "runs already" in result.stderr
    assert run("status", state=basic).returncode == 0


def test_delete_removes_it(basic: Path, handlers: Path) -> None:
    assert run("deploy", f"{handlers}/basic.py:other", "--name", "second", state=basic).returncode == 0
    assert run("invoke", "second", state=basic).stdout.strip() == '"other"'
    assert run("delete", "second", state=basic).returncode == 0
    assert "second" not in [f["name"] for f in json.loads(run("ps", "--json", state=basic).stdout)["functions"]]


def test_functions_and_objects_survive_a_restart(tmp_path: Path, handlers: Path) -> None:
    assert run("up", *PORTS, "--isolation", "process", state=tmp_path).returncode == 0
    try:
        assert run("deploy", f"{handlers}/basic.py:handler", state=tmp_path).returncode == 0
        assert run("down", state=tmp_path).returncode == 0
        assert run("up", *PORTS, "--isolation", "process", state=tmp_path).returncode == 0
        assert run("invoke", "basic", '{"x": 1}', state=tmp_path).stdout.strip() == '{"x": 1}'
    finally:
        assert run("down", state=tmp_path).returncode == 0


def test_a_port_that_is_taken_is_reported_and_nothing_stays_behind(basic: Path, tmp_path: Path) -> None:
    url = json.loads(run("status", "--json", state=basic).stdout)["url"]
    result = run("up", "--port", url.rpartition(":")[2], "--store-port", "0", "--isolation", "process", state=tmp_path)
    assert result.returncode == 1
    assert "nexusd did not start" in result.stderr
    assert not (tmp_path / "node.json").exists()
    assert run("down", state=tmp_path).returncode == 0


def test_foreground_ends_the_node_on_a_signal(tmp_path: Path) -> None:
    command = [sys.executable, "-u", "-m", "nexus.cli.main", "up", *PORTS, "--isolation", "process", "--foreground"]
    environment = {**os.environ, "NEXUS_STATE": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as node:
        assert node.stdout is not None
        while "state" not in node.stdout.readline():
            assert node.poll() is None
        assert run("status", state=tmp_path).returncode == 0
        node.send_signal(signal.SIGTERM)
        assert node.wait(30) == 0
    assert run("status", state=tmp_path).returncode == 1

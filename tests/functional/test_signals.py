"""Signals that come from outside, and faults: what the status and the streams say."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from framework.cli import run

pytestmark = pytest.mark.kvm


@pytest.mark.parametrize(("number", "word"), [(signal.SIGINT, "KeyboardInterrupt"), (signal.SIGTERM, "terminated")])
def test_a_signal_to_the_command_is_the_programs(number: signal.Signals, word: str) -> None:
    program = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit('terminated'))\n"
        "print('ready', flush=True)\n"
        "time.sleep(30)"
    )
    command = [str(Path(sys.executable).with_name("nexus")), "run", "--", "python3", "-S", "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=10)
    assert word in errors
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 1}[number]


@pytest.mark.parametrize(
    ("fault", "number", "text"),
    [
        ("import ctypes; ctypes.string_at(0)", signal.SIGSEGV, "Segmentation fault"),
        ("import os; os.abort()", signal.SIGABRT, "Aborted"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGFPE)", signal.SIGFPE, "Floating"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", signal.SIGILL, "Illegal instruction"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGBUS)", signal.SIGBUS, "Bus error"),
    ],
)
def test_faulthandler_tells_where(fault: str, number: signal.Signals, text: str) -> None:
    result = run("run", "--", "python3", "-X", "faulthandler", "-c", fault)
    assert result.returncode == 128 + number
    assert f"Fatal Python error: {text}" in result.stderr
    assert 'File "<string>", line 1 in <module>' in result.stderr


def test_faulthandler_tells_later() -> None:
    program = "import faulthandler, time; faulthandler.dump_traceback_later(0.1, exit=True); time.sleep(20)"
    result = run("run", "--", "python3", "-c", program)
    assert result.returncode == 1
    assert "Timeout (0:00:00.100000)!" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM, signal.SIGPIPE])
def test_a_signal_without_a_handler_ends_the_program(number: signal.Signals) -> None:
    program = f"import os, signal; signal.signal({int(number)}, signal.SIG_DFL) if {int(number)} != 9 else 0; os.kill(os.getpid(), {int(number)})"
    assert run("run", "--", "python3", "-c", program).returncode == 128 + number

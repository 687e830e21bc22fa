"""Programs started in a microVM: what they take of it."""

from __future__ import annotations

import pytest
from framework.cli import run

pytestmark = pytest.mark.kvm

_TAKE = "data = bytearray(90 << 20); print(len(data))"


def test_a_program_in_place_of_another_has_its_memory() -> None:
    program = f"import os, sys; {_TAKE}; sys.stdout.flush(); os.execv(sys.executable, [sys.executable, '-S', '-c', {_TAKE!r}])"
    result = run("run", "--memory", "160", "--", "python3", "-S", "-c", program)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [str(90 << 20)] * 2


def test_programs_share_one_limit_of_memory() -> None:
    program = (
        f"import subprocess, sys; {_TAKE}\n"
        f"print(subprocess.run([sys.executable, '-S', '-c', {_TAKE!r}], stderr=subprocess.DEVNULL).returncode != 0)"
    )
    result = run("run", "--memory", "160", "--", "python3", "-S", "-c", program)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [str(90 << 20), "True"]


def test_there_is_a_most_of_programs_at_once() -> None:
    program = (
        "import errno, subprocess\n"
        "live = []\n"
        "try:\n"
        "    for _ in range(100):\n"
        "        live.append(subprocess.Popen(['sleep', '60']))\n"
        "except OSError as error:\n"
        "    print(errno.errorcode[error.errno], len(live))\n"
        "for one in live:\n"
        "    one.kill()\n"
        "print({one.wait() for one in live}, subprocess.run(['true']).returncode)"
    )
    result = run("run", "--", "python3", "-S", "-c", program)
    assert result.stdout.splitlines() == ["EAGAIN 32", "{-9} 0"], result.stderr


def test_there_is_a_most_of_copies_at_once() -> None:
    program = (
        "import errno, os, signal\n"
        "live = []\n"
        "try:\n"
        "    for _ in range(100):\n"
        "        pid = os.fork()\n"
        "        if pid == 0: signal.pause()\n"
        "        live.append(pid)\n"
        "except OSError as error:\n"
        "    print(errno.errorcode[error.errno], len(live))\n"
        "for pid in live: os.kill(pid, signal.SIGKILL)\n"
        "print({os.waitpid(pid, 0)[1] for pid in live}, os.system('true'))"
    )
    result = run("run", "--memory", "1024", "--", "python3", "-S", "-c", program)
    assert result.stdout.splitlines() == ["EAGAIN 32", "{9} 0"], result.stderr


def test_a_copy_that_does_not_fit_the_limit_is_refused() -> None:
    program = (
        "import errno, os; data = bytearray(b'x') * (90 << 20)\n"
        "try:\n"
        "    os.fork()\n"
        "except OSError as error:\n"
        "    print(errno.errorcode[error.errno], data[-1])"
    )
    result = run("run", "--memory", "160", "--", "python3", "-S", "-c", program)
    assert result.stdout.splitlines() == ["ENOMEM 120"], result.stderr


def test_a_copy_outlives_its_parent() -> None:
    program = (
        "import os, time\n"
        "reader, writer = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    parent = os.getpid()\n"
        "    if os.fork() == 0:\n"
        "        while os.getppid() == parent: time.sleep(0.01)\n"
        "        os.write(writer, str(os.getppid()).encode())\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "print(os.read(reader, 10))"
    )
    result = run("run", "--", "python3", "-S", "-c", program)
    assert result.stdout == "b'1'\n", result.stderr

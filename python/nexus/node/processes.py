"""Daemons by process id, made safe against reuse of the id by the start time that goes with it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Index of the start time among the fields after the command name in /proc/PID/stat; proc(5) calls it field 22.
_START_TIME = 19
_STATE = 0


@dataclass(frozen=True)
class Process:
    """A process as it was when it was started.

    :param pid: process id.
    :param started: start time in clock ticks since boot, from ``/proc/PID/stat``; no two processes share both.
    """

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The process that has this id now; None where there is none, or a zombie."""
        fields = _stat(pid)
        if fields is None or fields[_STATE] in ("Z", "X"):
            return None
        return cls(pid, int(fields[_START_TIME]))

    def alive(self) -> bool:
        """Whether it still runs."""
        return Process.of(self.pid) == self

    def end(self, grace: float = 10.0) -> bool:
        """Send SIGTERM, after ``grace`` seconds SIGKILL; False where it had ended before."""
        if not self.alive():
            return False
        for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
            self._signal(number)
            deadline = time.monotonic() + patience
            while time.monotonic() < deadline:
                _reap(self.pid)
                if not self.alive():
                    return True
                time.sleep(0.01)
        return not self.alive()

    def _signal(self, number: signal.Signals) -> None:
        # A pidfd names the process itself: between the check and the signal the id cannot change hands.
        try:
            descriptor = os.pidfd_open(self.pid)
        except OSError:
            return
        try:
            if self.alive():
                signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            pass
        finally:
            os.close(descriptor)


def start(arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> Process:
    """Start a daemon in a session of its own, its output appended to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        child = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            close_fds=True,
            cwd="/",
            env=None if environment is None else dict(environment),
        )
    process = Process.of(child.pid) or Process(child.pid, 0)
    # It outlives this program on purpose; without this, Popen's destructor warns about that.
    child.returncode = 0
    return process


def _reap(pid: int) -> None:
    """Collect the exit status where the process is our own child, so that it does not stay a zombie."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The command name is in parentheses and may hold anything, so count from the last one.
    return text.rpartition(")")[2].split()

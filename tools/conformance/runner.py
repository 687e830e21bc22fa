"""Runs one module of a suite, on the host or in a microVM of its own, and reads what it printed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

# What the interpreter of either side sees, so that both sides run the same tests.
_ENVIRONMENT = {"LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1", "TERM": "dumb"}

# unittest ends a failed test with "FAIL: name (place)", pytest with "FAILED place::name - message".
_UNITTEST = re.compile(r"^(?:FAIL|ERROR|UNEXPECTED SUCCESS): (\w\S*) \(([A-Za-z_][\w.]*)", re.MULTILINE)
_PYTEST = re.compile(r"^(?:FAILED|ERROR) ([\w.]\S*::\S+)", re.MULTILINE)
_REGRTEST = re.compile(r"^Total tests: run=([\d,]+)", re.MULTILINE)
_DECLINED = re.compile(r"^\S+ skipped", re.MULTILINE)
_RAN = re.compile(r"^Ran (\d+) tests? in", re.MULTILINE)
_PYTEST_RAN = re.compile(r"(\d+) (passed|failed|errors?|skipped)\b")


@dataclass(frozen=True)
class Outcome:
    """What became of one module on one side.

    :param status: ``pass``, ``fail``, ``skip`` (it declined to run here) or ``timeout``.
    :param tests: tests that ran, where the suite tells.
    :param failed: names of the tests that failed.
    """

    status: str
    seconds: float
    tests: int
    failed: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Place:
    """How a command of a suite is run.

    :param vmm: the hypervisor's binary; None: on the host itself.
    :param roots: host directories that the guest sees at the same paths.
    :param memory_mib: what the guest may use.
    """

    vmm: Path | None
    roots: tuple[Path, ...] = ()
    memory_mib: int = 4096

    def command(self, program: list[str], environment: dict[str, str]) -> list[str]:
        """The command line that runs ``program`` here."""
        if self.vmm is None:
            return program
        words = [str(self.vmm), "run", "--memory", str(self.memory_mib), "--threads", "200"]
        words += ["--cwd", environment.get("NEXUS_CONFORMANCE_DIRECTORY", "/tmp")]
        for root in self.roots:
            words += ["--ro", str(root)]
        for name, value in environment.items():
            words += ["--env", f"{name}={value}"]
        return [*words, "--", *program]


def run(place: Place, program: list[str], environment: dict[str, str], log: Path, limit: float) -> Outcome:
    """Run a module's command to its end, or to ``limit`` seconds; its output goes to ``log``."""
    scratch = Path(tempfile.mkdtemp(prefix="nexus-conformance-"))
    # Programs that only one side has, of a virtual environment say, would be compared else.
    wanted = _ENVIRONMENT | environment | {"PATH": "/usr/bin:/bin"}
    inside = wanted | {"HOME": "/tmp"}
    outside = wanted | {"HOME": str(scratch), "TMPDIR": str(scratch)}
    began = time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (
            log.open("wb") as output,
            subprocess.Popen(
                place.command(program, inside),
                env=outside,
                cwd=environment.get("NEXUS_CONFORMANCE_DIRECTORY", scratch),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ) as process,
        ):
            try:
                status = process.wait(limit)
            except subprocess.TimeoutExpired:
                status = None
            # Whatever the module left behind belongs to its session.
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return judge(status, log.read_text(errors="replace"), time.monotonic() - began)


def judge(status: int | None, text: str, seconds: float) -> Outcome:
    """What a command's exit status (None: it was ended) and its output say."""
    failed = {f"{place}.{name}" if not place.endswith(f".{name}") else place for name, place in _UNITTEST.findall(text)}
    failed.update(_PYTEST.findall(text))
    names = tuple(sorted(failed))
    tests = _count(text)
    if status is None:
        return Outcome("timeout", seconds, tests, names)
    # A module that found nothing to do, or declines to run here, proves nothing.
    if tests == 0 and (status == 0 or _DECLINED.search(text)):
        return Outcome("skip", seconds, tests, names)
    return Outcome("pass" if status == 0 else "fail", seconds, tests, names)


def _count(text: str) -> int:
    """Tests that ran: regrtest's own count where it gives one, else the sum of unittest's, else pytest's."""
    regrtest = _REGRTEST.findall(text)
    if regrtest:
        return int(regrtest[-1].replace(",", ""))
    unittest = _RAN.findall(text)
    if unittest:
        return sum(map(int, unittest))
    return sum(int(number) for number, kind in _PYTEST_RAN.findall(text[-400:]) if kind != "skipped")

"""Drives the reference: the same handler file, interpreter and boto3 as the function's, in a plain process."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from nexus.errors import NexusError

if TYPE_CHECKING:
    from nexus.packaging.deployment import Package

_WORKER = Path(__file__).with_name("plain_worker.py")
_PATIENCE_S = 120.0


@dataclass(frozen=True)
class Answer:
    """What a call gave, with CLOCK_MONOTONIC at the handler's first line and at its end."""

    result: Any
    first_ns: int
    end_ns: int


class PlainProcess:
    """A handler in a process of its own, kept warm between calls.

    :param package: the very package that is deployed.
    :param environment: AWS settings for its boto3.
    """

    def __init__(self, package: Package, environment: dict[str, str]) -> None:
        paths = [str(package.code), *(str(layer) for layer in package.layers)]
        self.started_ns = time.monotonic_ns()
        self._child = subprocess.Popen(
            [str(package.python.executable), "-B", "-P", str(_WORKER), package.handler],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.environ.get("PATH", ""), "PYTHONPATH": ":".join(paths), **environment},
        )
        self.pid = self._child.pid

    def call(self, event: object) -> Answer:
        """Call the handler.

        :raises NexusError: it raised, died or took too long.
        """
        self.send(event)
        return self.receive()

    def send(self, event: object) -> None:
        """The first half of a call."""
        stdin = self._child.stdin
        assert stdin is not None
        try:
            stdin.write(json.dumps(event).encode() + b"\n")
            stdin.flush()
        except BrokenPipeError:
            # `receive` tells.
            return

    def receive(self) -> Answer:
        """The second half of a call."""
        stdout = self._child.stdout
        assert stdout is not None
        if not select.select([stdout], [], [], _PATIENCE_S)[0]:
            raise NexusError(f"the plain process did not answer within {_PATIENCE_S:.0f} s")
        line = stdout.readline()
        if not line:
            raise NexusError(f"the plain process ended with status {self._child.wait(10)}")
        answer = json.loads(line)
        if "error" in answer:
            raise NexusError(f"the handler failed in the plain process ({answer['error']})")
        return Answer(answer["result"], answer["first_ns"], answer["end_ns"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it."""
        for stream in (self._child.stdin, self._child.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self._child.terminate()
        try:
            self._child.wait(5)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait(5)

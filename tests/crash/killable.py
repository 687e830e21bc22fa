"""A nexusd that can be killed and started again in milliseconds: its VMMs are the tests' double."""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nexus import paths

DOUBLE = Path(__file__).parents[2] / "crates/nexusd/tests/all/common/fake_vmm.py"


class Gone(Exception):
    """The node ended before it answered: nobody knows what became of the request."""


class Killable:
    def __init__(self, directory: Path, store: str) -> None:
        self.directory = directory
        for part in ("code", "runtime/nexus/guest", "state"):
            (directory / part).mkdir(parents=True)
        vmm = directory / "vmm"
        vmm.write_text(f"#!{Path(sys.executable).resolve()} -IS\n{DOUBLE.read_text()}")
        vmm.chmod(0o755)
        self.config = directory / "nexusd.toml"
        self.config.write_text(
            f'listen = "127.0.0.1:0"\nstate = "{directory}/state"\nvmm = "{vmm}"\nisolation = "process"\n'
            f'queue_wait_ms = 20000\n[endpoints]\ns3 = "{store}"\n'
        )
        self.log = (directory / "nexusd.log").open("ab")
        self.process: subprocess.Popen[bytes] | None = None
        self.address = ("", 0)
        self.epoch = 0
        # When each killed one had been succeeded by a new one.
        self.restarts: list[float] = []
        self.up = threading.Event()

    def start(self) -> None:
        announced = self.directory / "state/nexusd.json"
        announced.unlink(missing_ok=True)
        self._spawn()
        deadline = time.monotonic() + 60
        while True:
            try:
                host, _, port = json.loads(announced.read_text())["address"].rpartition(":")
                break
            except (OSError, ValueError):
                if self.process.poll() is not None or time.monotonic() > deadline:
                    log = (self.directory / "nexusd.log").read_text()[-4000:]
                    if "another nexusd serves" not in log.splitlines()[-1] or time.monotonic() > deadline:
                        raise AssertionError(log) from None
                    # A child that the killed one was just making has its lock for a moment longer.
                    self._spawn()
                time.sleep(0.003)
        self.address = (host, int(port))
        self.epoch += 1
        if self.epoch > 1:
            self.restarts.append(time.monotonic())
        self.up.set()

    def _spawn(self) -> None:
        environment = {**os.environ, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
        self.process = subprocess.Popen(
            [paths.binary("nexusd"), "--config", self.config], stdin=subprocess.DEVNULL, stderr=self.log, env=environment
        )

    def replayed(self) -> int:
        """Journalled writes that all its processes took up from those before."""
        log = (self.directory / "nexusd.log").read_text()
        return sum(int(count) for count in re.findall(r"journalled writes go on count=(\d+)", log))

    def kill(self) -> None:
        """SIGKILL, at whatever it is doing."""
        self.up.clear()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def tear(self, rng: random.Random) -> None:
        """What a torn write leaves: rubbish behind the journal's last whole frame, and payloads half written."""
        wal = self.directory / "state/journal/journal.db-wal"
        if wal.exists():
            frame = 4096 + 24
            with wal.open("r+b") as file:
                # A process that is killed leaves what it wrote; a machine that loses power leaves part of a frame behind it.
                end = file.seek(0, os.SEEK_END)
                whole = 32 + (max(0, end - 32) // frame) * frame
                file.seek(whole if end else 0)
                file.write(rng.randbytes(rng.randrange(1, 3 * frame)))
        spool = self.directory / "state/journal/spool"
        if spool.exists():
            (spool / f"{rng.randrange(1 << 30)}.tmp").write_bytes(rng.randbytes(rng.randrange(1000)))

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        self.log.close()

    def call(
        self, method: str, path: str, body: object = None, sent: Callable[[], None] = lambda: None
    ) -> tuple[int, dict[str, str], Any]:
        """:raises Gone: the node was killed meanwhile."""
        if not self.up.wait(60):
            raise Gone
        connection = http.client.HTTPConnection(*self.address, timeout=60)
        try:
            connection.connect()
            sent()
            connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
            reply = connection.getresponse()
            content = reply.read()
            return reply.status, {n.lower(): v for n, v in reply.getheaders()}, json.loads(content) if content else None
        except (OSError, http.client.HTTPException) as error:
            raise Gone from error
        finally:
            connection.close()

    def deploy(self, name: str, **options: object) -> None:
        body = {
            "handler": "m.handler",
            "code": str(self.directory / "code"),
            "runtime": str(self.directory / "runtime"),
            "python": "/bin/sh",
            "digest": "0123456789abcdef",
            "timeout_s": 60,
            "isolation": "process",
            **options,
        }
        status, _, answer = self.call("PUT", f"/nexus/v1/functions/{name}", body)
        assert status == 200, answer

    def invoke(
        self, name: str, ops: list[dict[str, object]], sent: Callable[[], None] = lambda: None
    ) -> list[list[Any]] | None:
        """Answers of the operations; None where the invocation failed.

        :raises Gone: as :meth:`call`.
        """
        status, headers, answer = self.call("POST", f"/2015-03-31/functions/{name}/invocations", {"do": "s3", "ops": ops}, sent)
        if status != 200 or "x-amz-function-error" in headers:
            return None
        return answer

    def writes(self) -> dict[str, Any]:
        return self.call("GET", "/nexus/v1/writes")[2]

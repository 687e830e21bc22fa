"""Servers of others that tests run beside a node."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class Moto:
    """A stand-in for AWS's services.

    :param packages: directory with moto and what it needs.
    :param folder: for its log.
    """

    def __init__(self, packages: Path, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        log = folder / "moto.log"
        environment = {**os.environ, "PYTHONPATH": str(packages)}
        command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
        with log.open("wb") as output:
            self.process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        deadline = time.monotonic() + 120
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                assert self.process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, "the stand-in does not serve"
                time.sleep(0.05)
            else:
                return

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(20)

"""What the guest's tests share: a runtime process on the stand-in backend."""

import json
import subprocess
import textwrap
from pathlib import Path

from fake_backend import FakeBackend


class Guest:
    """A runtime process with a handler given as source text."""

    def __init__(self, folder: Path, source: str, handler: str = "function.handler", **environment: str) -> None:
        (folder / "function.py").write_text(textwrap.dedent(source), encoding="utf-8")
        self.backend = FakeBackend("http://127.0.0.1:1", ("key", "secret"))
        environment.setdefault("NEXUS_OFFLOAD", "coupled")
        self.process = self.backend.start(handler, folder, **environment)

    def invoke(self, event: object = None, **invocation: object) -> tuple[str, object]:
        """`("result" | "error", decoded body)`."""
        flag, body, _ = self.backend.invoke(json.dumps(event).encode(), timeout=30, **invocation)
        return {1: "result", 2: "error"}[flag], json.loads(body)

    def ended(self) -> int:
        """Wait for the process to end by itself; its status."""
        return self.process.wait(20)

    def close(self) -> str:
        """End it; returns its output."""
        self.process.kill()
        output, _ = self.process.communicate(timeout=20)
        self.backend.close()
        return output.decode()


def run(command: list[str], **options: object) -> str:
    """Output of a program that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout

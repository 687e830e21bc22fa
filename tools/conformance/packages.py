"""Packages' own tests as functions of a node, where the shims stand between the package and the network.

The tests come from the package's source distribution; the package itself, and what the tests import, from
tests/conformance/packages.txt, on either side. Servers that tests start are inside the instance, as natively they are in the
process; httpbin runs on the host, so that what requests asks of it goes over the backend, and S3 is the node's store.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import suites
from nexus import Node
from nexus.errors import NexusError
from nexus.node import credentials
from nexus.packaging import interpreter
from nexus.packaging.code import Source
from nexus.packaging.depot import Depot
from nexus.packaging.requirements import add_requirements
from runner import Outcome, judge

if TYPE_CHECKING:
    from collections.abc import Iterator

REQUIREMENTS = suites.EXPECTATIONS / "packages.txt"
_FUNCTIONS = Path(__file__).parent / "functions"
# What a suite's tests are of its source, the plugins they need (no others are loaded), and what else is asked of pytest.
_PARTS = {
    "requests": (("tests", "pyproject.toml", "requirements-dev.txt"), ("pytest_mock", "outside_httpbin"), ()),
    "urllib3": (
        ("test", "dummyserver", "pyproject.toml"),
        ("pytest_timeout", "pytest_socket", "anyio"),
        ("-m", "not limit_memory and not requires_network"),
    ),
    "s3transfer": (("tests",), (), ("-c", "/dev/null", "--rootdir=.")),
}
# Everything that the tests themselves start or look for; the Internet is not part of it.
_EGRESS = ["127.0.0.1:*", "localhost:*", "[::1]:*", "*.invalid:*"]
NAMES = tuple(_PARTS)


def load(name: str) -> suites.Suite:
    """The tests of a package at the version that the requirements pin, staged beside the function's handler.

    :raises SuiteMissingError: its source cannot be had.
    """
    version = next(
        line.split()[0].partition("==")[2] for line in REQUIREMENTS.read_text().splitlines() if line.startswith(f"{name}==")
    )
    source = suites.CACHE / f"{name}-{version}"
    if not source.is_dir():
        suites.fetch_source(name, version, source)
    staged = suites.CACHE / "functions" / f"{name}-{version}"
    shutil.rmtree(staged, ignore_errors=True)
    shutil.copytree(_FUNCTIONS, staged, ignore=shutil.ignore_patterns("__pycache__"))
    parts, plugins, more = _PARTS[name]
    for part in parts:
        if (source / part).is_dir():
            shutil.copytree(source / part, staged / part)
        else:
            shutil.copy(source / part, staged)
    # s3transfer's integration tests need an account of AWS.
    found = (path.relative_to(staged) for path in (staged / parts[0]).rglob("test_*.py"))
    modules = sorted(str(path) for path in found if "integration" not in path.parts)
    words = (*suites.PYTEST, *(word for plugin in plugins for word in ("-p", plugin)), *more)
    try:
        packages = add_requirements(Depot(suites.CACHE), REQUIREMENTS, interpreter.find().executable)
    except NexusError as error:
        raise suites.SuiteMissingError(str(error)) from error
    environment = {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": f"{staged}:{packages}",
        "NEXUS_CONFORMANCE_DIRECTORY": str(staged),
    }
    return suites.Suite(name, version, tuple(modules), (), words, environment)


@dataclass(frozen=True)
class Grounds:
    """Where both sides run: a node, and httpbin on the host."""

    node: Node
    suite: suites.Suite
    httpbin: dict[str, str]

    def native(self) -> suites.Suite:
        """The suite with what the host's side is told."""
        key, secret = credentials.load(self.node.state)
        told = {
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_ENDPOINT_URL_S3": self.node.store_url,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        return replace(self.suite, environment=self.suite.environment | self.httpbin | told)

    def run(self, module: str, ignored: tuple[str, ...], log: Path, limit: int) -> Outcome:
        """A module in an instance of a function of its own."""
        name = "".join(letter if letter.isalnum() else "-" for letter in module)[-60:]
        words = self.suite.command(module, ignored)[3:]
        began = time.monotonic()
        log.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.node.deploy(
                Source(Path(self.suite.environment["NEXUS_CONFORMANCE_DIRECTORY"]), "suite_handler.handler"),
                name,
                memory_mib=1024,
                timeout_s=limit,
                requirements=REQUIREMENTS,
                environment={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **self.httpbin},
                policy={"egress": _EGRESS},
            )
            answer: dict[str, Any] = self.node.invoke(name, {"words": words})
        except NexusError as error:
            text = str(error)
            with contextlib.suppress(NexusError):
                text += "\n" + self.node.logs(name)
            log.write_text(text)
            status = None if "timed out" in str(error) else 1
            return judge(status, text, time.monotonic() - began)
        finally:
            with contextlib.suppress(NexusError):
                self.node.delete(name)
        log.write_text(answer["text"])
        return judge(answer["status"], answer["text"], time.monotonic() - began)


@contextlib.contextmanager
def grounds(suite: suites.Suite) -> Iterator[Grounds]:
    """A node with a state of its own, and httpbin, for as long as the block runs."""
    program = [sys.executable, str(_FUNCTIONS / "httpbin_servers.py")]
    environment = os.environ | {"PYTHONPATH": suite.environment["PYTHONPATH"]}
    with (
        tempfile.TemporaryDirectory(prefix="nexus-packages-") as state,
        subprocess.Popen(
            program,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as servers,
        Node.start(Path(state), port=0, store_port=0, isolation="kvm", shells=0) as node,
    ):
        assert servers.stdin is not None
        assert servers.stdout is not None
        try:
            plain, secure = json.loads(servers.stdout.readline())
            yield Grounds(node, suite, {"HTTPBIN": plain, "HTTPBIN_SECURE": secure})
        finally:
            servers.stdin.close()
            servers.terminate()

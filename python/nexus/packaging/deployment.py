"""Puts a deployment together: the document that nexusd is sent."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nexus.errors import NexusError
from nexus.packaging import interpreter
from nexus.packaging.code import Source, add_code
from nexus.packaging.depot import Depot, text_digest
from nexus.packaging.guest_runtime import add_runtime
from nexus.packaging.requirements import add_requirements
from nexus.packaging.sdk_layer import add_sdk_layer

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
OFFLOADS = ("api", "http", "coupled")


@dataclass(frozen=True)
class Options:
    """How a function runs.

    :param memory_mib: memory limit of an instance.
    :param timeout_s: seconds that one invocation may take.
    :param max_instances: instances at a time; more invocations than that wait.
    :param keep_alive_s: seconds that an idle instance is kept.
    :param isolation: ``auto``, ``kvm`` or ``process``.
    :param offload: where AWS calls leave the guest: ``api`` or ``http``; ``coupled``: nowhere, its credentials are given to it.
    :param prewarm: instances to keep ready.
    :param tmp_mib: size of ``/tmp``.
    :param environment: variables for the function.
    :param requirements: a requirements file, or None.
    :param credentials: whose requests the function makes: a credentials file, or ``profile:NAME``; None: the node's.
    :param policy: what the function's I/O may reach (docs/protocols.md); None allows AWS and public addresses.
    :param python: interpreter to run on; by default the one behind the running environment.
    """

    memory_mib: int = 256
    timeout_s: int = 30
    max_instances: int = 10
    keep_alive_s: int = 300
    isolation: str = "auto"
    offload: str = "api"
    prewarm: int = 0
    tmp_mib: int = 512
    environment: dict[str, str] = field(default_factory=dict)
    requirements: Path | None = None
    policy: dict[str, Any] | None = None
    credentials: str | None = None
    python: Path | None = None


@dataclass(frozen=True)
class Package:
    """A function on disk, ready to be deployed or run.

    :param layers: module directories after the code, in order of precedence: requirements first, so that a function's own
        boto3 wins over the layer's, as in Lambda.
    """

    handler: str
    code: Path
    layers: tuple[Path, ...]
    runtime: Path
    python: interpreter.Interpreter

    @property
    def directories(self) -> tuple[Path, ...]:
        """All of its directories in the depot."""
        return (self.code, *self.layers, self.runtime)

    @property
    def digest(self) -> str:
        """Content hash that names the version."""
        return text_digest(self.handler, self.python.version, *(str(path.name) for path in self.directories))


def build(depot: Depot, source: Source, options: Options) -> Package:
    """Copy, install and compile everything that the function needs into the depot."""
    python = interpreter.find(options.python)
    layers = []
    if options.requirements is not None:
        layers.append(add_requirements(depot, options.requirements, python.executable))
    layers.append(add_sdk_layer(depot, python.executable))
    return Package(
        source.handler,
        add_code(depot, source, python.executable),
        tuple(layers),
        add_runtime(depot, python.executable),
        python,
    )


def document(package: Package, options: Options) -> dict[str, Any]:
    """The body of ``PUT /nexus/v1/functions/NAME``."""
    return {
        "handler": package.handler,
        "code": str(package.code),
        "layers": [str(path) for path in package.layers],
        "runtime": str(package.runtime),
        "python": str(package.python.executable),
        "roots": [str(path) for path in package.python.roots],
        "memory_mib": options.memory_mib,
        "timeout_s": options.timeout_s,
        "tmp_mib": options.tmp_mib,
        "environment": options.environment,
        "max_instances": options.max_instances,
        "keep_alive_s": options.keep_alive_s,
        "isolation": options.isolation,
        "offload": options.offload,
        "digest": package.digest,
        "prewarm": options.prewarm,
        **({"policy": options.policy} if options.policy is not None else {}),
        **({"credentials": _credentials(options.credentials)} if options.credentials is not None else {}),
    }


def _credentials(text: str) -> dict[str, str]:
    kind, colon, name = text.partition(":")
    return {"profile": name} if colon and kind == "profile" else {"file": str(Path(text).absolute())}


def check_name(name: str) -> str:
    """The name, where Lambda would accept it.

    :raises NexusError: it is none.
    """
    if not _NAME.fullmatch(name):
        raise NexusError(f"{name!r} is no function name", "use 1 to 64 letters, digits, hyphens and underscores (--name)")
    return name

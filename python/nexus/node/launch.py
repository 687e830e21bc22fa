"""Start and end a node: the local store and nexusd, on loopback, detached."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nexus import paths
from nexus.client import Client
from nexus.errors import NexusError
from nexus.node import credentials, endpoints, processes
from nexus.node.processes import Process
from nexus.node.record import STATE_HINT, NodeRecord

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEFAULT_PORT = 9100
DEFAULT_STORE_PORT = 9101
ISOLATIONS = ("auto", "kvm", "process")


@dataclass(frozen=True)
class Settings:
    """How to start a node.

    :param port: of the Lambda API on 127.0.0.1; 0 takes a free one.
    :param store_port: of the local S3 store; 0 takes a free one.
    :param isolation: ``auto``, ``kvm`` or ``process``. ``auto`` refuses where KVM does not work.
    :param region: what functions and clients are told.
    :param max_instances: instances of all functions together.
    :param shells: empty microVMs kept ready for cold starts, 0 to 64.
    :param store_round_trip_ms: milliseconds that the store is away from nexusd; for measurements.
    :param store_directory: for what the local store of a new node keeps; by default ``store`` in its state directory, which
        is a link to it otherwise.
    :param tidy_ms: rest after which an instance gives back memory that shows what its snapshot shows, or nearly, and after four
        more what KVM keeps for its memory; 0: never.
    :param cgroups: put all instances into a control group, where the node may make one (it says in its log where not).
    :param deadline: seconds that each process may take until it serves.
    :param endpoints: name for ``boto3.client`` and URL of AWS services that this node has endpoints of its own for;
        S3's, if it is among them, stands for the node's store.
    """

    port: int = DEFAULT_PORT
    store_port: int = DEFAULT_STORE_PORT
    isolation: str = "auto"
    region: str = "us-east-1"
    max_instances: int = 100
    shells: int = 2
    store_round_trip_ms: float = 0.0
    store_directory: Path | None = None
    tidy_ms: int = 5000
    deadline: float = 20.0
    cgroups: bool = True
    endpoints: tuple[tuple[str, str], ...] = ()


def up(state: Path, settings: Settings) -> NodeRecord:
    """Start a node whose state is in ``state``, and wait until it serves.

    :raises NexusError: one runs there already, or a process did not come up; nothing is left running then.
    """
    if settings.isolation not in ISOLATIONS:
        raise NexusError(f"isolation {settings.isolation!r} is none of {', '.join(ISOLATIONS)}")
    try:
        str(state).encode()
    except UnicodeEncodeError:
        raise NexusError(f"the state directory {os.fsencode(state)!r} has a name that is not UTF-8", STATE_HINT) from None
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise NexusError(f"the state directory {state} cannot be made ({error.strerror})", STATE_HINT) from error
    try:
        return _up(state, settings)
    except OSError as error:
        message = f"the node's files in {state} cannot be written ({error})"
        raise NexusError(message, "make it writable and its disk roomy, or " + STATE_HINT) from error


def _up(state: Path, settings: Settings) -> NodeRecord:
    with _lock(state):
        running = NodeRecord.load(state)
        if running is not None and running.alive():
            raise NexusError(f"a node with state {state} runs already, at {running.url}", "end it with `nexus down`")
        started: dict[str, Process] = {}
        try:
            record = _start(state, settings, started)
        except BaseException:
            for process in started.values():
                process.end(grace=2.0)
            raise
        record.save(state)
        return record


def down(state: Path) -> bool:
    """End the node whose state is in ``state``; False where none ran."""
    with _lock(state):
        record = NodeRecord.load(state)
        if record is None:
            return False
        # nexusd first: it ends its instances, whose last writes still find the store.
        ended = [record.processes[name].end() for name in sorted(record.processes, reverse=True)]
        if record.alive():
            raise NexusError(f"the node with state {state} did not end", "look at its logs, then end it by hand")
        NodeRecord.forget(state)
        return any(ended)


def find(state: Path) -> NodeRecord:
    """The running node whose state is in ``state``.

    :raises NexusError: none runs.
    """
    record = NodeRecord.load(state)
    if record is None:
        raise NexusError(f"no node runs with state {state}", "start one with `nexus up`")
    dead = [name for name, process in record.processes.items() if not process.alive()]
    if dead:
        names = " and ".join(dead)
        raise NexusError(
            f"{names} of the node with state {state} died (its log is in {state / 'logs'})",
            "run `nexus down`, then `nexus up`",
        )
    return record


def restart_store(state: Path) -> NodeRecord:
    """Start the node's store again where it has ended, at the address it had."""
    with _lock(state):
        record = NodeRecord.load(state)
        if record is None:
            raise NexusError(f"no node runs with state {state}", "start one with `nexus up`")
        if record.processes["nexus-store"].alive():
            return record
        port = int(record.store_url.rpartition(":")[2])
        started: dict[str, Process] = {}
        _start_store(state, Settings(store_port=port), started)
        record = replace(record, processes={**record.processes, **started})
        record.save(state)
        return record


def _start_store(state: Path, settings: Settings, started: dict[str, Process]) -> str:
    store = state / "store"
    if settings.store_directory is not None and not store.exists():
        store.symlink_to(settings.store_directory.absolute())
    store.mkdir(exist_ok=True, mode=0o700)
    address_file = state / "store.json"
    address_file.unlink(missing_ok=True)
    log = state / "logs" / "nexus-store.log"
    arguments = [
        str(paths.binary("nexus-store")),
        *("--listen", f"127.0.0.1:{settings.store_port}"),
        *("--directory", str(store)),
        *("--credentials", str(credentials.ensure(state))),
        *("--address-file", str(address_file)),
    ]
    started["nexus-store"] = processes.start(arguments, log)
    return _await_address(address_file, started["nexus-store"], log, settings)


def _start_delay(state: Path, store_url: str, settings: Settings, started: dict[str, Process]) -> str:
    address_file = state / "delay.json"
    address_file.unlink(missing_ok=True)
    log = state / "logs" / "nexus-delay.log"
    arguments = [
        *(sys.executable, "-m", "nexus.node.delay"),
        *("--upstream", store_url.removeprefix("http://")),
        *("--round-trip-ms", str(settings.store_round_trip_ms)),
        *("--address-file", str(address_file)),
    ]
    started["nexus-delay"] = processes.start(arguments, log)
    return _await_address(address_file, started["nexus-delay"], log, settings)


def _start(state: Path, settings: Settings, started: dict[str, Process]) -> NodeRecord:
    secret = credentials.ensure(state)
    store_url = _start_store(state, settings, started)
    endpoint = _start_delay(state, store_url, settings, started) if settings.store_round_trip_ms else store_url
    home = state / "nexusd"
    home.mkdir(exist_ok=True, mode=0o700)
    address_file = home / "nexusd.json"
    address_file.unlink(missing_ok=True)
    configuration = state / "nexusd.toml"
    configuration.write_text(_toml(home, secret, endpoint, settings), encoding="utf-8")
    log = state / "logs" / "nexusd.log"
    started["nexusd"] = processes.start([str(paths.binary("nexusd")), "--config", str(configuration)], log)
    url = _await_address(address_file, started["nexusd"], log, settings)
    _await_health(url, started["nexusd"], log, settings)
    return NodeRecord(url, store_url, settings.region, settings.isolation, dict(started))


def _toml(home: Path, secret: Path, store_url: str, settings: Settings) -> str:
    # JSON's strings are TOML's basic strings.
    text = json.dumps
    own = {name: url for service, url in settings.endpoints for name in endpoints.names(service)}
    every = {"s3": store_url, **own}
    lines = "".join(f"{name} = {text(url)}\n" for name, url in every.items())
    return (
        f'listen = "127.0.0.1:{settings.port}"\n'
        f"state = {text(str(home))}\n"
        f"vmm = {text(str(paths.binary('nexus-vmm')))}\n"
        f"isolation = {text(settings.isolation)}\n"
        f"allow_process = {text(settings.isolation == 'process')}\n"
        f"region = {text(settings.region)}\n"
        f"max_instances = {settings.max_instances}\n"
        f"shells = {settings.shells}\n"
        f"tidy_ms = {settings.tidy_ms}\n"
        f"cgroups = {text(settings.cgroups)}\n"
        f"\n[endpoints]\n{lines}"
        f"\n[credentials]\nfile = {text(str(secret))}\n"
    )


def _await_address(path: Path, process: Process, log: Path, settings: Settings) -> str:
    deadline = time.monotonic() + settings.deadline
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError, KeyError):
            document = json.loads(path.read_text(encoding="utf-8"))
            if document.get("pid") in (None, process.pid):
                return f"http://{document['address']}"
        if not process.alive():
            raise _did_not_start(log, "it ended")
        time.sleep(0.005)
    raise _did_not_start(log, f"it did not serve within {settings.deadline:.0f} s")


def _await_health(url: str, process: Process, log: Path, settings: Settings) -> None:
    client = Client(url, timeout=2.0)
    deadline = time.monotonic() + settings.deadline
    while time.monotonic() < deadline:
        with contextlib.suppress(NexusError):
            if client.send("GET", "/healthz")[0] == 200:  # noqa: PLR2004
                return
        if not process.alive():
            raise _did_not_start(log, "it ended")
        time.sleep(0.01)
    raise _did_not_start(log, f"it was not healthy within {settings.deadline:.0f} s")


def _did_not_start(log: Path, reason: str) -> NexusError:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        lines = []
    last = f" (last words: {lines[-1][:400]})" if lines else ""
    return NexusError(f"{log.stem} did not start, {reason}{last}", f"look at {log}; `nexus doctor` checks the machine")


@contextlib.contextmanager
def _lock(state: Path) -> Iterator[None]:
    """One `up` or `down` at a time in a state directory."""
    if not state.is_dir():
        yield
        return
    descriptor = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NexusError(f"another `nexus up` or `nexus down` works on {state}", "wait for it") from None
        yield
    finally:
        os.close(descriptor)

"""``nexus deploy``, ``invoke``, ``logs`` and ``delete``."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nexus.cli.options import state_option
from nexus.errors import FunctionError, NexusError, ServiceError

if TYPE_CHECKING:
    from typing import TextIO

# Kept in step with nexus.packaging.deployment, whose import these commands do not all need.
_ISOLATIONS = ("auto", "kvm", "process")
_OFFLOADS = ("api", "http", "coupled")
_WRITES = ("sync", "commit", "journal")
_POLL_S = 0.3


@click.command()
@click.argument("source", metavar="FILE:HANDLER")
@click.option("--name", help="Name of the function.  [default: the file's]")
@click.option("--memory", type=click.IntRange(32, 65536), default=256, show_default=True, help="MiB an instance may use.")
@click.option("--timeout", type=click.IntRange(1, 900), default=30, show_default=True, help="Seconds for one invocation.")
@click.option("--requirements", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Packages to install.")
@click.option("--env", "environment", multiple=True, metavar="KEY=VALUE", help="Variable for the function; repeatable.")
@click.option("--max-instances", type=click.IntRange(1, 10_000), default=10, show_default=True)
@click.option(
    "--keep-alive", type=click.IntRange(0, 86_400), default=300, show_default=True, help="Seconds that idle instances stay."
)
@click.option("--isolation", type=click.Choice(_ISOLATIONS), default="auto", show_default=True)
@click.option(
    "--offload", type=click.Choice(_OFFLOADS), default="api", show_default=True, help="Where AWS calls leave the guest."
)
@click.option("--prewarm", type=click.IntRange(0, 1000), default=0, show_default=True, help="Instances to keep ready.")
@click.option("--credentials", metavar="FILE|profile:NAME", help="Whose AWS requests it makes.  [default: the node's]")
@click.option(
    "--policy",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="JSON or TOML file: services, buckets and hosts that the function may use.",
)
@click.option(
    "--writes",
    type=click.Choice(_WRITES),
    default="sync",
    show_default=True,
    help="When S3 PUTs are answered; docs/writes.md says what each mode promises.",
)
@click.option(
    "--prefetch", multiple=True, metavar="TEMPLATE", help="Object to read ahead, as 's3://{bucket}/{key}'; repeatable."
)
@click.option("--prefetch-learn", is_flag=True, help="Read ahead what the function is seen to read.")
@click.option(
    "--python", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Interpreter.  [default: this one]"
)
@state_option
def deploy(
    *,
    source: str,
    name: str | None,
    memory: int,
    timeout: int,
    requirements: Path | None,
    environment: tuple[str, ...],
    max_instances: int,
    keep_alive: int,
    isolation: str,
    offload: str,
    prewarm: int,
    policy: Path | None,
    credentials: str | None,
    writes: str,
    prefetch: tuple[str, ...],
    prefetch_learn: bool,
    python: Path | None,
    state: Path,
) -> None:
    """Deploy a Lambda handler: FILE.py:FUNCTION, or DIRECTORY:MODULE.FUNCTION.

    The code is copied; change it and deploy again.
    """
    from nexus.packaging.policy import read_policy
    from nexus.sdk.node import Node

    if offload == "coupled":
        click.echo("warning: coupled gives the function its credentials; use scoped, short-lived ones", err=True)
    node = Node.connect(state)
    began = time.monotonic()
    try:
        chosen = node.deploy(
            source,
            name,
            memory_mib=memory,
            timeout_s=timeout,
            requirements=requirements,
            environment=dict(_variable(text) for text in environment),
            max_instances=max_instances,
            keep_alive_s=keep_alive,
            isolation=isolation,
            offload=offload,
            prewarm=prewarm,
            credentials=credentials,
            policy=None if policy is None else read_policy(policy),
            writes=writes,
            prefetch=prefetch,
            prefetch_learn=prefetch_learn,
            python=python,
        )
    except ServiceError as error:
        for part in (error.body.get("log"), _trace(error.body.get("stackTrace"))):
            if part:
                click.echo(str(part).rstrip(), err=True)
        raise
    click.echo(f"{chosen} deployed in {time.monotonic() - began:.2f} s; try: nexus invoke {chosen} '{{}}'")


def _variable(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise click.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--env")
    return key, value


def _trace(lines: object) -> str:
    return "".join(str(line) for line in lines) if isinstance(lines, list) else ""


@click.command()
@click.argument("name")
@click.argument("event", default="{}", metavar="EVENT|@FILE|-")
@click.option("--log", is_flag=True, help="Show the invocation's log, on standard error.")
@state_option
def invoke(*, name: str, event: str, log: bool, state: Path) -> int:
    """Invoke a function with a JSON event and print what it returns.

    EVENT is the JSON itself, @FILE, or - for standard input. Exit status 1: the function failed.
    """
    from nexus.sdk.node import Node

    payload = _event(event)
    node = Node.connect(state)
    try:
        result = node.call(name, payload, log=log)
    except FunctionError as error:
        if error.log:
            click.echo(error.log.rstrip(), err=True)
        click.echo(_shown(error.payload, sys.stderr), err=True)
        return 1
    if result.log:
        click.echo(result.log.rstrip(), err=True)
    try:
        text = _shown(result.payload, sys.stdout)
    except NexusError:
        # Bytes that the handler returned: as they are.
        click.echo(result.content)
    else:
        click.echo(text)
    return 0


def _shown(value: object, stream: TextIO) -> str:
    """A result as JSON, in characters that the stream has."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode(stream.encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(value)
    return text


def _event(text: str) -> bytes:
    if text == "-":
        content = sys.stdin.buffer.read()
        source = "standard input"
    elif text.startswith("@"):
        source = text[1:]
        try:
            content = Path(source).read_bytes()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise NexusError(f"the event file {source} cannot be read ({reason})") from error
    else:
        content, source = os.fsencode(text), "the event"
    try:
        json.loads(content)
    except RecursionError as error:
        raise NexusError(f"{source} is nested too deeply") from error
    except ValueError as error:
        raise NexusError(f"{source} is not JSON ({error})", "quote it for the shell: '{\"key\": 1}'") from error
    return content


@click.command()
@click.argument("name")
@click.option("-n", "--lines", type=click.IntRange(1, 100_000), default=100, show_default=True)
@click.option("-f", "--follow", is_flag=True, help="Go on as lines come in, until Ctrl-C.")
@state_option
def logs(*, name: str, lines: int, follow: bool, state: Path) -> None:
    """Show the last lines of a function's log."""
    from nexus.sdk.node import Node

    node = Node.connect(state)
    page = node.log_page(name, lines=lines)
    click.echo(page.content, nl=not follow and not page.content.endswith(b"\n") and bool(page.content))
    while follow:
        position = page.end
        page = node.log_page(name, after=position)
        if (lost := page.start - position) > 0:
            click.echo(f"nexus: {lost} bytes of the log were gone before they could be shown", err=True)
        if page.content:
            click.echo(page.content, nl=False)
        else:
            time.sleep(_POLL_S)


@click.command()
@click.argument("name")
@state_option
def delete(*, name: str, state: Path) -> None:
    """Delete a function and end its instances."""
    from nexus.sdk.node import Node

    Node.connect(state).delete(name)
    click.echo(f"{name} deleted")

"""``nexus up``, ``down`` and ``status``."""

from __future__ import annotations

import json
import re
import signal
import time
from typing import TYPE_CHECKING

import click

from nexus.cli.options import state_option
from nexus.errors import NexusError
from nexus.node import launch

if TYPE_CHECKING:
    from pathlib import Path

    from nexus.node.record import NodeRecord


@click.command()
@click.option(
    "--port", type=click.IntRange(0, 65535), default=launch.DEFAULT_PORT, show_default=True, help="Lambda API; 0: any."
)
@click.option(
    "--store-port",
    type=click.IntRange(0, 65535),
    default=launch.DEFAULT_STORE_PORT,
    show_default=True,
    help="S3 store; 0: any.",
)
@click.option("--isolation", type=click.Choice(launch.ISOLATIONS), default="auto", show_default=True)
@click.option("--region", default="us-east-1", show_default=True)
@click.option("--max-instances", type=click.IntRange(1, 100_000), default=100, show_default=True)
@click.option(
    "--shells", type=click.IntRange(0, 64), default=2, show_default=True, help="Empty microVMs kept ready for cold starts."
)
@click.option(
    "--cgroups/--no-cgroups",
    default=True,
    show_default=True,
    help="A control group for all instances together, where one can be had: at most 7/8 of the host's memory.",
)
@click.option(
    "--endpoint",
    "endpoints",
    multiple=True,
    metavar="SERVICE=URL",
    help="Where an AWS service is, such as dynamodb=http://127.0.0.1:8000; by default AWS's own.",
)
@click.option("--foreground", is_flag=True, help="Stay, and end the node on Ctrl-C.")
@state_option
def up(
    *,
    port: int,
    store_port: int,
    isolation: str,
    region: str,
    max_instances: int,
    shells: int,
    cgroups: bool,
    endpoints: tuple[str, ...],
    foreground: bool,
    state: Path,
) -> None:
    """Start a node with a local object store, on loopback."""
    pairs = tuple(_endpoint(text) for text in endpoints)
    settings = launch.Settings(port, store_port, isolation, region, max_instances, shells, cgroups=cgroups, endpoints=pairs)
    record = launch.up(state, settings)
    click.echo(f"node   {record.url}   (Lambda API)")
    click.echo(f"store  {record.store_url}   (S3; credentials in {state / 'credentials.json'})")
    click.echo(f"state  {state}")
    if foreground:
        _stay(state, record)


def _stay(state: Path, record: NodeRecord) -> None:
    def end(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    try:
        while all(process.alive() for process in record.processes.values()):
            time.sleep(0.5)
    except KeyboardInterrupt:
        launch.down(state)
        return
    launch.down(state)
    raise NexusError("a process of the node died", f"look at the logs in {state / 'logs'}")


@click.command()
@state_option
def down(*, state: Path) -> None:
    """End the node and all of its instances. Functions and objects stay."""
    if launch.down(state):
        click.echo("node ended")
    else:
        click.echo(f"no node ran with state {state}")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@state_option
def status(*, as_json: bool, state: Path) -> None:
    """Show what the node is and does."""
    from nexus.sdk.node import Node

    node = Node.connect(state)
    fields = node.status()
    if as_json:
        click.echo(json.dumps({**fields, "url": node.url, "store_url": node.store_url, "state": str(state)}))
        return
    reason = f" ({fields['reason']})" if fields.get("reason") else ""
    for name, value in (
        ("node", f"{node.url}, nexusd {fields.get('version')}, pid {fields.get('pid')}"),
        ("store", node.store_url),
        ("isolation", f"{fields.get('isolation')}{reason}"),
        ("functions", fields.get("functions")),
        ("instances", fields.get("instances")),
        ("state", state),
        ("logs", state / "logs"),
    ):
        click.echo(f"{name:<10} {value}")


def _endpoint(text: str) -> tuple[str, str]:
    service, _, url = text.partition("=")
    if not re.fullmatch(r"[a-z0-9-]+", service) or not url.startswith(("http://", "https://")):
        raise NexusError(f"{text!r} is no endpoint", "write SERVICE=URL, such as dynamodb=http://127.0.0.1:8000")
    if service == "s3":
        raise NexusError("the endpoint of s3 is the node's own store", "leave it out")
    return service, url

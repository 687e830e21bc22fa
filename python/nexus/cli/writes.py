"""``nexus writes``."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import click

from nexus.cli.options import state_option

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.option("--retry", type=int, metavar="ID", help="Do a parked write, whatever the object is by now.")
@click.option("--forget", type=int, metavar="ID", help="Give a parked write up; its bytes are deleted.")
@state_option
def writes(*, as_json: bool, retry: int | None, forget: int | None, state: Path) -> None:
    """List deferred writes; decide on those that could not be done.

    A journalled write is parked where somebody else has written the object since, or where the store refuses it.
    """
    from nexus.sdk.node import Node

    node = Node.connect(state)
    if retry is not None:
        node.retry_write(retry)
        click.echo(f"write {retry} is tried again")
    if forget is not None:
        node.forget_write(forget)
        click.echo(f"write {forget} is given up")
    if retry is not None or forget is not None:
        return
    found = node.writes()
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(
        f"{found['pending']} pending ({found['pending_bytes']} bytes); since the node's start {found['deferred']} deferred, "
        f"{found['stored']} stored, {found['failed']} failed, {found['conflicts']} in conflict, {found['replayed']} replayed"
    )
    for write in found["parked"]:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(write["accepted_ms"] / 1000))
        kind = "conflict" if write["conflict"] else "failed"
        click.echo(
            f"{write['id']:>6}  {when}  {kind:<8}  {write['function']}  s3://{write['bucket']}/{write['key']} "
            f"({write['bytes']} bytes)  {write['reason']}"
        )

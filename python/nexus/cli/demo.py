"""``nexus demo``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option("--isolation", type=click.Choice(("auto", "kvm", "process")), default="auto", show_default=True)
@click.option("--photos", type=click.IntRange(1), default=None, help="Use only this many photographs.")
@click.option("--state", type=click.Path(path_type=Path, file_okay=False), help="Keep the state here.  [default: temporary]")
def demo(*, isolation: str, photos: int | None, state: Path | None) -> int:
    """Start a node, make a thumbnail of every photograph in microVMs, check them, compare and report."""
    from nexus.demo.run import run

    return run(isolation, photos, state)

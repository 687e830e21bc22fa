"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

from nexus import paths

state_option = click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    callback=lambda _context, _parameter, value: paths.default_state() if value is None else value.absolute(),
    help="State directory.  [default: $NEXUS_STATE or ~/.local/state/nexus]",
)

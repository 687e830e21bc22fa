"""``nexus run``: any program in a microVM of its own."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import click

from nexus import paths
from nexus.errors import NexusError

_PYTHON = re.compile(r"(python|python3|python3\.\d+)")


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--memory", type=click.IntRange(16, 1 << 20), default=256, show_default=True, help="MiB the program may use.")
@click.option(
    "--ro",
    "readable",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Directory it may read.",
)
@click.argument("program")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(*, memory: int, readable: tuple[Path, ...], program: str, arguments: tuple[str, ...]) -> None:
    """Run PROGRAM in a microVM: standard streams attached, its exit status returned.

    Write -- before PROGRAM where its arguments begin with a dash.
    """
    path, directories = resolve(program)
    command = [str(paths.binary("nexus-vmm")), "run", "--memory", str(memory)]
    for directory in dict.fromkeys([*(d.absolute() for d in readable), *directories]):
        command += ["--ro", str(directory)]
    os.execv(command[0], [*command, "--", str(path), *arguments])


def resolve(program: str) -> tuple[Path, tuple[Path, ...]]:
    """The program's real path, and the host directories it needs.

    A Python comes with its standard library; of a virtual environment, its base interpreter is run.
    """
    found = shutil.which(program)
    if found is None:
        raise NexusError(f"there is no program {program}", "check the name, or give its path")
    path = Path(found).absolute()
    if not _PYTHON.fullmatch(path.name):
        return path.resolve(), (path.resolve().parent,)
    from nexus.packaging import interpreter

    python = interpreter.find(path)
    return python.executable, python.roots

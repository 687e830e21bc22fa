"""Entry point. Commands are imported when they are called, so that starting costs little."""

from __future__ import annotations

import importlib
import io
import os
import sys

import click

from nexus.errors import NexusError

# Characters of an error that has no sentence of ours.
_LONGEST = 500

# command: (module, what the command list says about it)
COMMANDS = {
    "up": ("nexus.cli.node", "Start a node with a local object store."),
    "down": ("nexus.cli.node", "End the node."),
    "status": ("nexus.cli.node", "Show what the node is and does."),
    "deploy": ("nexus.cli.functions", "Deploy a Lambda handler."),
    "invoke": ("nexus.cli.functions", "Invoke a function."),
    "logs": ("nexus.cli.functions", "Show a function's log."),
    "delete": ("nexus.cli.functions", "Delete a function."),
    "ps": ("nexus.cli.instances", "List functions and instances."),
    "top": ("nexus.cli.instances", "Watch functions and instances."),
    "writes": ("nexus.cli.writes", "List deferred writes; decide on those that could not be done."),
    "run": ("nexus.cli.run", "Run any program in a microVM."),
    "doctor": ("nexus.cli.doctor", "Check this machine, and say what to do."),
    "bench": ("nexus.cli.bench", "Measure."),
    "demo": ("nexus.cli.demo", "Photographs in, thumbnails out: all of it at work."),
}


class _Lazy(click.Group):
    """A group that knows its commands by name and imports only the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[cmd_name][0])
        command = getattr(module, cmd_name)
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="nexus", prog_name="nexus")
def cli() -> None:
    """Serverless functions in KVM microVMs whose I/O is done by the host."""


def main() -> None:
    """Run the command line; every failure is one sentence and a status other than 0."""
    for stream in (sys.stdout, sys.stderr):
        # What the terminal's encoding has no form for is shown as an escape.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = cli.main(prog_name="nexus", standalone_mode=False)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except click.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except NexusError as error:
        click.echo(f"nexus: {error}", err=True)
        sys.exit(1)
    except (OSError, UnicodeError) as error:
        # Of a file, a directory or a name that no command has a sentence of its own for.
        click.echo(f"nexus: {' '.join(str(error).split())[:_LONGEST]}", err=True)
        sys.exit(1)
    sys.exit(status if isinstance(status, int) else 0)


if __name__ == "__main__":
    main()

"""The typer application: mounts the commands, those of other packages too."""

from __future__ import annotations

import logging
from importlib.metadata import entry_points
from typing import Annotated

import typer

from ortgpt import __version__
from ortgpt.cli import adopt, bench, doctor, generate, inspect, score

logger = logging.getLogger("ortgpt")

app = typer.Typer(
    name="ortgpt",
    help="GPT-2 text generation without PyTorch: export a checkpoint once, then generate anywhere.",
    epilog="Start with:  ortgpt export models/storyteller -o models/storyteller-fp32",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ortgpt {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


app.command()(generate.generate)
app.command()(adopt.adopt)
app.command()(score.score)
app.command()(inspect.inspect)
app.command()(bench.bench)
app.command()(doctor.doctor)


def add_commands() -> None:
    """Mount the commands that installed packages offer; one that is broken only warns."""
    for entry in entry_points(group="ortgpt.commands"):
        try:
            command = entry.load()
        except Exception as error:
            logger.warning("the command %s can't be loaded: %s", entry.name, error)
        else:
            app.command(entry.name)(command)

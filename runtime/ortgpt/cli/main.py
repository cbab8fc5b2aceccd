"""The `ortgpt` command: mounts the commands and turns errors into exit codes.

Exit codes: 0 ok, 1 failure, 2 usage, 3 bundle or checkpoint, 4 provider, 130 interrupted,
141 the reader of stdout went away, 143 terminated.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from importlib.metadata import entry_points
from types import FrameType
from typing import Annotated, NoReturn

import typer

from ortgpt import __version__
from ortgpt.cli import doctor, generate, inspect, score
from ortgpt.errors import BundleError, CheckpointError, OptionError, OrtgptError, ProviderError

EXIT_CODES: tuple[tuple[type[OrtgptError], int], ...] = (
    (OptionError, 2),
    (BundleError, 3),
    (CheckpointError, 3),
    (ProviderError, 4),
)

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
app.command()(score.score)
app.command()(inspect.inspect)
app.command()(doctor.doctor)


def main() -> NoReturn:
    """Run the command line; ends the process with one of the exit codes above."""
    signal.signal(signal.SIGTERM, _terminate)
    logging.getLogger("ortgpt").addHandler(_WarningsToStderr())
    for stream in (sys.stdout, sys.stderr):
        # A terminal that can't show a character gets a "?", never a traceback.
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    code = 1
    try:
        for entry in entry_points(group="ortgpt.commands"):
            app.command(entry.name)(entry.load())
        app()
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BrokenPipeError:
        code = 141
    except KeyboardInterrupt:
        code = 130
    except OrtgptError as error:
        code = report(error)
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        _say(f"error: {type(error).__name__}: {error}\nhint: run it again with --debug for the traceback")
    _leave(code)


def report(error: OrtgptError) -> int:
    """Print an error as `error:` and `hint:` lines; returns its exit code."""
    if "--debug" in sys.argv:
        raise error
    message = str(error)
    if isinstance(error, OptionError):
        message = message.replace(error.option, _flag(error.option), 1)
    _say(f"error: {message}")
    if error.hint:
        _say(f"hint: {error.hint}")
    return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), 1)


class _WarningsToStderr(logging.Handler):
    """The library's warnings, one line each, unless --quiet."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING and "--quiet" not in sys.argv:
            _say(f"{record.levelname.lower()}: {record.getMessage()}")


def _flag(option: str) -> str:
    """The command line's name of a library option: max_new_tokens -> --max-new-tokens."""
    if option.startswith(("prompt", "text", "strategy")):
        return option
    return "--" + option.replace("_", "-")


def _say(line: str) -> None:
    try:
        print(line, file=sys.stderr)
    except OSError:  # nobody reads stderr: nothing left to tell
        return


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _leave(code: int) -> NoReturn:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = 141
    except OSError as error:
        _say(f"error: can't write the output: {error.strerror}")
        code = 1
    if code == 141:
        # Python would complain once more when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)

"""The `ortgpt` command: runs the application and turns whatever happens into an exit code.

Exit codes: 0 ok, 1 failure, 2 usage, 3 bundle or checkpoint, 4 provider or memory, 130 interrupted,
141 the reader of stdout went away, 143 terminated.

Imports little, so that Ctrl-C is answered properly from the first moments on.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import signal
import sys
import traceback
from types import FrameType
from typing import NoReturn

from ortgpt.errors import BundleError, CheckpointError, OptionError, OrtgptError, ProviderError

EXIT_CODES: tuple[tuple[type[Exception], int], ...] = (
    (OptionError, 2),
    (BundleError, 3),
    (CheckpointError, 3),
    (ProviderError, 4),
    (MemoryError, 4),
)
# Constraints are made of repeated flags that are named in the singular.
FLAGS = {"keywords": "keyword", "forbidden": "forbid", "boost": "keyword_boost"}
DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def main() -> NoReturn:
    """Run the command line; ends the process with one of the exit codes above."""
    signal.signal(signal.SIGTERM, _terminate)
    _prepare_streams()
    _prepare_environment()
    logging.getLogger("ortgpt").addHandler(_WarningsToStderr())
    try:
        code = _run()
    except KeyboardInterrupt:  # a second one, while the first was being answered
        code = 130
    except SystemExit as exit_:
        code = _exit_code(exit_)
    _leave(code)


def _run() -> int:
    try:
        from ortgpt.cli.app import add_commands, app

        add_commands()
        app()
    except SystemExit as exit_:
        return _exit_code(exit_)
    except BrokenPipeError:
        return 141
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return report(error)
    return 0


def report(error: Exception) -> int:
    """Print an error as `error:` and `hint:` lines; returns its exit code."""
    wants_traceback = "--debug" in sys.argv
    if wants_traceback:
        _say("".join(traceback.format_exception(error)).rstrip())
    message, hint = str(error), None
    if isinstance(error, OrtgptError):
        hint = error.hint
        if isinstance(error, OptionError):
            _, named, rest = message.partition(error.option)
            message = _flag(error.option) + _with_flags(rest) if named else message
            hint = hint and _with_flags(hint)
    elif isinstance(error, OSError) and error.filename is None and error.errno in DISK_IS_FULL:
        message = _unwritable(error)
    elif isinstance(error, MemoryError):
        message = f"not enough memory: {message}".removesuffix(": ")
    else:
        message = f"{type(error).__name__}: {message}"
        hint = None if wants_traceback else "run it again with --debug for the traceback"
    _say(f"error: {message}")
    if hint:
        _say(f"hint: {hint}")
    return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), 1)


class _WarningsToStderr(logging.Handler):
    """The library's warnings, one line each, unless --quiet."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING and "--quiet" not in sys.argv:
            _say(f"{record.levelname.lower()}: {record.getMessage()}")


def _flag(option: str) -> str:
    """The command line's name of a library option: max_new_tokens -> --max-new-tokens."""
    if re.match(r"(prompts?|text|strategy)(\[|$)", option):
        return option
    name, bracket, index = option.partition("[")
    return "--" + FLAGS.get(name, name).replace("_", "-") + bracket + index


def _with_flags(text: str) -> str:
    """A message with the flags of the options that it names; one-word names are left: they may be words."""
    from ortgpt.cli.generate import OPTION_FIELDS, STRATEGY_FIELDS

    names = sorted(
        (name for name in (*OPTION_FIELDS, *STRATEGY_FIELDS) if "_" in name), key=len, reverse=True
    )
    return re.sub(rf"(?<![\w-])({'|'.join(names)})(?!\w)", lambda found: _flag(found[1]), text)


def _prepare_streams() -> None:
    if sys.stdin is None:  # closed: its number must not go to the next file that is opened
        os.open(os.devnull, os.O_RDONLY)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # nothing is shown; print(file=None) would go to stdout
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        # A terminal that can't show a character gets a "?", never a traceback.
        getattr(sys, name).reconfigure(errors="replace")


def _prepare_environment() -> None:
    """What onnxruntime reads; the library leaves the environment alone, a process of ours need not."""
    # It would replace our session's settings by the model's, and the weights would not be found.
    os.environ.pop("ORT_LOAD_CONFIG_FROM_MODEL", None)


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads stderr: nothing left to tell
        print(line, file=sys.stderr)


def _unwritable(error: OSError) -> str:
    return f"can't write the output: {error.strerror}"


def _exit_code(exit_: SystemExit) -> int:
    if isinstance(exit_.__context__, BrokenPipeError):  # typer makes a 1 of it
        return 141
    return exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _end_at_once(number: int, frame: FrameType | None) -> NoReturn:
    os._exit(128 + number)


def _leave(code: int) -> NoReturn:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end_at_once)  # nothing is left that would need an orderly end
    try:
        sys.stdout.flush()
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            code = 141
        elif code == 0:
            _say(f"error: {_unwritable(error)}")
            code = 1
        # Python would complain once more when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if code in (130, 143):
        # onnxruntime may still be loading in its thread; taking Python down around it aborts.
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)

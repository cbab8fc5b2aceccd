"""Tries a grammar out where it can do no harm.

llguidance is native code: a hostile grammar can overflow its stack, which no handler catches, or keep it busy
for minutes. So a grammar is compiled in a child process first, with limits on time and memory.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from ortgpt.constraints.grammar_backend import library_folder
from ortgpt.errors import OptionError, OrtgptError

WALL_SECONDS = 1.8
_START = "import sys; sys.path += sys.argv[1:]; from ortgpt.constraints.grammar_child import main; main()"


def check_in_child(option: str, lark: str) -> None:
    """Compile a grammar in a child process and return if that went well.

    Raises OptionError naming the option where the grammar is wrong, crashes the compiler, takes more than
    about 1.8 seconds or too much memory; OrtgptError where no child can be started.
    """
    try:
        done = subprocess.run(
            [_interpreter(), "-I", "-S", "-B", "-c", _START, *_package_folders()],
            input=lark.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            timeout=WALL_SECONDS,
            start_new_session=True,  # Ctrl-C is for the caller, who then ends the child
        )
    except subprocess.TimeoutExpired:
        raise OptionError(option, "takes too long to compile") from None
    except OSError as error:
        raise _no_child(str(error)) from None
    if done.returncode < 0:
        raise OptionError(option, _died_of(-done.returncode))
    try:
        problem = json.loads(done.stdout)
    except ValueError:
        raise _no_child(f"it ended with exit code {done.returncode} and no answer") from None
    if problem is not None:
        raise OptionError(option, f"can't be followed: {problem}")


def _interpreter() -> str:
    if getattr(sys, "frozen", False) or not sys.executable:
        raise _no_child("this program brings no Python interpreter of its own")
    return sys.executable


def _package_folders() -> list[str]:
    """Where the child finds this package and llguidance: behind the standard library, not before it."""
    folders = [Path(__file__).resolve().parents[2], library_folder()]
    return list(dict.fromkeys(map(str, folders)))


def _environment() -> dict[str, str]:
    """Nothing but what the interpreter may need to find its shared libraries."""
    return {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}


def _died_of(number: int) -> str:
    if number == signal.SIGXCPU:
        return "takes too long to compile"
    return f"is too large or too deep to compile (the compiler died of signal {number})"


def _no_child(reason: str) -> OrtgptError:
    return OrtgptError(
        f"the grammar can't be tried out in a child process before it is used: {reason}",
        hint="Choice, short patterns and small plain schemas are used without one",
    )

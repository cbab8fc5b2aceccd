"""Compiles one grammar in a process of its own, which may crash, starve or run out of time.

Run by `ortgpt.constraints.grammar_check`. The grammar comes in on stdin; one JSON value goes out on stdout:
null, or what is wrong with the grammar.
"""

from __future__ import annotations

import json
import resource
import sys
import threading

from ortgpt.constraints.grammar_backend import MatcherError, byte_vocabulary, make_matcher

MEMORY_BYTES = 1 << 30
CPU_SECONDS = 1
STACK_BYTES = 16 << 20  # a quarter of what the caller has, so that what passes here passes there


def main() -> None:
    set_limits()
    threading.stack_size(STACK_BYTES)
    thread = threading.Thread(target=_compile)
    thread.start()
    thread.join()


def set_limits() -> None:
    """Of this process, for good: memory, seconds of work, and no core dump."""
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_AS, MEMORY_BYTES)
    _limit(resource.RLIMIT_CPU, CPU_SECONDS)


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _compile() -> None:
    problem = None
    try:
        make_matcher(byte_vocabulary(), sys.stdin.buffer.read().decode())
    except MatcherError as error:
        problem = str(error)
    sys.stdout.write(json.dumps(problem))
    sys.stdout.flush()

"""Processes that keep a model loaded and work only when told to, so that no two ever run at once."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Self

_PROCESSES = multiprocessing.get_context("spawn")


class Reply(NamedTuple):
    """What a call returned, how long it took, and the processor time of its process."""

    value: Any
    seconds: float
    cpu_s: float


class Worker:
    """A fresh process that holds the object made by `make()`; `call` runs one of its methods there.

    make: picklable, without arguments (a module's function or class, or a partial of one).
    The process writes what its libraries print to stderr. Leaving the with block ends it.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._pipe, theirs = _PROCESSES.Pipe()
        self._process = _PROCESSES.Process(target=_serve, args=(theirs, make), daemon=True)
        self._process.start()
        theirs.close()

    def call(self, method: str, *arguments: Any) -> Reply:
        """Run held.method(*arguments); without arguments an attribute's value is as good as a method."""
        self._pipe.send((method, arguments))
        try:
            reply: Reply = self._pipe.recv()
        except EOFError:
            raise SystemExit("error: a worker ended early; its own message stands above") from None
        return reply

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def run_apart(function: Callable[..., None], *arguments: Any) -> None:
    """Run a function in a process of its own, for the memory and the imports that it leaves behind."""
    process = _PROCESSES.Process(target=_run, args=(function, arguments))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"error: {function.__name__} failed; its own message stands above")


def _run(function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.dup2(2, 1)  # stdout belongs to the report
    function(*arguments)


def _serve(pipe: Connection, make: Callable[[], Any]) -> None:
    os.dup2(2, 1)
    held = make()
    while True:
        try:
            method, arguments = pipe.recv()
        except EOFError:
            return
        target = getattr(held, method)
        begin, cpu_begin = time.perf_counter(), time.process_time()
        value = target(*arguments) if callable(target) else target
        pipe.send(Reply(value, time.perf_counter() - begin, time.process_time() - cpu_begin))

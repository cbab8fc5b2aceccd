"""Work in a thread of its own, so that Ctrl-C is answered while onnxruntime is busy."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def call_interruptibly(work: Callable[[], T], name: str) -> T:
    """work() in a thread of that name; the main thread stays free to hear signals. Errors are work's own."""
    values: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            values.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True, name=name)
    thread.start()
    while thread.is_alive():
        thread.join(0.05)
    if errors:
        raise errors[0]
    return values[0]

"""A stream of events that can be closed at any time and still knows what came of it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from ortgpt.generation import Generation
from ortgpt.results import Event, Result


class Stream(Iterator[Event]):
    """Iterate for events; `close()` (or `with`, or dropping it) cancels at once and frees the cache.

    Nothing runs ahead of the reader: every `next` computes one token, in the reader's own thread.
    """

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._events = generation.events()

    def __next__(self) -> Event:
        try:
            _, event = next(self._events)
        except StopIteration:
            for error in self._generation.errors.values():
                raise error from None
            raise
        return event

    def close(self) -> None:
        """Cancel; sequences that have not ended are "cancelled" in the result."""
        self._events.close()

    @property
    def is_open(self) -> bool:
        """Whether it has neither ended nor been closed."""
        return inspect.getgeneratorstate(self._events) != inspect.GEN_CLOSED

    @property
    def result(self) -> Result:
        """What has been generated. Closes the stream if it has not ended."""
        self.close()
        return self._generation.results()[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

"""A state that follows from a sequence's generated ids, remembered for the sequences that are running."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from ortgpt.interfaces import Ids

S = TypeVar("S")


class Fold(Generic[S]):
    """state(ids) = advance(state(ids[:-1]), ids[-1]), beginning with `start` for no ids.

    `advance` returns a new state and leaves the old one as it is, so states may be asked for in any
    order: rows change places, beams share a beginning, guessed tokens are taken back. The latest
    `size` states are kept; what has been dropped is computed again from the nearest one left.
    """

    def __init__(self, start: S, advance: Callable[[S, int], S], *, size: int = 256) -> None:
        self._start, self._advance, self._size = start, advance, size
        self._states: OrderedDict[bytes, S] = OrderedDict()

    def __call__(self, generated: Ids, /) -> S:
        """generated int64 (length,)"""
        key = generated.tobytes()
        found = self._states.get(key)
        if found is not None:
            self._states.move_to_end(key)
            return found
        known = len(generated)
        state = self._start
        width = generated.itemsize
        while known > 0:  # the nearest beginning that is still known, mostly one token shorter
            known -= 1
            nearest = self._states.get(key[: known * width]) if known else None
            if nearest is not None:
                state = nearest
                break
        for count in range(known, len(generated)):
            state = self._advance(state, int(generated[count]))
            self._states[key[: (count + 1) * width]] = state
        while len(self._states) > self._size:
            self._states.popitem(last=False)
        return state

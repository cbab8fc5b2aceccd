"""State that follows from a history, one id after the other, without relying on the order of calls."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np

from ortgpt.interfaces import Ids

S = TypeVar("S")

ID_BYTES = 8


class Fold(Generic[S]):
    """A pure function of token ids that remembers its latest results.

    state([]) is `start`, state(ids) is advance(state(ids[:-1]), ids[-1]). From a history that it remembers,
    one token on is one step; from one that it has forgotten it starts at the longest beginning that it still
    knows. So rows may change places, share their past and take tokens back.

    start    the state before any id
    advance  (state, id) -> a new state; never changes the one that it is given
    size     how many states are remembered: for a step of all beams and that of their parents
    """

    def __init__(self, start: S, advance: Callable[[S, int], S], size: int = 256) -> None:
        self._start, self._advance, self._size = start, advance, size
        self._states: OrderedDict[bytes, S] = OrderedDict()

    def __call__(self, ids: Ids) -> S:
        """The state after ids, int64 (length,). What `advance` raises is passed on and not remembered."""
        key = np.asarray(ids, np.int64).tobytes()
        if not key:
            return self._start
        if key in self._states:
            self._states.move_to_end(key)
            return self._states[key]
        state = self._from_known(ids, key)
        self._states[key] = state
        if len(self._states) > self._size:
            self._states.popitem(last=False)
        return state

    def _from_known(self, ids: Ids, key: bytes) -> S:
        known, state = len(ids) - 1, self._start
        while known > 0:
            beginning = key[: known * ID_BYTES]
            if beginning in self._states:
                self._states.move_to_end(beginning)
                state = self._states[beginning]
                break
            known -= 1
        for token_id in ids[known:].tolist():
            state = self._advance(state, token_id)
        return state

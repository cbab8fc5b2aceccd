"""The token ids of one row, prompt and output, in an array that grows in place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ortgpt.interfaces import Ids


class History:
    """Appending is amortised constant; `ids` is a view, valid until the next append."""

    def __init__(self, prompt: Sequence[int] | Ids) -> None:
        self._length = self._prompt_length = len(prompt)
        self._buffer: Ids = np.empty(2 * self._length + 32, np.int64)
        self._buffer[: self._length] = prompt

    @property
    def ids(self) -> Ids:
        """int64 (length,)"""
        return self._buffer[: self._length]

    @property
    def prompt(self) -> Ids:
        """int64 (length,): what it began with."""
        return self._buffer[: self._prompt_length]

    @property
    def num_new(self) -> int:
        """How many have been appended to the prompt."""
        return self._length - self._prompt_length

    def __len__(self) -> int:
        return self._length

    def append(self, token_id: int) -> None:
        if self._length == len(self._buffer):
            self._buffer = np.concatenate([self._buffer, np.empty_like(self._buffer)])
        self._buffer[self._length] = token_id
        self._length += 1

    def extended(self, token_id: int) -> History:
        """A new history with one token more; this one stays as it is."""
        twin = History(self.ids)
        twin._prompt_length = self._prompt_length
        twin.append(token_id)
        return twin

"""Guessing tokens: what that takes, and guesses from what a text repeats.

A wrong guess does no harm: `search/speculative.py` checks every one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ortgpt.interfaces import Ids
from ortgpt.search.history import History
from ortgpt.search.sample import SampledRow

# A run of two ids that has come before is followed by the same id often enough to pay for the guess;
# beyond four, longer runs make hardly better guesses.
LONGEST_RUN, SHORTEST_RUN = 4, 2


class Drafter(Protocol):
    """Guesses how the rows of a decoder go on."""

    def propose(self, rows: Sequence[SampledRow], rooms: Sequence[int]) -> list[list[int]]:
        """At most rooms[i] ids to come after row i's history; none where there is no guess."""
        ...

    def keep(self, rows: Sequence[int] | Ids) -> None:
        """Row i is what row rows[i] was; the others have ended."""
        ...

    def join(self, rows: Sequence[SampledRow]) -> None:
        """These come behind; each has its prompt and no token more."""
        ...

    def release(self) -> None:
        """Free what it holds; it can't be used afterwards."""
        ...


class PromptLookup:
    """What came after the last ids of prompt and output when they came before (Saxena 2023)."""

    def __init__(self, num_rows: int) -> None:
        self._indices = [RunIndex() for _ in range(num_rows)]

    def propose(self, rows: Sequence[SampledRow], rooms: Sequence[int]) -> list[list[int]]:
        return [
            index.propose(row.history, room) if room else []
            for index, row, room in zip(self._indices, rows, rooms, strict=True)
        ]

    def keep(self, rows: Sequence[int] | Ids) -> None:
        self._indices = [self._indices[row] for row in rows]

    def join(self, rows: Sequence[SampledRow]) -> None:
        self._indices = [*self._indices, *(RunIndex() for _ in rows)]

    def release(self) -> None:
        self._indices = []


class RunIndex:
    """Where each run of a few ids was last followed by another: constant work per token of a history."""

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._followers: dict[tuple[int, ...], int] = {}  # run -> place of the id after it

    def propose(self, history: History, room: int) -> list[int]:
        """What followed the longest of the last runs, at its latest place; at most `room` ids."""
        self._learn(history.ids[len(self._ids) :].tolist())
        for length in range(LONGEST_RUN, SHORTEST_RUN - 1, -1):
            place = self._followers.get(tuple(self._ids[-length:]))
            if place is not None:
                # Where what followed is the end of the text itself, it goes on with the draft: a cycle.
                period = len(self._ids) - place
                return [self._ids[place + step % period] for step in range(room)]
        return []

    def _learn(self, new: list[int]) -> None:
        for token_id in new:
            # The last run has no follower until now, so that looking it up finds an earlier one.
            for length in range(SHORTEST_RUN, LONGEST_RUN + 1):
                if len(self._ids) >= length:
                    self._followers[tuple(self._ids[-length:])] = len(self._ids)
            self._ids.append(token_id)

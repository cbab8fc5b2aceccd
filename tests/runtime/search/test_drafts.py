"""Prompt lookup against a slow search through the whole text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ortgpt.search.drafts import LONGEST_RUN, SHORTEST_RUN, PromptLookup
from ortgpt.search.history import History
from ortgpt.search.sample import SampledRow, pick_best


def make_row(ids: list[int]) -> SampledRow:
    return SampledRow(History(ids), lambda token_ids, logits: logits, pick_best)


def propose(ids: list[int], room: int = 5) -> list[int]:
    return PromptLookup(1).propose([make_row(ids)], [room])[0]


def slow_lookup(ids: list[int], room: int) -> list[int]:
    """The latest earlier place of the longest run that the text ends with, by trying all."""
    for length in range(LONGEST_RUN, SHORTEST_RUN - 1, -1):
        for place in range(len(ids) - 1, length - 1, -1):
            if len(ids) > length and ids[place - length : place] == ids[-length:]:
                text = ids.copy()
                for step in range(room):
                    text.append(text[place + step])
                return text[len(ids) :]
    return []


@pytest.mark.parametrize("seed", range(20))
def test_lookup_finds_what_a_search_through_all_of_the_text_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 2 + seed % 5, 120).tolist()
    row, lookup = make_row(ids[:30]), PromptLookup(1)
    for count in range(30, 120):
        if count % 3 != seed % 3:  # it need not be asked every time
            assert lookup.propose([row], [6]) == [slow_lookup(ids[:count], 6)]
        row.history.append(ids[count])


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([1, 2, 3, 4, 5, 6, 7, 1, 2], [3, 4, 5, 6, 7]),
        ([1, 2, 3, 9, 1, 2, 4, 9, 1, 2], [4, 9, 1, 2, 4]),  # the latest place; the draft goes on with itself
        ([9, 1, 2, 3, 8, 1, 2, 4, 9, 1, 2], [3, 8, 1, 2, 4]),  # rather the longer run
        ([7, 7, 7], [7, 7, 7, 7, 7]),
        ([1, 2, 3, 1], []),  # one id alone says too little
        ([1], []),
        ([1, 2, 3, 4], []),
    ],
)
def test_what_is_proposed(ids: list[int], expected: list[int]) -> None:
    assert propose(ids) == expected


def test_no_more_is_proposed_than_there_is_room_for() -> None:
    ids = [1, 2, 3, 4, 5, 1, 2]
    assert [propose(ids, room) for room in (0, 1, 2)] == [[], [3], [3, 4]]


def test_rows_have_indices_of_their_own_that_follow_them() -> None:
    first, second = make_row([1, 2, 3, 1, 2]), make_row([1, 2, 4, 1, 2])
    lookup: Any = PromptLookup(2)
    assert lookup.propose([first, second], [1, 1]) == [[3], [4]]
    lookup.keep(np.array([1]))
    second.history.append(4)
    second.history.append(1)
    assert lookup.propose([second], [3]) == [[2, 4, 1]]


def test_the_work_per_token_does_not_grow_with_the_text() -> None:
    lookup, row = PromptLookup(1), make_row([])
    reads = []

    class Watched(list):
        def __getitem__(self, item):
            reads.append(item)
            return super().__getitem__(item)

    lookup._indices[0]._ids = Watched()
    rng = np.random.default_rng(0)
    counts = []
    for _ in range(400):
        row.history.append(int(rng.integers(0, 50)))
        reads.clear()
        lookup.propose([row], [4])
        counts.append(len(reads))
    assert max(counts) <= 2 * (LONGEST_RUN - SHORTEST_RUN + 1) + 4

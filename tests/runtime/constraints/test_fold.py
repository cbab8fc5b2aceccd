"""States remembered by the ids that lead to them."""

from __future__ import annotations

import random

import numpy as np

from ortgpt.constraints.fold import Fold


def make_counting_fold(size: int) -> tuple[Fold[tuple[int, ...]], list[int]]:
    advanced: list[int] = []

    def advance(state: tuple[int, ...], token_id: int) -> tuple[int, ...]:
        advanced.append(token_id)
        return (*state, token_id)

    return Fold((), advance, size=size), advanced


def test_a_state_is_that_of_its_ids_in_whatever_order_they_come() -> None:
    rng = random.Random(3)
    fold, _ = make_counting_fold(size=5)
    for _ in range(500):
        ids = [rng.randint(0, 2) for _ in range(rng.randint(0, 6))]
        assert fold(np.array(ids, np.int64)) == tuple(ids)


def test_a_sequence_that_grows_is_advanced_once_per_token() -> None:
    fold, advanced = make_counting_fold(size=4)
    for length in range(50):
        fold(np.arange(length))
        fold(np.arange(length))
    assert advanced == list(range(49))


def test_branches_share_their_beginning() -> None:
    fold, advanced = make_counting_fold(size=64)
    fold(np.arange(10))
    fold(np.array([*range(9), 77]))
    assert advanced == [*range(10), 77]


def test_no_more_states_are_kept_than_asked_for() -> None:
    fold, _ = make_counting_fold(size=7)
    for start in range(100):
        fold(np.arange(start, start + 20))
    assert len(fold._states) == 7

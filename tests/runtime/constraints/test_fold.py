"""State that follows from a history, against the plain loop."""

from __future__ import annotations

import numpy as np
import pytest

from ortgpt.constraints.fold import Fold
from ortgpt.interfaces import Ids


def history(*ids: int) -> Ids:
    return np.array(ids, np.int64)


class Counting:
    """The text of the ids so far; counts its steps."""

    def __init__(self) -> None:
        self.steps = 0

    def __call__(self, state: str, token_id: int) -> str:
        self.steps += 1
        return f"{state}.{token_id}"


def plain(ids: Ids) -> str:
    return "".join(f".{token_id}" for token_id in ids)


@pytest.mark.parametrize("size", [1, 2, 7, 256])
def test_the_state_follows_from_the_ids_in_any_order_of_calls(size: int) -> None:
    rng = np.random.default_rng(size)
    fold = Fold("", Counting(), size)
    histories = [history()]
    for _ in range(400):  # a tree of histories, asked for at random, parents and children and strangers
        parent = histories[rng.integers(len(histories))]
        histories.append(np.append(parent, rng.integers(4)))
        asked = histories[rng.integers(len(histories))]
        assert fold(asked) == plain(asked)


def test_one_token_on_is_one_step() -> None:
    advance = Counting()
    fold = Fold("", advance)
    for length in range(1, 100):
        fold(np.arange(length))
    assert advance.steps == 99


def test_a_remembered_history_takes_no_step() -> None:
    advance = Counting()
    fold = Fold("", advance)
    fold(history(1, 2))
    fold(history(1, 2))
    assert advance.steps == 2


def test_several_tokens_on_start_at_the_longest_known_beginning() -> None:
    advance = Counting()
    fold = Fold("", advance)
    fold(history(1, 2, 3))
    assert fold(history(1, 2, 3, 4, 5)) == ".1.2.3.4.5"
    assert advance.steps == 5


def test_beams_of_two_steps_are_all_remembered() -> None:
    advance = Counting()
    fold = Fold("", advance, size=256)
    for step in range(1, 4):
        for beam in range(128):  # in one order, then the other: a parent is asked for again
            fold(np.full(step, beam))
    assert advance.steps == 3 * 128


def test_the_latest_used_are_kept_and_the_others_forgotten() -> None:
    advance = Counting()
    fold = Fold("", advance, size=2)
    fold(history(1))
    fold(history(2))
    fold(history(1))
    fold(history(3))  # forgets 2
    assert advance.steps == 3
    fold(history(1))
    assert advance.steps == 3
    assert fold(history(2)) == ".2"
    assert advance.steps == 4


def test_an_error_is_passed_on_and_not_remembered() -> None:
    broken = True

    def advance(state: str, token_id: int) -> str:
        if broken and token_id == 3:
            raise ValueError("three")
        return f"{state}.{token_id}"

    fold = Fold("", advance)
    with pytest.raises(ValueError, match="three"):
        fold(history(1, 3))
    broken = False
    assert fold(history(1, 3)) == ".1.3"


def test_views_of_a_longer_array_and_other_integers_are_the_same_history() -> None:
    advance = Counting()
    fold = Fold("", advance)
    fold(history(1, 2))
    assert fold(np.array([1, 9, 2, 9], np.int64)[::2]) == ".1.2"
    assert fold(np.array([1, 2], np.int32)) == ".1.2"
    assert advance.steps == 2

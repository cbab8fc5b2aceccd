"""DRY against hand-computed rows and a slow search written from the definition."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from ortgpt.interfaces import Floats
from ortgpt.logits.dry import Breakers, apply_dry

LARGEST = float(np.finfo(np.float32).max)


def penalties(
    token_ids: Sequence[int],
    *,
    multiplier: float = 1.0,
    base: float = 2.0,
    allowed_length: int = 1,
    breakers: Breakers | None = None,
    vocab_size: int = 10,
) -> dict[int, float]:
    """What is subtracted from which id."""
    scores = apply_dry(
        np.zeros(vocab_size, np.float32),
        np.array(token_ids, np.int64),
        multiplier=multiplier,
        base=base,
        allowed_length=allowed_length,
        breakers=breakers or {},
    )
    return {token_id: -float(score) for token_id, score in enumerate(scores) if score}


def slow_penalties(
    ids: list[int], multiplier: float, base: float, allowed: int, breakers: Breakers
) -> dict[int, float]:
    """For every place the longest common ending, compared id by id, not past the last breaker."""
    unbroken = len(ids)
    for start in reversed(range(len(ids))):
        fitting = [t for t in breakers.get(ids[start], ()) if ids[start + 1 :][: len(t)] == list(t)]
        if fitting:
            unbroken = len(ids) - start - 1 - max(map(len, fitting))
            break
    longest: dict[int, int] = {}
    for place in range(1, len(ids)):
        length = 0
        while length < min(place, unbroken) and ids[place - 1 - length] == ids[len(ids) - 1 - length]:
            length += 1
        if length >= allowed:
            longest[ids[place]] = max(length, longest.get(ids[place], 0))
    return {
        token_id: multiplier * base ** (length - allowed)
        for token_id, length in longest.items()
        if () not in breakers.get(token_id, ())
    }


def test_a_token_that_continues_a_repeat_is_penalised_by_its_length() -> None:
    # The row ends with 1 2; it came before, followed by 3. 2 alone came also, followed by 5.
    ids = [1, 2, 3, 2, 5, 1, 2]
    assert penalties(ids, allowed_length=1) == {3: 2.0, 5: 1.0}
    assert penalties(ids, allowed_length=2) == {3: 1.0}
    assert penalties(ids, allowed_length=3) == {}
    assert penalties(ids, multiplier=0.5, base=3, allowed_length=1) == {3: 1.5, 5: 0.5}


def test_the_longest_repeat_that_a_token_continues_counts() -> None:
    assert penalties([4, 2, 3, 1, 2, 3, 1, 2], allowed_length=1) == {3: 8.0}


def test_a_repeat_may_overlap_itself() -> None:
    assert penalties([7, 7, 7, 7], allowed_length=1) == {7: 4.0}
    assert penalties([1, 2, 1, 2, 1], allowed_length=2) == {2: 2.0}


def test_with_no_free_length_every_token_that_has_come_later_than_first_is_penalised() -> None:
    assert penalties([3, 4, 5], allowed_length=0) == {4: 1.0, 5: 1.0}


def test_a_repeat_does_not_reach_back_over_a_breaker() -> None:
    ids = [1, 9, 2, 3, 1, 9, 2]
    assert penalties(ids, allowed_length=1) == {3: 4.0}
    assert penalties(ids, allowed_length=1, breakers={9: [()]}) == {3: 1.0}
    assert penalties(ids, allowed_length=2, breakers={9: [()]}) == {}


def test_nothing_is_penalised_right_after_a_breaker() -> None:
    assert penalties([1, 9, 2, 1, 9], allowed_length=1, breakers={9: [()]}) == {}


def test_a_breaker_of_several_tokens_needs_all_of_them() -> None:
    ids = [8, 9, 2, 3, 8, 9, 2]
    assert penalties(ids, breakers={8: [(9,)]}) == {3: 1.0}
    assert penalties(ids, breakers={8: [(7,)]}) == {3: 4.0}
    assert penalties([*ids, 8], breakers={8: [(9,)]}) == {9: 1.0}  # 8 alone breaks nothing


def test_a_breaker_of_one_token_is_never_penalised() -> None:
    ids = [1, 2, 9, 1, 2]
    assert penalties(ids) == {9: 2.0}
    assert penalties(ids, breakers={9: [(), (1,)]}) == {}
    assert penalties(ids, breakers={9: [(3,)]}) == {9: 2.0}


def test_penalties_equal_the_slow_search() -> None:
    rng = np.random.default_rng(11)
    num_penalised = 0
    for case in range(600):
        ids = rng.integers(0, rng.integers(2, 6), rng.integers(1, 40)).tolist()
        multiplier, base = float(rng.uniform(0.1, 2)), float(rng.choice([1.0, 1.2, 1.75, 4.0]))
        allowed = int(rng.integers(0, 5))
        breakers: Breakers = [{}, {0: [()]}, {1: [(0,), (0, 2)], 2: [()]}, {3: [(3,)], 0: [(1, 1)]}][case % 4]
        found = penalties(ids, multiplier=multiplier, base=base, allowed_length=allowed, breakers=breakers)
        expected = slow_penalties(ids, multiplier, base, allowed, breakers)
        assert found == pytest.approx(expected, rel=1e-6)
        num_penalised += len(expected)
    assert num_penalised > 600


def test_no_text_or_one_token_changes_nothing() -> None:
    assert penalties([]) == penalties([3]) == penalties([3], allowed_length=0) == {}
    assert penalties([3, 3], allowed_length=10**400) == {}


@pytest.mark.parametrize("base", [1 + 1e-12, 1.75, 1e30, 1e308])
@pytest.mark.parametrize("multiplier", [1e-320, 1.0, 1e308])
def test_long_repeats_and_extreme_values_neither_overflow_nor_exclude(base: float, multiplier: float) -> None:
    """FAULTS 34"""
    row: Floats = np.array([3, -LARGEST, 0], np.float32)
    for token_id in (0, 1):
        scores = apply_dry(
            row,
            np.full(1000, token_id),
            multiplier=multiplier,
            base=base,
            allowed_length=2,
            breakers={},
        )
        assert np.isfinite(scores).all()
        assert scores[token_id] <= row[token_id]


def test_a_repeat_longer_than_the_largest_power_is_penalised_as_much_as_can_be() -> None:
    found = penalties([5] * 400, base=1.75, allowed_length=2, multiplier=1.0)
    assert found[5] == pytest.approx(LARGEST, rel=1e-6)

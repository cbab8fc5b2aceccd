"""Draws against the distribution they come from."""

from __future__ import annotations

import numpy as np
import pytest

from ortgpt.errors import ConstraintError
from ortgpt.interfaces import Floats
from ortgpt.logits.cumulative import find_crossing
from ortgpt.logits.drawing import draw
from ortgpt.numerics import softmax

INF = np.inf


class FixedUniform:
    """Stands in for a generator and counts what is asked of it."""

    def __init__(self, value: float) -> None:
        self.value, self.num_calls = value, 0

    def random(self) -> float:
        self.num_calls += 1
        return self.value


def draw_slowly(scores: Floats, uniform: float) -> int:
    """The first id at which the summed probability is above the uniform number."""
    total = 0.0
    for token_id, probability in enumerate(softmax(scores)):
        total += float(probability)
        if total > uniform:
            return token_id
    raise AssertionError("the probabilities do not sum to 1")


def chi_square(counts: np.ndarray, probabilities: np.ndarray) -> float:
    expected = probabilities * counts.sum()
    assert not counts[expected == 0].any()
    possible = expected > 0
    return float(((counts - expected)[possible] ** 2 / expected[possible]).sum())


@pytest.mark.parametrize("padding", [0, 1000])
def test_drawn_tokens_follow_the_distribution(padding: int) -> None:
    """Pearson's test, 19 degrees of freedom: 43.82 is exceeded once in a thousand."""
    scores = np.random.default_rng(3).normal(0, 1, 20).astype(np.float32)
    row = np.full(20 + 2 * padding, -INF, np.float32)
    row[padding : padding + 20] = scores
    rng = np.random.default_rng(42)
    counts = np.bincount([draw(row, rng) - padding for _ in range(20_000)], minlength=20)
    assert counts.size == 20
    assert chi_square(counts, softmax(scores)) < 43.82


def test_drawn_tokens_of_a_large_vocabulary_follow_the_distribution(row: Floats) -> None:
    """Ids in 20 groups of like probability: at most 19 degrees of freedom."""
    probabilities = softmax(row)
    groups = np.minimum(19, (20 * (probabilities.cumsum() - probabilities)).astype(int))
    rng = np.random.default_rng(7)
    counts = np.bincount([groups[draw(row, rng)] for _ in range(4000)], minlength=20)
    assert chi_square(counts, np.bincount(groups, weights=probabilities, minlength=20)) < 43.82


@pytest.mark.parametrize("size", [1, 4, 255, 256, 257, 3000])
@pytest.mark.parametrize("num_left", [1, 3, None])
def test_draws_invert_the_cumulative_distribution_in_id_order(size: int, num_left: int | None) -> None:
    rng = np.random.default_rng(size)
    scores = rng.normal(0, 2, size).astype(np.float32)
    if num_left is not None:
        scores[rng.permutation(size)[num_left:]] = -INF
    for uniform in (*rng.random(20), 0.0):
        fixed = FixedUniform(float(uniform))
        assert draw(scores, fixed) == draw_slowly(scores, float(uniform))  # type: ignore[arg-type]
        assert fixed.num_calls == 1


def test_the_largest_uniform_draws_the_last_token_that_weighs_anything() -> None:
    uniform = FixedUniform(float(np.nextafter(1.0, 0.0)))
    for scores in ([0, 0, -INF], [0.1, 0.3, -200, -INF], [1e-3] * 3 + [-INF] * 700):
        row = np.array(scores, np.float32)
        assert draw(row, uniform) == np.flatnonzero(softmax(row) > 1e-40)[-1]  # type: ignore[arg-type]


def test_a_token_without_weight_is_never_drawn() -> None:
    row = np.array([-INF, -3e38, -500, 7, -500], np.float32)
    assert {draw(row, FixedUniform(u)) for u in (0.0, 0.5, 0.999)} == {3}  # type: ignore[arg-type]


@pytest.mark.parametrize("shift", [-3e38, -1e4, 1e4, 3e38])
def test_huge_and_small_scores_draw_without_overflow(shift: float) -> None:
    row = np.array([shift, shift, -INF], np.float32)
    assert [draw(row, FixedUniform(u)) for u in (0.25, 0.75)] == [0, 1]  # type: ignore[arg-type]


def test_the_same_seed_draws_the_same_tokens(row: Floats) -> None:
    first, second = np.random.default_rng([5, 0]), np.random.default_rng([5, 0])
    assert [draw(row, first) for _ in range(20)] == [draw(row, second) for _ in range(20)]


def test_nothing_left_is_a_constraint_error() -> None:
    """FAULTS 41"""
    with pytest.raises(ConstraintError):
        draw(np.full(4, -INF, np.float32), np.random.default_rng(0))


@pytest.mark.parametrize("size", [1, 100, 256, 257, 512, 2000])
def test_a_crossing_is_where_the_running_sum_reaches_the_share(size: int) -> None:
    rng = np.random.default_rng(size)
    weights = rng.integers(0, 4, size).astype(np.float32)  # whole numbers: sums are exact
    weights[rng.integers(size)] = 1
    sums = weights.cumsum(dtype=np.float64)
    for target in range(int(sums[-1])):
        share = (target + 0.5) / sums[-1]
        expected = int((sums < target + 0.5).sum())
        assert find_crossing(weights, share, "left") == expected
        assert find_crossing(weights, share, "right") == expected


def test_the_side_decides_where_the_sum_is_exactly_the_share() -> None:
    weights = np.array([0, 1, 0, 1, 2], np.float32)
    assert find_crossing(weights, 0.25, "left") == 1
    assert find_crossing(weights, 0.25, "right") == 3
    assert find_crossing(weights, 0.0, "left") == 0
    assert find_crossing(weights, 0.0, "right") == 1
    assert find_crossing(weights, 1.0, "right") == 4

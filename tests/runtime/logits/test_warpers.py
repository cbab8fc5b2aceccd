"""Warpers against transformers, hand-computed rows and the full sort that they avoid."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from filtered_rows import (
    apply_min_p,
    apply_top_k,
    apply_top_n_sigma,
    apply_top_p,
    apply_typical_p,
)
from transformers import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from ortgpt.interfaces import Floats, Ids
from ortgpt.logits.warpers import apply_temperature
from ortgpt.numerics import softmax

INF = np.inf
CASES = [
    *((apply_temperature, TemperatureLogitsWarper, t) for t in (0.1, 0.7, 1.0, 1.5, 20.0)),
    *((apply_top_k, TopKLogitsWarper, k) for k in (1, 2, 50, 392, 393, 1000, 50_256, 50_257)),
    *((apply_top_p, TopPLogitsWarper, p) for p in (0.01, 0.3, 0.5, 0.9, 0.95, 0.999)),
    *((apply_min_p, MinPLogitsWarper, p) for p in (0.0001, 0.05, 0.5, 1.0)),
    *((apply_typical_p, TypicalLogitsWarper, p) for p in (0.05, 0.2, 0.5, 0.9, 0.99)),
]
FILTERS = {
    "top_n_sigma": partial(apply_top_n_sigma, n=1.0),
    "top_k": partial(apply_top_k, k=3),
    "top_p": partial(apply_top_p, p=0.7),
    "min_p": partial(apply_min_p, min_p=0.2),
    "typical_p": partial(apply_typical_p, mass=0.7),
}


def floats(*values: float) -> Floats:
    return np.array(values, np.float32)


def logs(*probabilities: float) -> Floats:
    return np.log(np.array(probabilities)).astype(np.float32)


def kept(scores: Floats) -> list[int]:
    return np.flatnonzero(scores > -INF).tolist()


@pytest.mark.parametrize(
    ("apply", "reference", "value"), CASES, ids=[f"{case[0].__name__[6:]}={case[2]}" for case in CASES]
)
def test_a_warper_is_that_of_transformers(
    row: Floats,
    history: Ids,
    apply: Callable[[Floats, Any], Floats],
    reference: Any,
    value: float,
    assert_like_transformers: Callable[..., None],
) -> None:
    assert_like_transformers(apply(row, value), reference(value), history, row)


@pytest.mark.parametrize("first", [apply_top_k, None])
def test_filters_work_on_what_earlier_ones_left(
    row: Floats, history: Ids, first: Any, assert_like_transformers: Callable[..., None]
) -> None:
    """A few survivors take another path through the code than a whole row or half of one."""
    left = np.where(row > np.median(row), row, np.float32(-INF)) if first is None else first(row, 50)
    for apply, reference, value in CASES:
        if apply is not apply_temperature:
            assert_like_transformers(apply(left, value), reference(value), history, left)


def test_temperature_divides_the_distances_to_the_best() -> None:
    np.testing.assert_allclose(apply_temperature(floats(1, 3, -1, -INF), 0.5), floats(-4, 0, -8, -INF))


@pytest.mark.parametrize("temperature", [5e-324, 1e-320, 1e-45, 1e-38, 2e-38, 1e-30])
def test_a_tiny_temperature_leaves_the_best_alone(temperature: float) -> None:
    """FAULTS 34"""
    scores = apply_temperature(floats(-50, -40, -41, -3e38, -INF), temperature)
    np.testing.assert_array_equal(softmax(scores), [0, 1, 0, 0, 0])


@pytest.mark.parametrize("temperature", [1e30, 1e39, 1e308])
def test_a_huge_temperature_makes_the_kept_tokens_equal(temperature: float) -> None:
    """FAULTS 34"""
    np.testing.assert_allclose(
        softmax(apply_temperature(floats(9, -INF, 1, 5), temperature)), [1 / 3, 0, 1 / 3, 1 / 3]
    )


def test_top_k_keeps_the_k_best_and_ties_with_the_kth() -> None:
    assert kept(apply_top_k(floats(1, 4, 2, 3), 2)) == [1, 3]
    assert kept(apply_top_k(floats(3, 4, 3, 3), 2)) == [0, 1, 2, 3]
    assert kept(apply_top_k(floats(3, -INF, 1, -INF), 3)) == [0, 2]


@pytest.mark.parametrize("k", [0, 4, 5, 10**9])
def test_top_k_of_zero_or_more_than_the_vocabulary_is_off(k: int) -> None:
    """FAULTS 34"""
    assert kept(apply_top_k(floats(1, 4, 2, 3), k)) == [0, 1, 2, 3]


@pytest.mark.parametrize("k", [1, 7, 60, 300, 900])
def test_top_k_equals_a_full_sort_on_rows_full_of_ties(k: int) -> None:
    for seed in range(20):
        row = np.random.default_rng(seed).integers(0, 40, 1000).astype(np.float32)
        assert kept(apply_top_k(row, k)) == np.flatnonzero(row >= np.sort(row)[-k]).tolist()


def test_top_p_keeps_the_smallest_set_that_reaches_p() -> None:
    row = logs(0.125, 0.5, 0.125, 0.25)
    assert kept(apply_top_p(row, 0.49)) == [1]
    assert kept(apply_top_p(row, 0.51)) == [1, 3]
    assert kept(apply_top_p(row, 0.74)) == [1, 3]
    assert kept(apply_top_p(row, 1.0)) == [0, 1, 2, 3]


def test_top_p_reaches_p_exactly_where_the_sum_is_exact() -> None:
    assert kept(apply_top_p(floats(0, 0, 0, 0), 0.5)) == [0, 1]
    assert kept(apply_top_p(floats(0, 0, 0, 0), 0.75)) == [0, 1, 2]


def test_top_p_keeps_of_equal_tokens_at_the_border_those_with_lower_ids() -> None:
    assert kept(apply_top_p(floats(0, 1, 0, 0, 1), 0.5)) == [1, 4]
    assert kept(apply_top_p(floats(0, 1, 0, 0, 1), 0.75)) == [0, 1, 4]


def test_top_p_of_zero_keeps_the_best_token() -> None:
    """FAULTS 34"""
    assert kept(apply_top_p(floats(1, 4, 2, 4), 0.0)) == [1]


@pytest.mark.parametrize("size", [5, 1023, 1024, 5000])
def test_top_p_equals_a_full_sort(size: int) -> None:
    rng = np.random.default_rng(size)
    for scale in (0.01, 1, 4, 30):
        for p in (0.0, 0.1, 0.6, 0.95, 0.9999, 1 - 1e-12):
            row = (scale * rng.standard_normal(size)).astype(np.float32)
            order = np.argsort(-row, kind="stable")
            below = np.concatenate([[0], softmax(row)[order].cumsum()])[:-1]  # mass of the better ones
            if p == 0 or np.abs(below - p).min() > 1e-7:  # else float32 exponentials decide
                expected = order[: max(1, int((below < p).sum()))]
                assert kept(apply_top_p(row, p)) == sorted(expected.tolist()), (scale, p)


def test_min_p_is_relative_to_the_best_token() -> None:
    row = logs(0.5, 0.3, 0.14, 0.06)
    assert kept(apply_min_p(row, 0.59)) == [0, 1]
    assert kept(apply_min_p(row, 0.61)) == [0]
    assert kept(apply_min_p(row, 0.0)) == [0, 1, 2, 3]
    assert kept(apply_min_p(floats(2, 2, 1, 0), 1.0)) == [0, 1]


def test_top_n_sigma_keeps_what_is_within_n_deviations_of_the_best() -> None:
    row = floats(0, 2, 4, 6, 8)  # deviation 2.828
    assert kept(apply_top_n_sigma(row, 0)) == [4]
    assert kept(apply_top_n_sigma(row, 0.7)) == [4]
    assert kept(apply_top_n_sigma(row, 0.75)) == [3, 4]
    assert kept(apply_top_n_sigma(row, 2.2)) == [1, 2, 3, 4]
    assert kept(apply_top_n_sigma(floats(3, 3, 3), 1)) == [0, 1, 2]


@pytest.mark.parametrize("n", [0.5, 1.0, 2.3, 4.0])
@pytest.mark.parametrize("num_left", [2, 50, 30_000, None])
def test_top_n_sigma_takes_its_deviation_over_what_is_left(
    row: Floats, n: float, num_left: int | None
) -> None:
    left = row if num_left is None else apply_top_k(row, num_left)
    finite = [float(score) for score in left if score > -INF]
    mean = sum(finite) / len(finite)
    deviation = (sum((score - mean) ** 2 for score in finite) / len(finite)) ** 0.5
    expected = np.flatnonzero(left >= np.float64(max(finite)) - n * deviation)
    np.testing.assert_array_equal(np.flatnonzero(apply_top_n_sigma(left, n) > -INF), expected)


@pytest.mark.parametrize("temperature", [0.3, 3.0])
def test_top_n_sigma_does_not_depend_on_the_temperature(row: Floats, temperature: float) -> None:
    after = apply_top_n_sigma(apply_temperature(row, temperature), 2)
    np.testing.assert_array_equal(after > -INF, apply_top_n_sigma(row, 2) > -INF)


@pytest.mark.parametrize("n", [0.0, 1e-320, 1e308])
def test_extreme_deviations_do_not_overflow(n: float) -> None:
    """FAULTS 34"""
    largest = float(np.finfo(np.float32).max)
    survivors = kept(apply_top_n_sigma(floats(largest, -largest, 0, -INF), n))
    assert survivors == ([0, 1, 2] if n > 1 else [0])


def test_typical_p_keeps_what_is_nearest_the_entropy_first() -> None:
    # Entropy 1.168 nats; surprises 0.69, 1.20, 1.97, 2.81: the second token is the nearest.
    row = logs(0.5, 0.3, 0.14, 0.06)
    assert kept(apply_typical_p(row, 0.29)) == [1]
    assert kept(apply_typical_p(row, 0.79)) == [0, 1]
    assert kept(apply_typical_p(row, 0.81)) == [0, 1, 2]
    assert kept(apply_typical_p(row, 1.0)) == [0, 1, 2, 3]


def test_typical_p_keeps_ties_with_the_last_one() -> None:
    assert kept(apply_typical_p(floats(1, 1, 1, 1), 0.3)) == [0, 1, 2, 3]


@pytest.mark.parametrize("name", FILTERS)
def test_a_single_token_that_is_left_survives(name: str) -> None:
    """FAULTS 41"""
    row = floats(-INF, -INF, -7, -INF, -INF)
    np.testing.assert_array_equal(FILTERS[name](row), row)


@pytest.mark.parametrize("name", FILTERS)
def test_scores_at_the_ends_of_float32_do_not_overflow(name: str) -> None:
    """FAULTS 34"""
    largest = float(np.finfo(np.float32).max)
    scores = FILTERS[name](floats(largest, -largest, 0, -INF, 5))
    assert scores[0] == largest
    assert not np.isnan(scores).any()


@pytest.mark.parametrize("name", FILTERS)
def test_survivors_keep_their_scores(name: str, row: Floats) -> None:
    scores = FILTERS[name](row)
    survivors = kept(scores)
    assert 0 < len(survivors) < len(row)
    np.testing.assert_array_equal(scores[survivors], row[survivors])

"""Numeric kernels against torch and by hand."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from ortgpt.numerics import best_ids, bound_of_best, log_normaliser, log_softmax, softmax

INF, NAN = np.inf, np.nan


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(0).normal(-90, 8, (3, 5000)).astype(np.float32)


def test_softmax_and_its_logarithm_are_those_of_torch(rows: np.ndarray) -> None:
    exact = torch.tensor(rows, dtype=torch.float64)
    np.testing.assert_allclose(softmax(rows), exact.softmax(-1).numpy(), rtol=1e-12)
    np.testing.assert_allclose(log_softmax(rows), exact.log_softmax(-1).numpy(), rtol=1e-12)
    assert softmax(rows).dtype == log_softmax(rows).dtype == np.float64


def test_the_normaliser_is_the_logarithm_of_the_summed_exponentials(rows: np.ndarray) -> None:
    for row in rows:
        expected = torch.tensor(row, dtype=torch.float64).logsumexp(-1).item()
        assert log_normaliser(row) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "place", [-3e38, -1e5, -500, -105, -88, -62, -41, -33, 0, 39, 41, 80, 87, 89, 500, 3e38]
)
@pytest.mark.parametrize("size", [1, 300, 5000])
@pytest.mark.parametrize("spread", [0.0, 1.0, 9.0])
def test_the_normaliser_is_exact_wherever_the_row_lies(place: float, size: int, spread: float) -> None:
    noise = np.random.default_rng(size).normal(0, spread, size)
    row = (place + noise * (abs(place) < 1e30)).astype(np.float32)
    peak = row.max().astype(np.float64)
    expected = peak + np.log(np.exp(row.astype(np.float64) - peak).sum())
    assert log_normaliser(row) == pytest.approx(expected, abs=3e-7, rel=3e-7)
    assert log_normaliser(row, np.float64) == pytest.approx(expected, abs=1e-7, rel=1e-7)


@pytest.mark.parametrize("low", [-3e38, -200.0, -90.0, -20.0])
@pytest.mark.parametrize("high", [-10.0, 0.0, 60.0, 88.0, 200.0, 3e38])
def test_a_few_scores_far_above_all_others_count_wherever_they_stand(low: float, high: float) -> None:
    """The scores that are looked at first may say nothing of where the best ones lie."""
    row = np.full(5000, low, np.float32)
    row[[1, 1023, 4998]] = high
    expected = high + np.log(3 + 4997 * np.exp(max(low - high, -750)))
    assert log_normaliser(row) == pytest.approx(expected, rel=3e-7)
    row[0] = -INF
    assert log_normaliser(row) == pytest.approx(expected, rel=1e-4)


def test_threads_do_not_share_the_memory_of_their_sums() -> None:
    rows = [np.full(50_000, float(i), np.float32) for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda row: [log_normaliser(row) for _ in range(200)], rows))
    assert [len(set(values)) for values in found] == [1] * 8
    assert [values[0] for values in found] == pytest.approx([i + np.log(50_000) for i in range(8)])


@pytest.mark.parametrize("size", [1, 63, 64, 100, 5000])
@pytest.mark.parametrize("count", [1, 2, 10, 39, 40, 60, 5000])
def test_the_best_ids_are_those_of_a_full_sort(size: int, count: int) -> None:
    count = min(count, size)
    rng = np.random.default_rng(size)
    for row in (rng.normal(0, 3, size), rng.integers(0, 30, size), np.zeros(size), np.full(size, -7.0)):
        scores = row.astype(np.float32)
        assert best_ids(scores, count).tolist() == np.argsort(-scores, kind="stable")[:count].tolist()
        bound = bound_of_best(scores, count)
        assert np.count_nonzero(scores >= bound) >= count


def test_excluded_ids_fill_up_behind_the_others() -> None:
    scores = np.full(5000, -INF, np.float32)
    scores[[4000, 17, 3]] = [1, 2, -3e38]
    assert best_ids(scores, 2).tolist() == [17, 4000]
    assert best_ids(scores, 3).tolist() == [17, 4000, 3]
    five = best_ids(scores, 5).tolist()
    assert five[:3] == [17, 4000, 3]
    assert len(set(five)) == 5


def test_the_bound_is_reached_by_few_more_than_the_best() -> None:
    scores = np.random.default_rng(0).normal(0, 1, 50_257).astype(np.float32)
    for count in (1, 10, 50, 300):
        assert count <= np.count_nonzero(scores >= bound_of_best(scores, count)) <= 2 * count + 2


def test_excluded_tokens_have_no_probability_at_all() -> None:
    row = np.array([0, -INF, 0], np.float32)
    assert softmax(row).tolist() == [0.5, 0, 0.5]
    assert log_softmax(row)[1] == -INF
    assert log_normaliser(row) == pytest.approx(np.log(2))


@pytest.mark.parametrize("shift", [-3e38, -1000.0, 1000.0, 3e38])
def test_large_scores_do_not_overflow(shift: float) -> None:
    row = np.full(4, shift, np.float32)
    np.testing.assert_array_equal(softmax(row), [0.25] * 4)
    assert log_normaliser(row) == pytest.approx(shift + np.log(4), rel=1e-6)


@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize("place", [0, 2, 2999])
@pytest.mark.parametrize("level", [0.0, -80.0, -3e38])
def test_a_row_with_nan_or_infinity_has_no_finite_normaliser(bad: float, place: int, level: float) -> None:
    """FAULTS 43"""
    row = np.full(3000, level, np.float32)
    row[place] = bad
    assert not np.isfinite(log_normaliser(row))


def test_a_row_where_all_is_excluded_has_no_finite_normaliser() -> None:
    """FAULTS 41"""
    for size in (1, 3, 3000):
        assert log_normaliser(np.full(size, -INF, np.float32)) == -INF

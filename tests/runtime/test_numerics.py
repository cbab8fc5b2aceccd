"""Numeric kernels against torch and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ortgpt.numerics import log_normaliser, log_softmax, softmax

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
@pytest.mark.parametrize("place", [0, 2])
def test_a_row_with_nan_or_infinity_has_no_finite_normaliser(bad: float, place: int) -> None:
    """FAULTS 43"""
    row = np.zeros(3, np.float32)
    row[place] = bad
    assert not np.isfinite(log_normaliser(row))


def test_a_row_where_all_is_excluded_has_no_finite_normaliser() -> None:
    """FAULTS 41"""
    assert log_normaliser(np.full(3, -INF, np.float32)) == -INF

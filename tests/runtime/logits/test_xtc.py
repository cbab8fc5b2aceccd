"""XTC against hand-computed rows and a slow loop."""

from __future__ import annotations

import numpy as np
import pytest
from filtered_rows import apply_xtc

from ortgpt.interfaces import Floats
from ortgpt.logits.sampling_filters import Xtc
from ortgpt.numerics import softmax

INF = np.inf


def logs(*probabilities: float) -> Floats:
    return np.log(np.array(probabilities)).astype(np.float32)


def kept(scores: Floats) -> list[int]:
    return np.flatnonzero(scores > -INF).tolist()


def test_of_the_tokens_above_the_threshold_the_least_probable_stays() -> None:
    row = logs(0.2, 0.4, 0.1, 0.3)
    assert kept(apply_xtc(row, 0.15)) == [0, 2]
    assert kept(apply_xtc(row, 0.25)) == [0, 2, 3]
    assert kept(apply_xtc(row, 0.05)) == [2]


def test_nothing_is_dropped_where_fewer_than_two_are_above() -> None:
    assert kept(apply_xtc(logs(0.2, 0.4, 0.1, 0.3), 0.35)) == [0, 1, 2, 3]
    assert kept(apply_xtc(logs(0.2, 0.4, 0.1, 0.3), 0.5)) == [0, 1, 2, 3]
    assert kept(apply_xtc(np.array([-INF, 3, -INF], np.float32), 0.1)) == [1]


def test_ties_with_the_least_probable_stay() -> None:
    assert kept(apply_xtc(logs(0.25, 0.4, 0.1, 0.25), 0.2)) == [0, 2, 3]
    assert kept(apply_xtc(np.zeros(2, np.float32), 0.5)) == [0, 1]


@pytest.mark.parametrize("threshold", [1e-320, 1e-5, 0.001, 0.01, 0.1])
def test_xtc_equals_a_sorted_loop(row: Floats, threshold: float) -> None:
    probabilities = softmax(row)
    order = np.argsort(-probabilities, kind="stable")
    num_top = sum(probabilities >= threshold)
    dropped = order[: max(0, num_top - 1)]
    expected = np.delete(np.arange(row.size), dropped)
    np.testing.assert_array_equal(np.flatnonzero(apply_xtc(row, threshold) > -INF), expected)


def test_it_happens_with_the_given_probability_and_draws_once() -> None:
    rng, same = np.random.default_rng(3), np.random.default_rng(3)
    xtc = Xtc(0.3, 0.15, rng)
    row, ids = logs(0.2, 0.4, 0.1, 0.3), np.zeros(1, np.int64)
    for _ in range(200):
        expected = [0, 2] if same.random() < 0.3 else [0, 1, 2, 3]
        assert kept(xtc(ids, row)) == expected


def test_a_probability_of_one_means_always() -> None:
    xtc = Xtc(1.0, 0.15, np.random.default_rng(0))
    assert all(len(kept(xtc(np.zeros(1, np.int64), logs(0.6, 0.4)))) == 1 for _ in range(50))

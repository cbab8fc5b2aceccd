"""Mirostat against its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from filtered_rows import apply_mirostat

from ortgpt.interfaces import Floats
from ortgpt.logits.mirostat import Mirostat, surprise
from ortgpt.logits.survivors import keep_only
from ortgpt.numerics import softmax

INF = np.inf


def logs(*probabilities: float) -> Floats:
    return np.log(np.array(probabilities)).astype(np.float32)


def kept(scores: Floats) -> list[int]:
    return np.flatnonzero(scores > -INF).tolist()


def test_tokens_of_more_surprise_than_the_limit_are_dropped() -> None:
    row = logs(0.125, 0.5, 0.0625, 0.25, 0.0625)  # 3, 1, 4, 2, 4 bits
    assert kept(apply_mirostat(row, 3.5)) == [0, 1, 3]
    assert kept(apply_mirostat(row, 2.5)) == [1, 3]
    assert kept(apply_mirostat(row, 5)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("limit", [0.5, 0.0, -3.0, -1e300])
def test_the_best_token_always_stays(limit: float) -> None:
    """FAULTS 41"""
    assert kept(apply_mirostat(logs(0.125, 0.5, 0.375), limit)) == [1]
    assert kept(apply_mirostat(np.array([-INF, 4, -INF], np.float32), limit)) == [1]


@pytest.mark.parametrize("limit", [2.0, 5.0, 8.0, 13.0, 17.0])
def test_truncation_equals_the_definition_on_large_rows(row: Floats, limit: float) -> None:
    bits = -np.log2(softmax(row))
    expected = np.flatnonzero(bits <= max(limit, bits.min()))
    np.testing.assert_array_equal(np.flatnonzero(apply_mirostat(row, limit) > -INF), expected)


def test_surprise_is_in_bits_of_what_is_left() -> None:
    row = logs(0.25, 0.5, 0.25)
    assert surprise(row, 0) == pytest.approx(2)
    assert surprise(apply_mirostat(row, 1.5), 1) == pytest.approx(0)


def test_the_limit_starts_at_twice_the_target_and_falls_after_a_surprise() -> None:
    mirostat = Mirostat(tau=2.0, eta=0.25)
    assert mirostat.limit == 4.0
    row = logs(0.125, 0.5, 0.125, 0.25)
    truncated = keep_only(row, mirostat.select(row))
    assert kept(truncated) == [0, 1, 2, 3]
    mirostat.learn(truncated, 0)  # 3 bits: one too many
    assert mirostat.limit == pytest.approx(4 - 0.25 * 1)
    mirostat.learn(truncated, 1)  # 1 bit: one too few
    assert mirostat.limit == pytest.approx(4)


def test_the_mean_surprise_comes_near_the_target() -> None:
    rng = np.random.default_rng(5)
    row = rng.normal(0, 1.5, 2000).astype(np.float32)  # plain sampling: about 9.3 bits
    for tau in (3.0, 6.0):
        mirostat, total = Mirostat(tau, 0.1), 0.0
        for _ in range(600):
            truncated = keep_only(row, mirostat.select(row))
            token_id = int(rng.choice(row.size, p=softmax(truncated)))
            total += surprise(truncated, token_id)
            mirostat.learn(truncated, token_id)
        assert total / 600 == pytest.approx(tau, abs=0.25)


def test_extreme_scores_leave_the_limit_a_number() -> None:
    """FAULTS 34"""
    largest = float(np.finfo(np.float32).max)
    mirostat = Mirostat(100.0, 1.0)
    for _ in range(20):
        row = np.array([largest, -largest, 0], np.float32)
        truncated = keep_only(row, mirostat.select(row))
        mirostat.learn(truncated, 0)
        assert math.isfinite(mirostat.limit)

"""Penalties against transformers, hand-computed rows and slow loops."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from transformers import RepetitionPenaltyLogitsProcessor

from ortgpt.interfaces import Floats, Ids
from ortgpt.logits.penalties import apply_logit_bias, apply_presence_frequency, apply_repetition_penalty

LARGEST = np.finfo(np.float32).max


def floats(*values: float) -> Floats:
    return np.array(values, np.float32)


@pytest.mark.parametrize("penalty", [0.5, 1.1, 1.3, 5.0])
def test_repetition_penalty_is_that_of_transformers(
    row: Floats, history: Ids, penalty: float, assert_like_transformers: Callable[..., None]
) -> None:
    for logits in (row, row + 30):  # all negative, and of both signs
        scores = apply_repetition_penalty(logits, history, penalty)
        assert_like_transformers(scores, RepetitionPenaltyLogitsProcessor(penalty), history, logits)


def test_repetition_penalty_multiplies_negative_scores_and_divides_others_once() -> None:
    logits = floats(2, -2, 0, 4)
    scores = apply_repetition_penalty(logits, np.array([0, 1, 1, 0, 2]), 2.0)
    np.testing.assert_array_equal(scores, floats(1, -4, 0, 4))


def test_presence_is_subtracted_once_and_frequency_per_occurrence() -> None:
    scores = apply_presence_frequency(floats(1, 2, 3, 4), np.array([1, 3, 3, 3]), 0.5, 0.25)
    np.testing.assert_array_equal(scores, floats(1, 1.25, 3, 2.75))


def test_presence_and_frequency_equal_a_loop_over_the_output(row: Floats, history: Ids) -> None:
    expected = row.astype(np.float64)
    for token_id in history:
        expected[token_id] -= 0.3
    for token_id in set(history.tolist()):
        expected[token_id] -= -0.7
    scores = apply_presence_frequency(row, history, presence=-0.7, frequency=0.3)
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_logit_bias_is_added_and_minus_infinity_excludes() -> None:
    biases = np.array([1.5, -np.inf])
    scores = apply_logit_bias(floats(1, 2, 3, 4), np.array([3, 0]), biases)
    np.testing.assert_array_equal(scores, floats(-np.inf, 2, 3, 5.5))


def test_what_is_excluded_stays_excluded() -> None:
    logits, ids = floats(-np.inf, 1), np.array([0, 0])
    assert apply_repetition_penalty(logits, ids, 0.5)[0] == -np.inf
    assert apply_presence_frequency(logits, ids, -5, -5)[0] == -np.inf
    assert apply_logit_bias(logits, ids[:1], np.array([1e308]))[0] == -np.inf


def test_no_history_changes_nothing() -> None:
    logits, none = floats(1, 2, 3, 4), np.array([], np.int64)
    np.testing.assert_array_equal(apply_repetition_penalty(logits, none, 2.0), logits)
    np.testing.assert_array_equal(apply_presence_frequency(logits, none, 1.0, 1.0), logits)


@pytest.mark.parametrize("penalty", [5e-324, 1e-300, 1e300])
def test_an_extreme_penalty_neither_overflows_nor_excludes(penalty: float) -> None:
    """FAULTS 34"""
    scores = apply_repetition_penalty(floats(7, -7, 0, 1), np.array([0, 1, 2]), penalty)
    assert np.isfinite(scores).all()
    assert scores[3] == 1
    assert (scores[0] > scores[3]) == (penalty < 1)


@pytest.mark.parametrize("size", [-1e308, 1e308])
def test_an_extreme_bias_or_frequency_is_kept_in_range(size: float) -> None:
    """FAULTS 34, 36"""
    expected = np.sign(size) * LARGEST
    logits, ids = floats(1, 2, 3), np.array([1])
    assert apply_logit_bias(logits, ids, np.array([size]))[1] == expected
    assert apply_presence_frequency(logits, ids.repeat(5), 0.0, -size)[1] == expected

"""Penalties against transformers, hand-computed rows and slow loops."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from transformers import (
    ExponentialDecayLengthPenalty,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
)

from ortgpt.interfaces import Floats, Ids
from ortgpt.logits.penalties import (
    apply_length_decay,
    apply_logit_bias,
    apply_presence_frequency,
    apply_repetition_penalty,
    apply_sequence_bias,
)

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


def test_sequence_bias_is_that_of_transformers(
    row: Floats, history: Ids, assert_like_transformers: Callable[..., None]
) -> None:
    last, before = int(history[-1]), int(history[-2])
    biases = {(5,): 1.5, (last, 5): -4.0, (before, last, 7): 3.0, (last, before, 8): 9.0, (last, 9): 2.0}
    reference = SequenceBiasLogitsProcessor([[list(ids), bias] for ids, bias in biases.items()])
    scores = apply_sequence_bias(row, history, biases)
    assert_like_transformers(scores, reference, history, row)
    assert np.flatnonzero(scores != row).tolist() == [5, 7, 9]


@pytest.mark.parametrize(
    ("token_ids", "expected"), [([], [1, 0, 0]), ([2], [1, 2, 0]), ([0, 2], [1, 6, 0]), ([2, 0], [1, 0, 0])]
)
def test_a_sequence_bias_adds_up_at_the_last_id_where_the_rest_matches(
    token_ids: list[int], expected: list[float]
) -> None:
    """One departure from transformers: a sequence matches at the very beginning of the text too."""
    biases = {(0,): 1.0, (2, 1): 2.0, (0, 2, 1): 4.0}
    scores = apply_sequence_bias(np.zeros(3, np.float32), np.array(token_ids, np.int64), biases)
    assert scores.tolist() == expected


def test_a_sequence_bias_of_minus_infinity_excludes_whatever_else_is_added() -> None:
    biases = {(2, 1): -np.inf, (1,): 1e308, (0,): -1e308}
    scores = apply_sequence_bias(floats(1, 2, 3), np.array([2]), biases)
    assert scores.tolist() == [-LARGEST, -np.inf, 3]
    twice = {(1,): -1e308, (2, 1): -1e308}  # the sum is below float64's range, and yet no exclusion
    assert apply_sequence_bias(floats(1, 2, 3), np.array([2]), twice)[1] == -LARGEST


@pytest.mark.parametrize("factor", [0.9, 1.01, 1.5, 3.0])
@pytest.mark.parametrize("excess", [-3, 0, 1, 2, 40])
def test_length_decay_is_that_of_transformers(
    row: Floats, history: Ids, excess: int, factor: float, assert_like_transformers: Callable[..., None]
) -> None:
    stops = [50_256, 17]
    for logits in (row, row + 40):
        logits = np.where(np.arange(row.size) == 17, np.float32(0.25), logits)
        reference = ExponentialDecayLengthPenalty((5, factor), stops, len(history) - 5 - excess)
        scores = apply_length_decay(logits, stops, excess, factor)
        assert_like_transformers(scores, reference, history, logits)


def test_length_decay_raises_negative_scores_too() -> None:
    scores = apply_length_decay(floats(-2, 2, 7), (0, 1), 3, 2.0)
    assert scores.tolist() == [-2 + 2 * 7, 2 + 2 * 7, 7]
    assert apply_length_decay(floats(-2, 2, 7), (0, 1, 1), 0, 2.0).tolist() == [-2, 2, 7]


@pytest.mark.parametrize("factor", [1e-320, 0.5, 1.5, 1e308])
def test_an_excluded_stop_id_stays_excluded_and_nothing_overflows(factor: float) -> None:
    """FAULTS 34. transformers' processor gives NaN for an excluded one."""
    for excess in (1, 1023):
        scores = apply_length_decay(floats(-np.inf, 0, LARGEST, -LARGEST), (0, 1, 2, 3), excess, factor)
        assert scores[0] == -np.inf
        assert scores[1] == 0
        assert np.isfinite(scores[1:]).all()

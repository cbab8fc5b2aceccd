"""Epsilon, eta and the dynamic temperature against transformers and their definitions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from filtered_rows import apply_epsilon, apply_eta, apply_top_k
from transformers import EpsilonLogitsWarper, EtaLogitsWarper

from ortgpt.interfaces import Floats, Ids
from ortgpt.logits.entropy_filters import apply_dynamic_temperature
from ortgpt.logits.warpers import apply_temperature
from ortgpt.numerics import softmax

INF = np.inf
CUTOFFS = [1e-6, 3e-5, 3e-4, 0.002, 0.1, 0.9]
Check = Callable[[Floats, object, Ids, Floats], None]


def floats(*values: float) -> Floats:
    return np.array(values, np.float32)


def logs(*probabilities: float) -> Floats:
    return np.log(np.array(probabilities)).astype(np.float32)


def kept(scores: Floats) -> list[int]:
    return np.flatnonzero(scores > -INF).tolist()


@pytest.mark.parametrize("cutoff", CUTOFFS)
@pytest.mark.parametrize("num_left", [50, 30_000, None])
@pytest.mark.parametrize(
    ("apply", "reference"), [(apply_epsilon, EpsilonLogitsWarper), (apply_eta, EtaLogitsWarper)]
)
def test_the_cutoffs_are_those_of_transformers(
    row: Floats,
    history: Ids,
    apply: Callable[[Floats, float], Floats],
    reference: type,
    num_left: int | None,
    cutoff: float,
    assert_like_transformers: Check,
) -> None:
    left = row if num_left is None else apply_top_k(row, num_left)
    assert_like_transformers(apply(left, cutoff), reference(cutoff), history, left)


def test_epsilon_drops_what_is_less_probable() -> None:
    row = logs(0.5, 0.3, 0.14, 0.06)
    assert kept(apply_epsilon(row, 0.13)) == [0, 1, 2]
    assert kept(apply_epsilon(row, 0.15)) == [0, 1]
    assert kept(apply_epsilon(row, 0.0)) == [0, 1, 2, 3]


def test_eta_falls_with_the_entropy() -> None:
    # Entropy 1.168 nats: sqrt(e) * 0.311 is below e where e is above 0.097.
    row = logs(0.5, 0.3, 0.14, 0.06)
    assert kept(apply_eta(row, 0.09)) == [0, 1, 2]
    assert kept(apply_eta(row, 0.19)) == [0, 1, 2]  # bound 0.1356
    assert kept(apply_eta(row, 0.21)) == [0, 1]  # bound 0.1425
    assert kept(apply_eta(row, 0.0)) == [0, 1, 2, 3]


@pytest.mark.parametrize("apply", [apply_epsilon, apply_eta])
def test_the_best_tokens_always_stay(apply: Callable[[Floats, float], Floats]) -> None:
    """FAULTS 41"""
    assert kept(apply(np.zeros(2000, np.float32), 1.0)) == list(range(2000))
    assert 3 in kept(apply(floats(0, 0.5, 0.2, 1), 1.0))
    assert kept(apply_epsilon(floats(1, 3, 3, 0), 1.0)) == [1, 2]
    assert kept(apply(floats(-INF, -7, -INF), 1.0)) == [1]


def slow_dynamic_temperature(row: Floats, temperature: float, reach: float, exponent: float) -> Floats:
    """The definition: probabilities after dividing the logits by the temperature found."""
    finite = row[row > -INF].astype(np.float64)
    probabilities = softmax(finite)
    entropy = -sum(p * np.log(p) for p in probabilities if p > 0)
    share = entropy / np.log(len(finite))
    low, high = max(0.0, temperature - reach), temperature + reach
    return softmax(row.astype(np.float64) / (low + (high - low) * share**exponent))


@pytest.mark.parametrize(
    ("temperature", "reach", "exponent"),
    [(1, 0.5, 1), (0.7, 0.7, 2), (0.8, 1.5, 0.5), (0, 1, 1), (1.5, 1, 0)],
)
def test_the_dynamic_temperature_moves_with_the_entropy(
    row: Floats, temperature: float, reach: float, exponent: float
) -> None:
    for left in (row, apply_top_k(row, 40), np.where(row > np.median(row), row, np.float32(-INF))):
        scores = apply_dynamic_temperature(left, temperature, reach, exponent)
        expected = slow_dynamic_temperature(left, temperature, reach, exponent)
        np.testing.assert_allclose(softmax(scores), expected, atol=1e-6, rtol=0)


def test_a_sure_model_gets_the_low_temperature_and_an_unsure_one_the_high() -> None:
    np.testing.assert_array_equal(apply_dynamic_temperature(floats(0, 0, 0), 1, 0.5, 1), floats(0, 0, 0))
    sure = floats(200, 0, -1)
    np.testing.assert_allclose(
        apply_dynamic_temperature(sure, 1, 0.5, 1), apply_temperature(sure, 0.5), rtol=1e-6
    )
    # Two equal tokens of three: log 2 / log 3 of the highest entropy, temperature 1.1309.
    scores = apply_dynamic_temperature(floats(0, 0, -50), 1, 0.5, 1)
    assert scores[2] == pytest.approx(-50 / (0.5 + np.log(2) / np.log(3)), rel=1e-6)


def test_one_token_is_left_as_it_is() -> None:
    row = floats(-INF, -7, -INF)
    np.testing.assert_array_equal(apply_dynamic_temperature(row, 1, 0.5, 1), row)


@pytest.mark.parametrize("temperature", [0.0, 1e-320, 1.0, 1e308])
@pytest.mark.parametrize("reach", [1e-320, 1e308])
@pytest.mark.parametrize("exponent", [0.0, 1e308])
def test_extreme_dynamic_temperatures_do_not_overflow(
    temperature: float, reach: float, exponent: float
) -> None:
    """FAULTS 34"""
    largest = float(np.finfo(np.float32).max)
    for row in (floats(1, 3, -1, -INF), floats(largest, -largest, 0, -INF)):
        probabilities = softmax(apply_dynamic_temperature(row, temperature, reach, exponent))
        assert np.isfinite(probabilities).all()
        assert probabilities[3] == 0
        assert probabilities[row.argmax()] == probabilities.max()


@pytest.mark.parametrize("apply", [apply_epsilon, apply_eta])
def test_scores_at_the_ends_of_float32_do_not_overflow(apply: Callable[[Floats, float], Floats]) -> None:
    """FAULTS 34"""
    largest = float(np.finfo(np.float32).max)
    scores = apply(floats(largest, -largest, 0, -INF, 5), 0.1)
    assert kept(scores) == [0]
    assert kept(apply(floats(0, 0, 0), 5e-324)) == [0, 1, 2]

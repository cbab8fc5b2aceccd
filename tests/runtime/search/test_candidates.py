"""The best continuations of beams against a full sort of all of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from ortgpt.errors import ConstraintError
from ortgpt.interfaces import Floats, Ids
from ortgpt.logits.pipeline import Pipeline
from ortgpt.logits.processors import RepetitionPenalty, Suppressed
from ortgpt.numerics import log_softmax
from ortgpt.search.candidates import BeamScores, Candidate, rank_candidates
from ortgpt.search.history import History

INF = np.inf


@dataclass(frozen=True)
class Row:
    score: float
    history: History


def some_beams(count: int, seed: int) -> list[Row]:
    rng = np.random.default_rng(seed)
    return [Row(float(score), History([3, 5, 6 + i])) for i, score in enumerate(-rng.random(count))]


def sorted_slowly(
    running: list[Row], scores: Floats, process: object, count: int, noise: np.ndarray | None = None
) -> list[Candidate]:
    """All beams' totals in float64, all of them sorted, stable: of equal ones the first."""
    totals = np.array(
        [
            beam.score + process(beam.history.ids, row).astype(np.float64)  # type: ignore[operator]
            for beam, row in zip(running, scores, strict=True)
        ]
    )
    keys = totals.ravel() if noise is None else totals.ravel() + noise
    order = np.argsort(-keys, kind="stable")[:count]
    vocab = scores.shape[1]
    return [
        Candidate(int(i // vocab), int(i % vocab), float(totals.flat[i]))
        for i in order
        if totals.flat[i] > -INF
    ]


ROWS = {
    "spread": lambda rng, shape: rng.normal(-12, 3, shape),
    "ties": lambda rng, shape: -rng.integers(1, 9, shape) / 2,
    "a rounding apart": lambda rng, shape: -4 - rng.integers(0, 40, shape) * 2.0**-21,
    "next to zero": lambda rng, shape: -rng.integers(1, 40, shape) * 1e-17,
    "mostly excluded": lambda rng, shape: np.where(rng.random(shape) < 0.002, -rng.random(shape), -INF),
}


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("vocab", [12, 700, 9000])
@pytest.mark.parametrize("count", [2, 10, 40])
@pytest.mark.parametrize("num_beams", [1, 5])
def test_they_are_those_of_a_full_sort(kind: str, vocab: int, count: int, num_beams: int) -> None:
    process = Pipeline((RepetitionPenalty(1.2), Suppressed((4,))))
    for seed in range(6):
        rng = np.random.default_rng(seed)
        scores = ROWS[kind](rng, (num_beams, vocab)).astype(np.float32)
        running = some_beams(num_beams, seed)
        if seed == 5:  # two beams alike
            running, scores[:] = [running[0]] * num_beams, scores[0]
        for one in (process, Pipeline()):
            expected = sorted_slowly(running, scores, one, count)
            assert rank_candidates(running, scores, one, count) == expected


def test_drawn_ones_have_a_number_for_every_token_of_every_beam() -> None:
    scores = np.random.default_rng(1).normal(-5, 2, (3, 500)).astype(np.float32)
    running = some_beams(3, 1)
    for seed in range(20):
        noise = np.random.default_rng(seed).gumbel(size=scores.size)
        expected = sorted_slowly(running, scores, Pipeline(), 6, noise)
        assert rank_candidates(running, scores, Pipeline(), 6, np.random.default_rng(seed)) == expected


def test_a_beam_without_a_token_takes_no_other_beams_numbers() -> None:
    def second_fails(token_ids: Ids, scores: Floats) -> Floats:
        if token_ids[-1] == 7:
            raise ConstraintError("nothing is left")
        return scores

    scores = np.random.default_rng(1).normal(-5, 2, (3, 500)).astype(np.float32)
    running = some_beams(3, 1)
    noise = np.random.default_rng(7).gumbel(size=scores.size)
    noise[500:1000] = -INF
    expected = sorted_slowly(running, scores, Pipeline(), 6, noise)
    expected = [one for one in expected if one.beam != 1]
    found = rank_candidates(running, scores, second_fails, 6, np.random.default_rng(7))
    assert found == expected[:6]


def test_advances_come_behind_the_best_unless_they_are_among_them() -> None:
    scores = -np.arange(40, dtype=np.float32).reshape(2, 20)
    running = [Row(0.0, History([1])), Row(0.0, History([2]))]
    advances = [np.array([1, 19, 7]), np.array([0, 3])]
    found = rank_candidates(running, scores, Pipeline(), 3, None, advances)
    assert [(one.beam, one.token_id) for one in found] == [
        (0, 0),
        (0, 1),
        (0, 2),
        (0, 7),
        (0, 19),
        (1, 0),
        (1, 3),
    ]
    excluded = rank_candidates(running, scores, Pipeline((Suppressed((19, 3)),)), 3, None, advances)
    assert [(one.beam, one.token_id) for one in excluded][3:] == [(0, 7), (1, 0)]


def test_scores_are_log_probabilities_to_the_last_bit_of_float32_or_nearly() -> None:
    logits = np.random.default_rng(3).normal(-33, 4, (4, 5000)).astype(np.float32)
    normalisers, scores = BeamScores().read(logits, None)
    expected = log_softmax(logits)
    np.testing.assert_allclose(scores, expected, rtol=2e-7)
    np.testing.assert_allclose(logits[:, 7] - normalisers, expected[:, 7], rtol=1e-7)


@pytest.mark.parametrize("bad", [np.nan, INF, -INF])
def test_a_beam_without_usable_logits_has_no_finite_normaliser(bad: float) -> None:
    logits = np.zeros((3, 9), np.float32)
    logits[1] = bad
    assert np.isfinite(BeamScores().read(logits, None)[0]).tolist() == [True, False, True]
    fine = np.zeros((3, 9), np.float32)
    normalisers, scores = BeamScores().read(fine, logits)
    assert np.isfinite(normalisers).tolist() == [True, False, True]
    assert scores is logits

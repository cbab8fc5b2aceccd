"""How a sampled row's next token is chosen: draws against the processed distribution."""

from __future__ import annotations

import numpy as np
import pytest
from filtered_rows import apply_mirostat

from ortgpt.logits.pipeline import make_warpers
from ortgpt.numerics import softmax
from ortgpt.row_run import make_pick
from ortgpt.strategies import Greedy, Sampling

IDS = np.zeros(1, np.int64)
NUM_DRAWS = 8000
# Exceeded once in a thousand, by degrees of freedom.
CRITICAL = {3: 16.27, 4: 18.47, 5: 20.52, 6: 22.46, 7: 24.32, 8: 26.12, 9: 27.88, 11: 31.26, 19: 43.82}


@pytest.fixture
def row() -> np.ndarray:
    """300 tokens of which a dozen stand out."""
    rng = np.random.default_rng(8)
    logits = rng.normal(0, 1, 300).astype(np.float32)
    logits[rng.choice(300, 12, replace=False)] += np.linspace(3, 6, 12, dtype=np.float32)
    return logits


def assert_drawn_from(draws: list[int], probabilities: np.ndarray) -> None:
    """Pearson's test over the tokens grouped by falling probability, each group with 5 draws or more."""
    assert not set(draws) - set(np.flatnonzero(probabilities).tolist())
    order = np.argsort(-probabilities, kind="stable")
    groups = np.minimum((probabilities[order].cumsum() * 19.999).astype(int), 19)
    expected = np.bincount(groups, weights=probabilities[order]) * len(draws)
    counts = np.bincount(groups, weights=np.bincount(draws, minlength=probabilities.size)[order])
    filled = expected >= 5
    freedom = int(filled.sum()) - 1
    limit = min(value for degrees, value in CRITICAL.items() if degrees >= freedom)
    assert freedom >= 3
    assert float(((counts - expected)[filled] ** 2 / expected[filled]).sum()) < limit


@pytest.mark.parametrize(
    "strategy",
    [
        Sampling(temperature=0.8, top_k=40, top_p=0.95),
        Sampling(dynatemp_range=0.7, dynatemp_exponent=0.5, min_p=0.01),
        Sampling(temperature=1.3, top_n_sigma=2.5, typical_p=0.97),
        Sampling(epsilon_cutoff=0.002, eta_cutoff=0.01),
        Sampling(top_p=0.9, temperature=1.5, order=["top_p", "temperature"]),
    ],
    ids=["top", "dynatemp", "sigma", "cutoffs", "order"],
)
def test_draws_follow_the_processed_distribution(strategy: Sampling, row: np.ndarray) -> None:
    pick = make_pick(strategy, np.random.default_rng(1))
    processed = softmax(make_warpers(strategy, np.random.default_rng(0))(IDS, row))
    assert_drawn_from([pick(IDS, row) for _ in range(NUM_DRAWS)], processed)


def test_draws_with_xtc_are_a_mixture_of_with_and_without(row: np.ndarray) -> None:
    strategy = Sampling(xtc_probability=0.3, xtc_threshold=0.08, temperature=0.9)
    with_and_without = [
        softmax(make_warpers(Sampling(temperature=0.9, **fields), np.random.default_rng(0))(IDS, row))
        for fields in ({"xtc_probability": 1.0, "xtc_threshold": 0.08}, {})
    ]
    mixture = 0.3 * with_and_without[0] + 0.7 * with_and_without[1]
    assert np.abs(with_and_without[0] - with_and_without[1]).sum() > 0.5
    pick = make_pick(strategy, np.random.default_rng(2))
    assert_drawn_from([pick(IDS, row) for _ in range(NUM_DRAWS)], mixture)


def test_the_first_draws_with_mirostat_are_within_twice_the_target(row: np.ndarray) -> None:
    processed = softmax(apply_mirostat(row, 2 * 2.5))
    draws = [make_pick(Sampling(mirostat_tau=2.5), np.random.default_rng(i))(IDS, row) for i in range(3000)]
    assert_drawn_from(draws, processed)


@pytest.mark.parametrize(("eta", "rate"), [(None, 0.1), (0.6, 0.6), (0.0, 0.0)])
def test_mirostat_learns_from_every_token_it_draws_after_the_temperature(
    row: np.ndarray, eta: float | None, rate: float
) -> None:
    pick = make_pick(Sampling(mirostat_tau=2.0, mirostat_eta=eta, temperature=1.5), np.random.default_rng(1))
    rng, limit = np.random.default_rng(1), 4.0
    for _ in range(60):
        probabilities = softmax(row.astype(np.float64) / 1.5)
        kept = np.where(-np.log2(probabilities) <= limit, probabilities, 0)
        kept /= kept.sum()
        expected = int(np.searchsorted(kept.cumsum(), rng.random(), side="right"))
        assert pick(IDS, row) == expected
        limit -= rate * (-np.log2(kept[expected]) - 2.0)


def test_two_rows_share_no_memory(row: np.ndarray) -> None:
    """Whatever another row of the same strategy draws, this one's draws stay the same."""
    strategy = Sampling(mirostat_tau=2.0, mirostat_eta=0.9)
    alone = make_pick(strategy, np.random.default_rng(1))
    expected = [alone(IDS, row) for _ in range(30)]
    first, second = (
        make_pick(strategy, np.random.default_rng(1)),
        make_pick(strategy, np.random.default_rng(2)),
    )
    found = []
    for _ in range(30):
        found.append(first(IDS, row))
        second(IDS, row[::-1])
    assert found == expected


@pytest.mark.parametrize("strategy", [Greedy(), Sampling(temperature=0, top_k=5, epsilon_cutoff=0.5)])
def test_greedy_takes_the_best(strategy: Greedy | Sampling, row: np.ndarray) -> None:
    assert make_pick(strategy, np.random.default_rng(0))(IDS, row) == row.argmax()


@pytest.mark.parametrize(
    "strategy",
    [
        Sampling(temperature=1e-320, dynatemp_range=1e-320),
        Sampling(mirostat_tau=1e-320, temperature=1e-320),
        Sampling(epsilon_cutoff=1),
        Sampling(eta_cutoff=1, temperature=0.01),
        Sampling(mirostat_tau=1e-320, mirostat_eta=0),
    ],
)
def test_settings_that_leave_one_token_leave_the_best(strategy: Sampling, row: np.ndarray) -> None:
    """FAULTS 34, 41"""
    pick = make_pick(strategy, np.random.default_rng(0))
    assert {pick(IDS, row) for _ in range(20)} == {int(row.argmax())}

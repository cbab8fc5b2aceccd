"""Filters in a chain, each on what is left, against the same filters one after the other on whole rows."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from ortgpt.interfaces import Floats
from ortgpt.logits.drawing import draw
from ortgpt.logits.filter_chain import FilterChain
from ortgpt.logits.pipeline import make_warpers
from ortgpt.logits.sampling_filters import MinP, Temperature, TopK
from ortgpt.strategies import FILTER_ORDER, Sampling

INF = np.inf
IDS = np.zeros(1, np.int64)
VALUES: dict[str, list[Any]] = {
    "temperature": [1e-320, 0.01, 0.7, 1.3, 50.0, 1e8, 1e39],
    "top_n_sigma": [0.5, 2.0, 4.0],
    "top_k": [1, 7, 50, 393, 2000],
    "top_p": [0.0, 0.3, 0.95, 0.9999],
    "min_p": [1e-4, 0.1, 1.0],
    "typical_p": [0.2, 0.9],
    "epsilon_cutoff": [1e-5, 0.01],
    "eta_cutoff": [1e-4, 0.1],
    "xtc_probability": [0.5],
    "dynatemp_range": [0.4],
}


def rows() -> list[Floats]:
    """Flat and peaked ones, short and long, with many ties, with scores a rounding apart, mostly excluded."""
    rng = np.random.default_rng(4)
    found = [
        rng.normal(-30, 2, 5000),
        rng.normal(0, 5, 5000),
        rng.integers(-8, 3, 5000) / 2,
        -7 + rng.integers(0, 200, 5000) * 2.0**-21,
        rng.normal(0, 3, 60),
        np.where(rng.random(5000) < 0.01, rng.normal(0, 3, 5000), -INF),
        np.where(rng.random(5000) < 0.6, rng.normal(-100, 3, 5000), -INF),
        np.where(np.arange(5000) == 4321, -3.0, -INF),
    ]
    return [row.astype(np.float32) for row in found]


def some_strategies() -> list[Sampling]:
    rng = np.random.default_rng(0)
    found = [
        Sampling(temperature=temperature, **fields)
        for temperature in VALUES["temperature"]
        for fields in ({"top_k": 7}, {"min_p": 0.1}, {"top_k": 50, "top_p": 0.95})
    ]
    for _ in range(120):
        names = rng.choice(list(VALUES), rng.integers(1, 5), replace=False)
        fields = {name: VALUES[name][rng.integers(len(VALUES[name]))] for name in names}
        found.append(Sampling(**fields, order=rng.permutation(FILTER_ORDER).tolist()))
    return found


def one_after_the_other(chain: FilterChain, row: Floats) -> Floats:
    for step in chain.filters:
        row = step(IDS, row)
    return row


@pytest.mark.parametrize("row", rows(), ids=range(len(rows())))
def test_a_chain_equals_its_filters_on_whole_rows(row: Floats) -> None:
    row.flags.writeable = False
    for strategy in some_strategies():
        expected = one_after_the_other(make_warpers(strategy, np.random.default_rng(1)), row)
        chain = make_warpers(strategy, np.random.default_rng(1))
        np.testing.assert_array_equal(chain(IDS, row), expected, err_msg=repr(strategy))


@pytest.mark.parametrize("row", rows(), ids=range(len(rows())))
def test_a_draw_from_what_is_left_is_the_draw_from_the_whole_row(row: Floats) -> None:
    for seed, strategy in enumerate(some_strategies()):
        whole = one_after_the_other(make_warpers(strategy, np.random.default_rng(1)), row)
        left = make_warpers(strategy, np.random.default_rng(1)).narrow(IDS, row)
        index = draw(left.scores, np.random.default_rng(seed))
        assert left.token_id(index) == draw(whole, np.random.default_rng(seed)), strategy


def test_what_is_dropped_is_not_there_any_more() -> None:
    row = np.log(np.array([0.1, 0.4, 0.3, 0.2], np.float32))
    left = make_warpers(Sampling(top_k=3, top_p=0.7), np.random.default_rng(0)).narrow(IDS, row)
    assert left.ids is not None
    assert left.ids.tolist() == [1, 2]
    np.testing.assert_array_equal(left.scores, row[[1, 2]])


def test_an_empty_chain_and_filters_that_are_off_give_the_row_itself() -> None:
    row = np.zeros(5, np.float32)
    assert FilterChain()(IDS, row) is row
    assert FilterChain((TopK(5), MinP(0.0))).narrow(IDS, row).scores is row


@pytest.mark.parametrize("temperature", [0.01, 0.3, 0.8, 1.0, 3.0, 1000.0])
@pytest.mark.parametrize("step", [TopK(1), TopK(20), TopK(70), MinP(0.5), MinP(1e-3), MinP(1.0)])
def test_no_token_that_a_filter_keeps_lies_below_its_floor(temperature: float, step: TopK | MinP) -> None:
    """Divided scores can be equal where the scores were not: hence rows of neighbouring float32 numbers."""
    rng = np.random.default_rng(2)
    for best in (0.0, 1e-30, 1.0, -40.0, 3e4):
        row = np.full(4000, best, np.float32)
        for _ in range(12):  # ever more tokens, each one rounding lower than those before
            chosen = rng.random(row.size) < 0.8
            row[chosen] = np.nextafter(row[chosen], np.float32(-INF))
        row[rng.random(row.size) < 0.9] -= np.float32(temperature)
        floor = step.floor(row, temperature)
        assert floor is not None
        kept = step(IDS, Temperature(temperature)(IDS, row)) > -INF
        assert (row[kept] >= floor).all()


def test_a_temperature_that_makes_all_alike_is_tried_on_all() -> None:
    row = 1e-8 * np.arange(3000, dtype=np.float32)
    assert TopK(3).floor(row, 1e38) is None
    assert MinP(0.1).floor(row, 1e38) is None
    left = make_warpers(Sampling(temperature=1e39, top_k=3), np.random.default_rng(0)).narrow(IDS, row)
    assert left.scores.size > 3  # ties with the third


def test_a_copy_of_a_chain_writes_elsewhere() -> None:
    chain = make_warpers(Sampling(temperature=0.5), np.random.default_rng(0))
    twin = copy.deepcopy(chain)
    row = np.arange(5, dtype=np.float32)
    first = chain(IDS, row)
    assert not np.shares_memory(first, twin(IDS, -row))
    np.testing.assert_array_equal(first, (row - 4) / np.float32(0.5))

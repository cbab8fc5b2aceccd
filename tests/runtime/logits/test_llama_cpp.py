"""Samplers against what llama.cpp made of the same rows (tests/goldens/make_llama_cpp_samplers.py)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filtered_rows import apply_top_n_sigma, apply_xtc

from ortgpt.interfaces import Floats
from ortgpt.logits.dry import apply_dry
from ortgpt.logits.entropy_filters import apply_dynamic_temperature
from ortgpt.logits.mirostat import Mirostat
from ortgpt.logits.survivors import keep_only
from ortgpt.numerics import softmax

FILE = Path(__file__).resolve().parents[2] / "goldens" / "llama_cpp_samplers.json"
GOLDENS = json.loads(FILE.read_text())
FILTERS: dict[str, Callable[..., Floats]] = {
    "top_n_sigma": apply_top_n_sigma,
    "xtc": apply_xtc,
    "dynamic_temperature": apply_dynamic_temperature,
}


def assert_left(scores: Floats, left: dict[str, float]) -> None:
    """The same tokens with the same probabilities."""
    probabilities = softmax(scores)
    assert np.flatnonzero(scores > -np.inf).tolist() == sorted(map(int, left))
    for token_id, probability in left.items():
        assert probabilities[int(token_id)] == pytest.approx(probability, abs=1e-6)


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_is_that_of_llama_cpp(name: str) -> None:
    cases = [case for case in GOLDENS["filters"] if case["filter"] == name]
    assert len(cases) >= 16
    for case in cases:
        assert_left(FILTERS[name](np.array(case["row"], np.float32), *case["arguments"]), case["left"])


@pytest.mark.parametrize("case", GOLDENS["dry"], ids=lambda case: f"{max(case['token_ids'])}")
def test_dry_is_that_of_llama_cpp(case: dict[str, Any]) -> None:
    row = np.zeros(40, np.float32)
    scores = apply_dry(row, np.array(case["token_ids"]), **case["arguments"], breakers={})
    expected = np.zeros(40)
    for token_id, penalty in case["penalties"].items():
        expected[int(token_id)] = -penalty
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


@pytest.mark.parametrize("case", GOLDENS["mirostat"], ids=lambda case: f"tau{case['tau']}")
def test_mirostat_truncates_as_llama_cpp_after_the_same_tokens(case: dict[str, Any]) -> None:
    mirostat = Mirostat(case["tau"], case["eta"])
    for step in case["steps"]:
        row = np.array(step["row"], np.float32)
        truncated = keep_only(row, mirostat.select(row))
        assert_left(truncated, step["left"])
        mirostat.learn(truncated, step["chosen"])

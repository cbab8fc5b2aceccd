"""Rows of logits of GPT-2's size, and how a row is compared with what transformers makes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ortgpt.interfaces import Floats, Ids
from ortgpt.numerics import softmax

VOCAB = 50_257


@pytest.fixture(params=[0, 1, 2, 3], ids="seed{}".format)
def row(request: pytest.FixtureRequest) -> Floats:
    """Random logits: flat ones, and ones where a few dozen tokens stand out, as a model's do."""
    rng = np.random.default_rng(request.param)
    logits = rng.normal(-30, 2, VOCAB).astype(np.float32)
    if request.param % 2:
        logits[rng.choice(VOCAB, 60, replace=False)] += rng.uniform(5, 15, 60).astype(np.float32)
    return logits


@pytest.fixture
def history() -> Ids:
    """200 ids with many repeats."""
    return np.random.default_rng(9).integers(0, 60, 200) * 800


@pytest.fixture
def assert_like_transformers() -> Callable[[Floats, Any, Ids, Floats], None]:
    """assert_like_transformers(scores, its processor, token_ids, logits)

    transformers computes in float64 here: its own rounding in float32 moves a token at the border in
    one of a hundred rows.
    """

    def check(scores: Floats, processor: Any, token_ids: Ids, logits: Floats) -> None:
        expected = processor(torch.tensor(token_ids[None]), torch.tensor(logits[None].astype(np.float64)))[
            0
        ].numpy()
        assert scores.dtype == np.float32
        assert np.array_equal(np.isneginf(scores), np.isneginf(expected))
        np.testing.assert_allclose(softmax(scores), softmax(expected), atol=1e-6, rtol=0)

    return check

"""The NumPy forward pass by itself; test_graph.py holds it against transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ortgpt_export.checkpoint import open_checkpoint
from ortgpt_export.config import read_config
from ortgpt_export.reference import ACTIVATIONS, forward


@pytest.mark.parametrize("cut", [1, 7, 19])
def test_cached_equals_uncached(cut, checkpoint) -> None:
    config = read_config(checkpoint)
    token_ids = np.random.default_rng(0).integers(0, config.vocab_size, 20)
    with open_checkpoint(checkpoint, config) as weights:
        whole = forward(weights, config, token_ids)
        first = forward(weights, config, token_ids[:cut])
        second = forward(weights, config, token_ids[cut:], first.present)
    logits = np.concatenate([first.logits, second.logits])
    hidden = np.concatenate([first.hidden, second.hidden])
    np.testing.assert_allclose(logits, whole.logits, atol=2e-5)
    np.testing.assert_allclose(hidden, whole.hidden, atol=2e-5)
    assert second.present[1][0].shape == (config.n_head, 20, config.head_size)


def test_exact_gelu_is_right_to_1e_7_everywhere() -> None:
    x = np.linspace(-9, 9, 4001, dtype=np.float32)
    expected = torch.nn.functional.gelu(torch.from_numpy(x).double()).numpy()
    np.testing.assert_allclose(ACTIVATIONS["gelu"](x), expected, rtol=3e-7, atol=1e-7)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_take_large_values_without_overflow(name) -> None:
    result = ACTIVATIONS[name](np.array([-1e4, 0, 1e4], np.float32))
    assert result.dtype == np.float32
    assert np.isfinite(result).all()

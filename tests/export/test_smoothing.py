"""Weights with their outliers moved make the same model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ortgpt_export.calibration import observe
from ortgpt_export.config import GPT2Config
from ortgpt_export.reference import forward
from ortgpt_export.smoothing import SmoothedWeights

Model = tuple[dict[str, np.ndarray], GPT2Config]
TEXTS = [tuple(np.random.default_rng(i).integers(0, 257, 40).tolist()) for i in range(2)]


def with_outliers(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A few channels of the norms 40 times as large, and what reads them as much smaller."""
    result = {name: values.copy() for name, values in weights.items()}
    for layer in range(2):
        for norm, reader in (("ln_1", "attn.c_attn"), ("ln_2", "mlp.c_fc")):
            result[f"h.{layer}.{norm}.weight"][3:6] *= 40
            result[f"h.{layer}.{norm}.bias"][3:6] *= 40
            result[f"h.{layer}.{reader}.weight"][3:6] /= 40
    return result


@pytest.mark.parametrize("has_outliers", [False, True])
@pytest.mark.parametrize("activation", ["gelu_tanh", "relu", "silu"])
def test_the_logits_are_those_of_the_weights_as_they_were(
    has_outliers, activation, weights_of_two_layers: Model
) -> None:
    weights, config = weights_of_two_layers
    config = replace(config, activation=activation)
    if has_outliers:
        weights = with_outliers(weights)
    smoothed = SmoothedWeights(weights, config, observe(weights, config, TEXTS))
    ids = np.random.default_rng(9).integers(0, 257, 50)
    before, after = forward(weights, config, ids), forward(smoothed, config, ids)
    assert np.abs(after.logits - before.logits).max() <= 1e-4
    assert np.abs(after.hidden - before.hidden).max() <= 1e-4


def test_outliers_become_smaller(weights_of_two_layers: Model) -> None:
    """How much the largest channel of a layer's input is above the mean of them."""
    weights, config = with_outliers(weights_of_two_layers[0]), weights_of_two_layers[1]
    seen = observe(weights, config, TEXTS)
    after = observe(SmoothedWeights(weights, config, seen), config, TEXTS)
    for layer in range(2):
        for name in ("attn.c_attn", "mlp.c_fc"):
            key = f"h.{layer}.{name}"
            assert after[key].max() / after[key].mean() < 0.5 * seen[key].max() / seen[key].mean()


def test_names_shapes_and_types_stay_and_the_given_weights_too(weights_of_two_layers: Model) -> None:
    weights, config = weights_of_two_layers
    before = {name: values.copy() for name, values in weights.items()}
    smoothed = SmoothedWeights(weights, config, observe(weights, config, TEXTS))
    assert list(smoothed) == list(weights)
    assert len(smoothed) == len(weights)
    for name in weights:
        assert (smoothed[name].shape, smoothed[name].dtype) == (weights[name].shape, np.float32)
    assert all(np.array_equal(weights[name], before[name]) for name in weights)
    for name in ("wte.weight", "wpe.weight", "ln_f.weight", "ln_f.bias"):
        assert np.array_equal(smoothed[name], weights[name]), "nothing of a layer"


def test_channels_that_are_never_used_stay_finite(weights_of_two_layers: Model) -> None:
    weights, config = ({**weights_of_two_layers[0]}, weights_of_two_layers[1])
    for name in ("h.0.ln_1.weight", "h.0.ln_1.bias"):
        weights[name] = weights[name] * (np.arange(len(weights[name])) != 7)
    weights["h.1.mlp.c_fc.weight"] = weights["h.1.mlp.c_fc.weight"] * 0
    smoothed = SmoothedWeights(weights, config, observe(weights, config, TEXTS))
    assert all(np.isfinite(smoothed[name]).all() for name in smoothed)
    ids = np.random.default_rng(9).integers(0, 257, 50)
    difference = forward(smoothed, config, ids).logits - forward(weights, config, ids).logits
    assert np.abs(difference).max() <= 1e-4

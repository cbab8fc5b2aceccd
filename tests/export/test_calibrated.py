"""GPTQ over whole models: random ones, whose stored form is run by the NumPy reference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import make_checkpoint

from ortgpt.errors import CheckpointError
from ortgpt.numerics import log_softmax
from ortgpt_export import calibrated
from ortgpt_export.calibrated import Calibrated, WithBiases, calibrate
from ortgpt_export.checkpoint import open_checkpoint
from ortgpt_export.config import GPT2Config, read_config
from ortgpt_export.heads import pad_heads
from ortgpt_export.quantise import dequantise_blocks, quantise_blocks
from ortgpt_export.reference import forward

Weights = dict[str, np.ndarray]
BLOCK_SIZE = 16
LAYERS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


def read(folder: Path, **overrides: Any) -> tuple[Weights, GPT2Config]:
    checkpoint = make_checkpoint(folder / "checkpoint", scale=0.15, **overrides)
    config = read_config(checkpoint)
    with open_checkpoint(checkpoint, config) as weights:
        return {name: weights[name] for name in weights}, config


def make_texts(config: GPT2Config, seed: int = 0, lengths: tuple[int, ...] = (64, 40, 1, 64, 23) * 6) -> list:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, config.vocab_size, length).tolist() for length in lengths]


def layer_names(config: GPT2Config) -> list[str]:
    return [f"h.{layer}.{part}" for layer in range(config.n_layer) for part in LAYERS]


def real_places(name: str, shape: tuple[int, ...], config: GPT2Config) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the checkpoint's own inputs and outputs in a weight with padded heads."""
    rows, columns = (np.ones(size) for size in shape)
    if name.endswith("attn.c_attn"):
        columns = pad_heads(columns, config, parts=3, axis=0)
    if name.endswith("attn.c_proj"):
        rows = pad_heads(rows, config, parts=1, axis=0)
    return np.flatnonzero(rows), np.flatnonzero(columns)


def stored_weights(weights: Mapping[str, np.ndarray], config: GPT2Config, found: Calibrated) -> Weights:
    """What a bundle's products are made with, in the checkpoint's shapes."""
    result = dict(WithBiases(weights, found.biases))
    for name in layer_names(config):
        rows, columns = real_places(name, weights[name + ".weight"].shape, config)
        blocks = found.blocks[name + ".weight"]
        width = blocks.packed.shape[1] * BLOCK_SIZE
        result[name + ".weight"] = dequantise_blocks(blocks, bits=4, width=width)[columns][:, rows].T
    return result


def k_quant_weights(weights: Mapping[str, np.ndarray], config: GPT2Config) -> Weights:
    result = dict(weights)
    for name in layer_names(config):
        weight = weights[name + ".weight"]
        blocks = quantise_blocks(weight.T, bits=4, block_size=BLOCK_SIZE, method="k-quant")
        result[name + ".weight"] = dequantise_blocks(blocks, bits=4, width=len(weight)).T
    return result


def divergence(weights: Weights, stored: Weights, config: GPT2Config) -> float:
    """Mean KL over texts that have not been calibrated with."""
    values = []
    for text in make_texts(config, seed=9, lengths=(64,) * 6):
        p, q = (log_softmax(forward(kind, config, np.array(text)).logits) for kind in (weights, stored))
        values.append((np.exp(p) * (p - q)).sum(axis=-1))
    return float(np.concatenate(values).mean())


@pytest.mark.parametrize("heads", [2, 4], ids=["heads of 16", "heads of 8"])
def test_new_texts_lose_less_than_with_k_quant(heads, tmp_path) -> None:
    weights, config = read(tmp_path, n_head=heads, n_layer=3)
    found = calibrate(weights, config, make_texts(config), bits=4, block_size=BLOCK_SIZE)
    ours = divergence(weights, stored_weights(weights, config, found), config)
    assert ours < 0.8 * divergence(weights, k_quant_weights(weights, config), config)


def test_every_layer_is_rounded_for_what_it_gets_in_the_stored_model(tmp_path, monkeypatch) -> None:
    weights, config = read(tmp_path)
    texts = make_texts(config)
    rounded_for: list[np.ndarray] = []

    def round_weight(weight: np.ndarray, moments: np.ndarray, **options: Any) -> Any:
        rounded_for.append(moments)
        return original(weight, moments, **options)

    original = calibrated.round_weight
    monkeypatch.setattr(calibrated, "round_weight", round_weight)
    found = calibrate(weights, config, texts, bits=4, block_size=BLOCK_SIZE)
    inputs: dict[str, list[np.ndarray]] = {name: [] for name in layer_names(config)}
    stored = stored_weights(weights, config, found)
    for text in texts:
        forward(stored, config, np.array(text), observe=lambda name, x: inputs[name].append(x))
    assert len(rounded_for) == 4 * config.n_layer
    for name, moments in zip(layer_names(config), rounded_for, strict=True):
        x = np.concatenate(inputs[name]).astype(np.float64)
        expected = x.T @ x / len(x) - np.outer(x.mean(axis=0), x.mean(axis=0))
        np.testing.assert_allclose(moments, expected, atol=1e-4 * np.abs(expected).max())


def test_biases_make_up_for_what_rounding_adds_to_the_mean(tmp_path) -> None:
    # With a linear activation, what mlp.c_proj gets is what mlp.c_fc gives.
    weights, config = read(tmp_path, activation_function="linear")
    texts = make_texts(config)
    found = calibrate(weights, config, texts, bits=4, block_size=BLOCK_SIZE)
    stored = stored_weights(weights, config, found)
    means = [inner_values(kind, config, texts).mean(axis=0) for kind in (weights, stored)]
    np.testing.assert_allclose(means[1], means[0], atol=1e-5)


def inner_values(weights: Weights, config: GPT2Config, texts: list) -> np.ndarray:
    """What the last layer's mlp.c_proj gets, (tokens, n_inner)."""
    values: list[np.ndarray] = []

    def observe(name: str, x: np.ndarray) -> None:
        if name == f"h.{config.n_layer - 1}.mlp.c_proj":
            values.append(x)

    for text in texts:
        forward(weights, config, np.array(text), observe=observe)
    return np.concatenate(values)


def test_padded_heads_stay_zero(tmp_path) -> None:
    weights, config = read(tmp_path, n_head=5, n_embd=50, n_layer=1)  # heads of 10, held as 16
    found = calibrate(weights, config, make_texts(config), bits=4, block_size=BLOCK_SIZE)
    for name in ("h.0.attn.c_attn", "h.0.attn.c_proj"):
        blocks = found.blocks[name + ".weight"]
        rows, columns = real_places(name, weights[name + ".weight"].shape, config)
        whole = dequantise_blocks(blocks, bits=4, width=blocks.packed.shape[1] * BLOCK_SIZE).T
        whole[np.ix_(rows, columns)] = 0
        assert not whole.any()
    assert found.blocks["h.0.attn.c_attn.weight"].packed.shape == (3 * 5 * 16, 4, BLOCK_SIZE // 2)
    assert found.blocks["h.0.attn.c_proj.weight"].packed.shape == (50, 5, BLOCK_SIZE // 2)
    assert found.biases["h.0.attn.c_attn.bias"].shape == (150,)
    assert divergence(weights, stored_weights(weights, config, found), config) < 0.05


def test_one_token_is_enough_to_go_through(tmp_path) -> None:
    weights, config = read(tmp_path)
    found = calibrate(weights, config, [[7]], bits=4, block_size=BLOCK_SIZE)
    stored = stored_weights(weights, config, found)
    assert all(np.isfinite(values).all() for values in stored.values())
    assert divergence(weights, stored, config) < 2 * divergence(
        weights, k_quant_weights(weights, config), config
    )


def test_progress_counts_layers(tmp_path) -> None:
    weights, config = read(tmp_path, n_layer=3)
    told: list[tuple[int, int]] = []
    calibrate(
        weights,
        config,
        [[1, 2, 3]],
        bits=4,
        block_size=BLOCK_SIZE,
        on_layer=lambda *counts: told.append(counts),
    )
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_activations_beyond_float32_are_a_fault_of_the_checkpoint(tmp_path) -> None:
    weights, config = read(tmp_path)
    weights["h.0.attn.c_attn.bias"] = np.full_like(weights["h.0.attn.c_attn.bias"], 3e38)
    with pytest.raises(CheckpointError, match=r"h\.0\.attn\.c_proj"), np.errstate(all="ignore"):
        calibrate(weights, config, make_texts(config), bits=4, block_size=BLOCK_SIZE)

"""GPT-2's forward pass in plain NumPy: the slow, obvious version that a bundle is compared with.

One row, no padding. It shares no code with the graph's author. Radford et al. 2019, "Language Models
are Unsupervised Multitask Learners".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from ortgpt.interfaces import Floats, Ids
from ortgpt_export.config import GPT2Config

KeysValues = tuple[Floats, Floats]  # each (heads, tokens, head_size)


class Forward(NamedTuple):
    """logits (new, vocab); hidden (new, n_embd) after the last layer norm; present: per layer."""

    logits: Floats
    hidden: Floats
    present: list[KeysValues]


Observe = Callable[[str, Floats], None]
"""Is told what goes into each linear layer: its name ("h.0.attn.c_attn") and activations (new, in)."""


def forward(
    weights: Mapping[str, Floats],
    config: GPT2Config,
    token_ids: Ids,
    past: list[KeysValues] | None = None,
    observe: Observe = lambda *_: None,
    on_sum: Observe = lambda *_: None,
) -> Forward:
    """Run the model on new tokens (new,) that follow `past`, a previous call's `present`.

    on_sum  is told the residual stream (new, n_embd) after each sum: "h.0.attn.sum", "h.0.mlp.sum"
    """
    start = past[0][0].shape[1] if past else 0
    positions = np.arange(start, start + len(token_ids))
    x = weights["wte.weight"][token_ids] + weights["wpe.weight"][positions]  # (new, n_embd)
    present = []
    for layer in range(config.n_layer):
        attended, keys_values = _attention(weights, config, layer, x, past[layer] if past else None, observe)
        x = x + attended
        on_sum(f"h.{layer}.attn.sum", x)
        x = x + _mlp(weights, config, layer, x, observe)
        on_sum(f"h.{layer}.mlp.sum", x)
        present.append(keys_values)
    hidden = layer_norm(weights, config, "ln_f", x)
    head = weights.get("lm_head.weight")
    table = weights["wte.weight"] if head is None else head  # (vocab, n_embd)
    return Forward(hidden @ table.T, hidden, present)


def _attention(
    weights: Mapping[str, Floats],
    config: GPT2Config,
    layer: int,
    x: Floats,
    past: KeysValues | None,
    observe: Observe,
) -> tuple[Floats, KeysValues]:
    """Causal self-attention of x (new, n_embd)."""
    normed = layer_norm(weights, config, f"h.{layer}.ln_1", x)
    projected = _linear(weights, f"h.{layer}.attn.c_attn", normed, observe)  # (new, 3 * n_embd)
    joined, keys_values = attend(config, layer, projected, past)
    return _linear(weights, f"h.{layer}.attn.c_proj", joined, observe), keys_values


def attend(
    config: GPT2Config, layer: int, projected: Floats, past: KeysValues | None = None
) -> tuple[Floats, KeysValues]:
    """The heads' results, joined (new, n_embd), from what c_attn makes of new tokens (new, 3 * n_embd)."""
    queries, keys, values = (_split_heads(part, config.n_head) for part in np.split(projected, 3, axis=-1))
    if past is not None:
        keys = np.concatenate([past[0], keys], axis=1)  # (heads, tokens, head_size)
        values = np.concatenate([past[1], values], axis=1)
    scores = queries @ keys.transpose(0, 2, 1)  # (heads, new, tokens)
    if config.scale_attn_weights:
        scores = scores / np.float32(math.sqrt(config.n_embd / config.n_head))
    if config.scale_attn_by_inverse_layer_idx:
        scores = scores / np.float32(layer + 1)
    new, tokens = scores.shape[1:]
    is_future = np.arange(tokens)[None, :] > np.arange(tokens - new, tokens)[:, None]  # (new, tokens)
    scores = np.where(is_future, np.float32(-np.inf), scores)
    exps = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = (exps / exps.sum(axis=-1, keepdims=True)) @ values  # (heads, new, head_size)
    return mixed.transpose(1, 0, 2).reshape(new, config.n_embd), (keys, values)


def _mlp(
    weights: Mapping[str, Floats], config: GPT2Config, layer: int, x: Floats, observe: Observe
) -> Floats:
    normed = layer_norm(weights, config, f"h.{layer}.ln_2", x)
    inner = _linear(weights, f"h.{layer}.mlp.c_fc", normed, observe)  # (new, n_inner)
    return _linear(weights, f"h.{layer}.mlp.c_proj", ACTIVATIONS[config.activation](inner), observe)


def _split_heads(x: Floats, heads: int) -> Floats:
    """(new, n_embd) -> (heads, new, head_size)"""
    return x.reshape(len(x), heads, -1).transpose(1, 0, 2)


def _linear(weights: Mapping[str, Floats], name: str, x: Floats, observe: Observe) -> Floats:
    observe(name, x)
    return x @ weights[name + ".weight"] + weights[name + ".bias"]


def layer_norm(weights: Mapping[str, Floats], config: GPT2Config, name: str, x: Floats) -> Floats:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    normed: Floats = centred / np.sqrt(variance + np.float32(config.layer_norm_epsilon))
    return normed * weights[name + ".weight"] + weights[name + ".bias"]


def _sigmoid(x: Floats) -> Floats:
    result: Floats = 0.5 * (1 + np.tanh(0.5 * x))  # the same function, without an overflow in exp
    return result


def _gelu(x: Floats) -> Floats:
    """Exact: x * Phi(x). NumPy has no erf, so it is taken one by one: slow, but right to the last bit."""
    erf = np.fromiter((math.erf(v) for v in (x / math.sqrt(2)).ravel()), np.float32, x.size)
    return 0.5 * x * (1 + erf.reshape(x.shape))


ACTIVATIONS: dict[str, Callable[[Floats], Floats]] = {
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))),
    "gelu": _gelu,
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x * _sigmoid(x),
    "quick_gelu": lambda x: x * _sigmoid(1.702 * x),
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "linear": lambda x: x,
}

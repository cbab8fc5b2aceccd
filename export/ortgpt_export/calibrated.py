"""GPTQ over a whole model: every layer's weights in blocks, and biases that make up for what they shift."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ortgpt.interfaces import Floats
from ortgpt_export.calibration import Moments, OnText, observe_moments
from ortgpt_export.config import GPT2Config
from ortgpt_export.gptq import round_with_moments
from ortgpt_export.heads import pad_heads
from ortgpt_export.quantise import Blocks

LINEAR = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
MOMENTS_BYTES = 1 << 29  # of moments that are held at a time; more layers take more passes over the texts


class Calibrated(NamedTuple):
    """blocks: by the name of the weight. biases: those that have changed, by their names."""

    blocks: dict[str, Blocks]
    biases: dict[str, Floats]


class WithBiases(Mapping[str, Floats]):
    """A checkpoint's weights with some biases replaced."""

    def __init__(self, weights: Mapping[str, Floats], biases: Mapping[str, Floats]) -> None:
        self._weights, self._biases = weights, biases

    def __getitem__(self, name: str) -> Floats:
        return self._biases[name] if name in self._biases else self._weights[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


def calibrate(
    weights: Mapping[str, Floats],
    config: GPT2Config,
    texts: Sequence[Sequence[int]],
    *,
    bits: int,
    block_size: int,
    on_text: OnText = lambda *_: None,
) -> Calibrated:
    """Quantise all linear layers for what they get when the model reads these texts (token ids)."""
    found = Calibrated({}, {})
    groups = list(_groups(config))
    for number, names in enumerate(groups):

        def count(done: int, total: int, number: int = number) -> None:
            on_text(number * total + done, len(groups) * total)

        for name, moments in observe_moments(weights, config, texts, names, count).items():
            weight, padded = _with_padded_heads(name, weights[name + ".weight"], moments, config)
            rounded = round_with_moments(weight, padded, bits=bits, block_size=block_size)
            found.blocks[name + ".weight"] = rounded.blocks
            shift = rounded.shift
            if name.endswith("attn.c_attn"):  # its outputs are padded; the bias is not, until it is stored
                shift = without_padding(shift, config)
            found.biases[name + ".bias"] = weights[name + ".bias"] - shift
    return found


def _groups(config: GPT2Config) -> Iterator[list[str]]:
    """Names of layers whose moments fit into memory together."""
    sizes = {"mlp.c_proj": config.n_inner}
    group: list[str] = []
    held = 0
    for layer in range(config.n_layer):
        for part in LINEAR:
            size = 4 * sizes.get(part, config.n_embd) ** 2
            if group and held + size > MOMENTS_BYTES:
                yield group
                group, held = [], 0
            group.append(f"h.{layer}.{part}")
            held += size
    yield group


def _with_padded_heads(
    name: str, weight: Floats, moments: Moments, config: GPT2Config
) -> tuple[Floats, Moments]:
    """The weight as the graph stores it, and the moments of its inputs there."""
    if name.endswith("attn.c_attn"):
        return pad_heads(weight, config, parts=3, axis=1), moments
    if name.endswith("attn.c_proj"):
        covariance = pad_heads(
            pad_heads(moments.covariance, config, parts=1, axis=0), config, parts=1, axis=1
        )
        mean = pad_heads(moments.mean, config, parts=1, axis=0)
        return pad_heads(weight, config, parts=1, axis=0), Moments(mean, covariance)
    return weight, moments


def without_padding(values: Floats, config: GPT2Config) -> Floats:
    """c_attn's outputs (3 * heads * padded size,) without what the padding of the heads adds."""
    heads = values.reshape(3 * config.n_head, -1)
    return np.ascontiguousarray(heads[:, : config.head_size]).reshape(-1)

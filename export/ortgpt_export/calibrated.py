"""GPTQ over a whole model, layer by layer, on what the layers get once all before them are rounded.

Two models read the same texts side by side: the exact one and the one that is stored. Before a weight is
rounded, it and its bias are moved towards what the exact model has at this place, so that a layer also
makes up for what those before it have lost. That costs nothing when the bundle runs. No more is held at a
time than what one linear layer gets and gives. After Li et al. 2025, "GPTAQ: Efficient Finetuning-Free
Quantization for Asymmetric Calibration".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ortgpt.errors import CheckpointError
from ortgpt.interfaces import Floats
from ortgpt_export.calibration import OnText
from ortgpt_export.config import GPT2Config
from ortgpt_export.gptq import round_weight
from ortgpt_export.heads import pad_heads
from ortgpt_export.quantise import Blocks, dequantise_blocks
from ortgpt_export.reference import ACTIVATIONS, attend, layer_norm

RIDGE = 1.0  # of the mean variance of an input: how little a weight is moved where there is little to see


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
    on_layer: OnText = lambda *_: None,
) -> Calibrated:
    """Quantise all linear layers for what they get when the model reads these texts (token ids).

    on_layer  is told (layers done, all of them)
    """
    calibration = _Calibration(weights, config, texts, bits, block_size)
    values = calibration.embeddings()
    for layer in range(config.n_layer):
        values = calibration.block(layer, values)
        on_layer(layer + 1, config.n_layer)
    return calibration.found


class _Pair(NamedTuple):
    """The same values in both models, (tokens, channels)."""

    exact: Floats
    stored: Floats

    def map(self, function: Callable[[Floats], Floats]) -> _Pair:
        return _Pair(function(self.exact), function(self.stored))


class _Calibration:
    def __init__(
        self,
        weights: Mapping[str, Floats],
        config: GPT2Config,
        texts: Sequence[Sequence[int]],
        bits: int,
        block_size: int,
    ) -> None:
        self.found = Calibrated({}, {})
        self._weights = weights
        self._config = config
        self._texts = texts
        self._bits = bits
        self._block_size = block_size

    def embeddings(self) -> _Pair:
        """All texts' token and position vectors, one text behind the other."""
        token_ids = np.concatenate([np.asarray(text, np.int64) for text in self._texts])
        positions = np.concatenate([np.arange(len(text)) for text in self._texts])
        values = self._weights["wte.weight"][token_ids] + self._weights["wpe.weight"][positions]
        return _Pair(values, values)

    def block(self, layer: int, residual: _Pair) -> _Pair:
        """One layer; returns the sum that the next one continues."""
        h = f"h.{layer}."
        normed = residual.map(partial(layer_norm, self._weights, self._config, h + "ln_1"))
        joined = self._linear(h + "attn.c_attn", normed).map(partial(self._attend, layer))
        residual = self._linear(h + "attn.c_proj", joined, residual)
        normed = residual.map(partial(layer_norm, self._weights, self._config, h + "ln_2"))
        inner = self._linear(h + "mlp.c_fc", normed).map(ACTIVATIONS[self._config.activation])
        return self._linear(h + "mlp.c_proj", inner, residual)

    def _attend(self, layer: int, projected: Floats) -> Floats:
        """Attention, each text by itself."""
        ends = np.cumsum([len(text) for text in self._texts])
        texts = np.split(projected, ends[:-1])
        return np.concatenate([attend(self._config, layer, text)[0] for text in texts])

    def _linear(self, name: str, inputs: _Pair, onto: _Pair | None = None) -> _Pair:
        """Round the layer's weight; returns its outputs, on top of the residual `onto` if there is one."""
        weight, bias = self._weights[name + ".weight"], self._weights[name + ".bias"]
        wanted = inputs.exact @ weight + bias
        start = bias
        if onto is not None:
            wanted, start = onto.exact + wanted, onto.stored + bias
        x = inputs.stored
        centred: Floats = x - x.mean(axis=0)
        moments: Floats = centred.T @ centred / np.float32(len(x))  # (in, in)
        if not np.isfinite(moments).all():
            raise CheckpointError(f"what goes into {name} is not finite: the model can't be calibrated")
        missing = wanted - start - x @ weight  # (tokens, out)
        moved = weight + _least_squares(moments, centred.T @ missing / np.float32(len(x)))
        stored = start + x @ self._round(name, moved, moments)
        shift = (wanted - stored).mean(axis=0)
        self.found.biases[name + ".bias"] = bias + shift
        return _Pair(wanted, stored + shift)

    def _round(self, name: str, weight: Floats, moments: Floats) -> Floats:
        """Keep the weight (in, out) as blocks, with its heads padded; returns what the blocks stand for."""
        rows, columns = self._places(name, weight)
        padded = np.zeros((len(rows), len(columns)), np.float32)
        padded[np.ix_(rows, columns)] = weight
        padded_moments = np.zeros((len(rows), len(rows)), np.float32)
        padded_moments[np.ix_(rows, rows)] = moments
        blocks = round_weight(padded, padded_moments, bits=self._bits, block_size=self._block_size)
        self.found.blocks[name + ".weight"] = blocks
        return dequantise_blocks(blocks, bits=self._bits, width=len(rows))[columns][:, rows].T

    def _places(self, name: str, weight: Floats) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which inputs and outputs of the weight as the graph holds it are those of the checkpoint's."""
        rows, columns = (np.ones(size, np.float32) for size in weight.shape)
        if name.endswith("attn.c_attn"):
            columns = pad_heads(columns, self._config, parts=3, axis=0)
        if name.endswith("attn.c_proj"):
            rows = pad_heads(rows, self._config, parts=1, axis=0)
        return rows > 0, columns > 0


def _least_squares(moments: Floats, products: Floats) -> Floats:
    """The weight (in, out) that, with inputs of these moments (in, in), gives outputs of these products.

    Held back by RIDGE, so that few texts do not settle what they hardly show.
    """
    ridged = moments.astype(np.float64)
    diagonal = np.arange(len(ridged))
    ridged[diagonal, diagonal] += max(RIDGE * ridged[diagonal, diagonal].mean(), np.finfo(np.float32).tiny)
    return np.linalg.solve(ridged, products.astype(np.float64)).astype(np.float32)

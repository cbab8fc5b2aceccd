"""Moves large activations into the weights, where a scale per column or block can bear them.

What a linear layer gets is divided channel by channel, what its weights hold for the channel is
multiplied: the products stay the same, but the activations become more even, and so lose less as
8-bit numbers. The division costs nothing, for it goes into the layer norm before, or into the columns
that make the attention's values. Xiao et al. 2023, "SmoothQuant".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ortgpt.interfaces import Floats
from ortgpt_export.config import GPT2Config

SMALLEST = 1e-6  # of a channel that is never used


class SmoothedWeights(Mapping[str, Floats]):
    """A checkpoint's weights with its outliers moved; the model that they make is the same.

    seen  root mean square of the input channels of each linear layer, as `observe` gives it
    """

    def __init__(self, weights: Mapping[str, Floats], config: GPT2Config, seen: Mapping[str, Floats]) -> None:
        self._weights, self._config, self._seen = weights, config, seen

    def __getitem__(self, name: str) -> Floats:
        values = self._weights[name]
        if not name.startswith("h."):
            return values
        prefix, part = name[: name.index(".", 2) + 1], name[name.index(".", 2) + 1 :]
        match part:
            case "ln_1.weight" | "ln_1.bias":
                return values / self._scale(prefix + "attn.c_attn")
            case "ln_2.weight" | "ln_2.bias":
                return values / self._scale(prefix + "mlp.c_fc")
            case "attn.c_attn.weight":
                return self._with_even_values(prefix, values * self._scale(prefix + "attn.c_attn")[:, None])
            case "attn.c_attn.bias":
                return self._with_even_values(prefix, values)
            case "attn.c_proj.weight" | "mlp.c_fc.weight":
                return values * self._scale(name.removesuffix(".weight"))[:, None]
        return values

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    def _scale(self, layer: str) -> Floats:
        """What the layer's input channels (in,) are divided by: activations and weights meet half-way."""
        weight = self._weights[layer + ".weight"]  # (in, out)
        sizes = np.sqrt(np.square(weight, dtype=np.float64).mean(axis=1))
        scale = np.sqrt(np.maximum(self._seen[layer], SMALLEST) / np.maximum(sizes, SMALLEST))
        evened: Floats = (scale / np.exp(np.log(scale).mean())).astype(np.float32)
        return evened

    def _with_even_values(self, prefix: str, values: Floats) -> Floats:
        """c_attn's weight or bias (..., 3 * n_embd) with the columns of the attention's values divided."""
        result = values.copy()
        result[..., 2 * self._config.n_embd :] /= self._scale(prefix + "attn.c_proj")
        return result

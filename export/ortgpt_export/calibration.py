"""What goes through a model when it reads text: how outliers are moved and float16 is judged by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ortgpt.interfaces import Floats
from ortgpt_export.config import GPT2Config
from ortgpt_export.reference import forward

OnText = Callable[[int, int], None]
"""Is told (texts done, all of them)."""


def observe(
    weights: Mapping[str, Floats],
    config: GPT2Config,
    texts: Sequence[Sequence[int]],
    on_text: OnText = lambda *_: None,
) -> dict[str, Floats]:
    """Root mean square of each input channel of each linear layer over the texts' token ids.

    By the layer's name ("h.0.attn.c_attn"): float32 (in,).
    """
    squares: dict[str, NDArray[np.float64]] = {}

    def add(name: str, x: Floats) -> None:
        summed = np.square(x, dtype=np.float64).sum(axis=0)  # (in,)
        squares[name] = squares.get(name, 0) + summed

    for number, text in enumerate(texts, start=1):
        forward(weights, config, np.asarray(text, np.int64), observe=add)
        on_text(number, len(texts))
    tokens = sum(map(len, texts))
    return {name: np.sqrt(total / tokens).astype(np.float32) for name, total in squares.items()}


def largest_activation(
    weights: Mapping[str, Floats],
    config: GPT2Config,
    texts: Sequence[Sequence[int]],
    on_text: OnText = lambda *_: None,
) -> tuple[str, float]:
    """(where, magnitude) of the largest number in linear layers' inputs, sums and logits over the texts."""
    peaks: dict[str, float] = {}

    def note(name: str, x: Floats) -> None:
        peaks[name] = max(peaks.get(name, 0.0), float(np.abs(x).max()))

    for number, text in enumerate(texts, start=1):
        result = forward(weights, config, np.asarray(text, np.int64), observe=note, on_sum=note)
        note("logits", result.logits)
        on_text(number, len(texts))
    name = max(peaks, key=lambda name: peaks[name])
    return name, peaks[name]

"""Heads as the graph holds them: zero-padded to a size that onnxruntime takes."""

from __future__ import annotations

import numpy as np

from ortgpt.interfaces import Floats
from ortgpt_export.config import GPT2Config

HEAD_SIZE_MULTIPLE = 8  # GroupQueryAttention on CPU takes no other head sizes


def cache_head_size(config: GPT2Config) -> int:
    """The head size inside the graph: zero-padded to a multiple of 8."""
    return -(-config.head_size // HEAD_SIZE_MULTIPLE) * HEAD_SIZE_MULTIPLE


def pad_heads(values: Floats, config: GPT2Config, *, parts: int, axis: int) -> Floats:
    """Zero-pad every head along an axis that holds parts * heads * head_size entries."""
    heads, size, padded = config.n_head, config.head_size, cache_head_size(config)
    if size == padded:
        return values
    before, after = values.shape[:axis], values.shape[axis + 1 :]
    split = values.reshape(*before, parts * heads, size, *after)
    pads = [(0, 0)] * split.ndim
    pads[axis + 1] = (0, padded - size)
    return np.pad(split, pads).reshape(*before, parts * heads * padded, *after)

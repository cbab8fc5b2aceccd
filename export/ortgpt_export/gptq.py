"""Rounds weights one input at a time and lets the later ones make up for what the earlier ones lose.

Frantar et al. 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers": with H the second moments of a layer's inputs, the error in one weight is spread over
those not rounded yet so that the layer's outputs on its own data change least.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ortgpt.interfaces import Floats
from ortgpt_export.quantise import Blocks, pack_blocks

DAMPING = 0.01  # of the mean diagonal, so that H can be inverted
SHRINKAGES = np.linspace(0.5, 1.1, 24, dtype=np.float32)  # of a block's range, tried in turn
STRIDE = 128  # inputs whose errors reach the ones behind in a single product


def round_weight(weight: Floats, moments: Floats, *, bits: int, block_size: int) -> Blocks:
    """Quantise a weight (in, out) in blocks along its inputs, whose second moments (in, in) are given.

    With moments about the mean, a rounded weight may shift the mean of the outputs: that is the bias's.
    """
    inputs, outputs = weight.shape
    padding = -inputs % block_size
    left = np.pad(weight, [(0, padding), (0, 0)]).astype(np.float32)  # what the weights still have to be
    damped = _damp(np.pad(moments, [(0, padding), (0, padding)]))
    spread = _inverse_factor(damped)  # (in, in), upper
    importance = np.diag(damped).astype(np.float32)[:, None]
    numbers = np.empty(left.shape, np.uint8)
    scales = np.empty((len(left) // block_size, outputs), np.float32)
    zeros = np.empty_like(scales)
    for block, begin in enumerate(range(0, len(left), block_size)):
        end = begin + block_size
        scales[block], zeros[block] = _best_grid(left[begin:end], importance[begin:end], bits)
        for first in range(begin, end, STRIDE):
            last = min(first + STRIDE, end)
            lost = _round_rows(left, numbers, spread, first, last, scales[block], zeros[block], bits)
            left[last:] -= spread[first:last, last:].T @ lost
    return pack_blocks(numbers.T, scales.T, zeros.T, bits)


def _round_rows(
    left: Floats,
    numbers: NDArray[np.uint8],
    spread: Floats,
    first: int,
    last: int,
    scale: Floats,
    zero: Floats,
    bits: int,
) -> Floats:
    """Round the inputs first .. last - 1 in turn; returns their errors (rows, out) over U's diagonal."""
    lost = np.empty((last - first, left.shape[1]), np.float32)
    for row in range(first, last):
        level = np.clip(np.rint(left[row] / scale + zero), 0, (1 << bits) - 1)
        numbers[row] = level
        lost[row - first] = (left[row] - (level - zero) * scale) / spread[row, row]
        left[row + 1 : last] -= spread[row, row + 1 : last, None] * lost[row - first]
    return lost


def _best_grid(values: Floats, importance: Floats, bits: int) -> tuple[Floats, Floats]:
    """(scales, zero points), each (out,): of the shrunken ranges the one with the least weighted error.

    values (block, out); importance (block, 1).
    """
    top = np.float32((1 << bits) - 1)
    low, high = np.minimum(values.min(axis=0), 0), np.maximum(values.max(axis=0), 0)
    span = np.where(high > low, high - low, top)
    least = np.full(values.shape[1], np.inf, np.float32)
    scales, zeros = np.ones_like(least), np.zeros_like(least)
    for shrinkage in SHRINKAGES:
        scale = span * shrinkage / top
        zero = np.clip(np.rint((top - (high + low) / scale) / 2), 0, top)  # cuts both ends alike
        levels = np.clip(np.rint(values / scale + zero), 0, top) - zero
        # The scale that fits these levels best, in the sense of least squares.
        weight = (importance * levels * levels).sum(axis=0)
        fitted = (importance * values * levels).sum(axis=0) / np.where(weight > 0, weight, 1)
        scale = np.where(fitted > 0, fitted, scale).astype(np.float32)
        levels = np.clip(np.rint(values / scale + zero), 0, top) - zero
        loss = (importance * np.square(levels * scale - values)).sum(axis=0)
        is_better = loss < least
        least = np.where(is_better, loss, least)
        scales, zeros = np.where(is_better, scale, scales), np.where(is_better, zero, zeros)
    return scales, zeros


def _damp(moments: Floats) -> NDArray[np.float64]:
    """H (in, in) that can be inverted; an input that is always zero counts as a mean one."""
    damped = moments.astype(np.float64)
    sizes = np.diag(damped)
    is_used = sizes > 0
    mean = sizes[is_used].mean() if is_used.any() else 1.0
    np.fill_diagonal(damped, np.where(is_used, sizes, mean) + DAMPING * mean)
    return damped


def _inverse_factor(damped: NDArray[np.float64]) -> Floats:
    """U, upper, with inverse(H) = U.T @ U."""
    # Turned around, the lower factor of H is the upper one whose inverse is asked for.
    lower = np.linalg.cholesky(damped[::-1, ::-1])
    return np.ascontiguousarray(np.linalg.inv(lower)[::-1, ::-1]).astype(np.float32)

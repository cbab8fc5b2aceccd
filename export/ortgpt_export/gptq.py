"""Rounds weights one input at a time and lets the later ones make up for what the earlier ones lose.

Frantar et al. 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers": with H the second moments of a layer's inputs, the error in one weight is spread over
those not rounded yet so that the layer's outputs on its own data change least.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ortgpt.interfaces import Floats
from ortgpt_export.calibration import Moments
from ortgpt_export.quantise import Blocks, pack_blocks

DAMPING = 0.01  # of the mean diagonal, so that H can be inverted
SHRINKAGES = np.linspace(0.5, 1.1, 24, dtype=np.float32)  # of a block's range, tried in turn
STRIDE = 128  # inputs whose errors reach the ones behind in a single product


class Rounded(NamedTuple):
    """blocks: what is stored. shift (out,): what rounding adds to the mean of the layer's outputs."""

    blocks: Blocks
    shift: Floats


def round_with_moments(weight: Floats, moments: Moments, *, bits: int, block_size: int) -> Rounded:
    """Quantise a weight (in, out) whose inputs have these moments, in blocks along the inputs.

    The mean output is left out of what is kept close: what it loses is to be taken from the bias.
    """
    inputs, outputs = weight.shape
    padding = -inputs % block_size
    left = np.pad(weight, [(0, padding), (0, 0)]).astype(np.float32)  # what the weights still have to be
    covariance = np.pad(moments.covariance, [(0, padding), (0, padding)])
    spread = _inverse_factor(covariance)  # (in, in), upper
    importance = np.diag(covariance).astype(np.float32)[:, None] + np.float32(1e-8)
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
    levels = numbers.reshape(len(scales), block_size, outputs).astype(np.float32)
    error = ((levels - zeros[:, None]) * scales[:, None]).reshape(left.shape)[:inputs] - weight
    return Rounded(pack_blocks(numbers.T, scales.T, zeros.T, bits), moments.mean @ error)


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
    """Round the inputs first .. last - 1 in turn; returns their errors, each over its own U, (rows, out)."""
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


def _inverse_factor(covariance: Floats) -> Floats:
    """U, upper, with inverse(H) = U.T @ U, of the damped second moments H (in, in)."""
    damped = covariance.astype(np.float64)
    diagonal = np.arange(len(damped))
    is_unused = damped[diagonal, diagonal] <= 0
    damped[is_unused, is_unused] = 1  # an input that is always zero: its weights bear on nothing
    damped[diagonal, diagonal] += DAMPING * damped[diagonal, diagonal].mean()
    # Turned around, the lower factor of H is the upper one whose inverse is asked for.
    lower = np.linalg.cholesky(damped[::-1, ::-1])
    return np.ascontiguousarray(np.linalg.inv(lower)[::-1, ::-1]).astype(np.float32)

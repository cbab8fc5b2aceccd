"""Weights as small integers, by onnxruntime's own quantisers."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ortgpt.interfaces import Floats

Method = Literal["rtn", "k-quant", "gptq"]
"""Round to nearest around zero; llama.cpp's search for scale and zero point, weighted by size; or what
gptq.py makes of calibrated layers (and k-quant of all that is not a layer)."""

CHUNK = 1 << 22  # weights that are quantised at a time: k-quant keeps a dozen copies of them


class Blocks(NamedTuple):
    """A matrix (out, in) quantised in blocks along its inputs, as MatMulNBits reads it.

    packed       uint8 (out, blocks, bytes of a block); of two 4-bit numbers the first in the low half
    scales       float32 (out, blocks)
    zero_points  uint8 (out, bytes of a row of zero points); None: all in the middle, 8 or 128
    """

    packed: NDArray[np.uint8]
    scales: Floats
    zero_points: NDArray[np.uint8] | None


class Columns(NamedTuple):
    """A matrix (in, out) quantised by output: values int8 (in, out), scales float32 (out,)."""

    values: NDArray[np.int8]
    scales: Floats


def quantise_blocks(matrix: Floats, *, bits: int, block_size: int, method: Method) -> Blocks:
    """matrix (out, in); inputs are padded with zeros to whole blocks."""
    padding = -matrix.shape[1] % block_size
    padded = np.pad(matrix, [(0, 0), (0, padding)]) if padding else matrix
    rows = max(1, CHUNK // padded.shape[1])
    parts = [
        _quantise_rows(padded[begin : begin + rows], bits, block_size, method)
        for begin in range(0, len(padded), rows)
    ]
    packed, scales, zero_points = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Blocks(packed, scales, None if method == "rtn" else zero_points)


def pack_blocks(numbers: NDArray[np.uint8], scales: Floats, zero_points: Floats, bits: int) -> Blocks:
    """Blocks of numbers (out, in) with scales and zero points (out, blocks)."""
    count, blocks = scales.shape
    packed = _pack(np.ascontiguousarray(numbers), bits).reshape(count, blocks, -1)
    zeros = _pack(np.ascontiguousarray(zero_points).astype(np.uint8), bits)
    return Blocks(packed, np.ascontiguousarray(scales), zeros)


def _quantise_rows(
    matrix: Floats, bits: int, block_size: int, method: Method
) -> tuple[NDArray[np.uint8], Floats, NDArray[np.uint8]]:
    from onnxruntime.quantization.neural_compressor import weight_only  # brings half of onnx along

    count, blocks = len(matrix), matrix.shape[1] // block_size
    if method == "rtn":
        numbers, scales, zeros = weight_only.quant_tensor(matrix, bits, block_size, "sym", "uint")
    else:
        with np.errstate(all="ignore"):  # of a block whose weights are all alike, or out of proportion
            numbers, scales, zeros = weight_only.quant_tensor_k_quant_cpu(matrix, bits, block_size)
        # Its zero point can't lie outside the block's range, so a block without a zero would lose most of
        # its size.
        flat = matrix.reshape(-1, block_size)
        one_sided = (flat.min(axis=1) > 0) | (flat.max(axis=1) < 0)
        if one_sided.any():
            numbers[one_sided], scales[one_sided], zeros[one_sided] = weight_only.quant_tensor(
                flat[one_sided], bits, block_size, "sym", "uint"
            )
    packed = _pack(numbers.astype(np.uint8).reshape(count, blocks * block_size), bits)
    return (
        packed.reshape(count, blocks, block_size * bits // 8),
        scales.astype(np.float32).reshape(count, blocks),
        _pack(zeros.astype(np.uint8).reshape(count, blocks), bits),
    )


def _pack(numbers: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Two 4-bit numbers of a row per byte, the first in the low half; an odd row is filled up with 0."""
    if bits == 8:
        return numbers
    if numbers.shape[1] % 2:
        numbers = np.pad(numbers, [(0, 0), (0, 1)])
    low, high = numbers[:, ::2], numbers[:, 1::2]
    packed: NDArray[np.uint8] = np.bitwise_or(low, np.left_shift(high, 4), dtype=np.uint8)
    return packed


def quantise_columns(matrix: Floats) -> Columns:
    """matrix (in, out), every output with a scale of its own, around zero."""
    scales = (np.abs(matrix).max(axis=0) / 127).astype(np.float32)
    scales[scales < np.finfo(np.float32).smallest_normal] = 1  # of a column of nothing
    return Columns(np.rint(matrix / scales).astype(np.int8), scales)


def dequantise_blocks(blocks: Blocks, *, bits: int, width: int) -> Floats:
    """The matrix (out, width) that MatMulNBits multiplies with; for comparisons."""
    count, num_blocks = blocks.scales.shape
    numbers = _unpack(blocks.packed.reshape(count, -1), bits).reshape(count, num_blocks, -1)
    zeros: Any = 1 << (bits - 1)
    if blocks.zero_points is not None:
        zeros = _unpack(blocks.zero_points, bits)[:, :num_blocks, None].astype(np.float32)
    values = (numbers.astype(np.float32) - zeros) * blocks.scales[:, :, None]
    result: Floats = values.reshape(count, -1)[:, :width]
    return result


def _unpack(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    if bits == 8:
        return packed
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1)

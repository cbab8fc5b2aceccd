"""Rounding one weight matrix, against the loop of the paper and against onnxruntime's quantiser."""

from __future__ import annotations

import numpy as np
import pytest

from ortgpt_export.gptq import DAMPING, round_weight
from ortgpt_export.quantise import Blocks, dequantise_blocks, quantise_blocks

Array = np.ndarray


def make_case(inputs: int, outputs: int) -> tuple[Array, Array, Array]:
    """(weight (in, out), x (tokens, in), their moments (in, in)); x is uneven and hangs together."""
    rng = np.random.default_rng(0)
    mixing = np.eye(inputs) + rng.standard_normal((inputs, inputs)) / np.sqrt(inputs)
    x = rng.standard_normal((4 * inputs, inputs)) @ mixing * rng.lognormal(size=inputs)
    x = x.astype(np.float32)
    weight = np.random.default_rng(1).standard_normal((inputs, outputs)).astype(np.float32)
    return weight, x, x.T @ x / len(x)


def loss(x: Array, weight: Array, blocks: Blocks, bits: int) -> float:
    rounded = dequantise_blocks(blocks, bits=bits, width=len(weight)).T
    return float(np.square(x @ (weight - rounded)).mean())


def textbook(weight: Array, moments: Array, blocks: Blocks, bits: int, block_size: int) -> Array:
    """The numbers (in, out) that the greedy loop finds with the grid of `blocks`, in float64.

    Every input in turn is rounded, the later ones make up for it, and it is struck from the inverse.
    """
    left, damped = weight.astype(np.float64), moments.astype(np.float64)
    damped[np.diag_indices_from(damped)] += DAMPING * np.diag(damped).mean()
    inverse = np.linalg.inv(damped)
    grid = dequantise_blocks(
        Blocks(np.zeros_like(blocks.packed), blocks.scales, blocks.zero_points), bits=bits, width=len(weight)
    )
    numbers = np.empty(weight.shape, int)
    for i in range(len(weight)):
        scale = blocks.scales[:, i // block_size].astype(np.float64)
        lowest = grid[:, i].astype(np.float64)  # what number 0 stands for
        numbers[i] = np.clip(np.rint((left[i] - lowest) / scale), 0, 2**bits - 1)
        error = (left[i] - (lowest + numbers[i] * scale)) / inverse[i, i]
        left[i + 1 :] -= np.outer(inverse[i + 1 :, i], error)
        inverse -= np.outer(inverse[:, i], inverse[i]) / inverse[i, i]
    return numbers


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    ("inputs", "outputs", "block_size"),
    [(8, 6, 4), (8, 6, 8), (10, 3, 4), (64, 5, 16), (300, 4, 256)],
    ids=["two blocks", "one block", "padded", "many", "blocks beyond the stride"],
)
def test_numbers_are_those_of_the_textbook_loop(inputs, outputs, block_size, bits) -> None:
    weight, _, moments = make_case(inputs, outputs)
    blocks = round_weight(weight, moments, bits=bits, block_size=block_size)
    expected = textbook(weight, moments, blocks, bits, block_size)
    rounded = dequantise_blocks(blocks, bits=bits, width=inputs)  # (out, in)
    scales = np.repeat(blocks.scales, block_size, axis=1)[:, :inputs]
    lowest = dequantise_blocks(blocks._replace(packed=np.zeros_like(blocks.packed)), bits=bits, width=inputs)
    assert np.array_equal(np.rint((rounded - lowest) / scales).T.astype(int), expected)


@pytest.mark.parametrize("block_size", [16, 32, 128])
def test_outputs_lose_less_than_half_of_what_k_quant_loses(block_size) -> None:
    weight, x, moments = make_case(128, 48)
    ours = round_weight(weight, moments, bits=4, block_size=block_size)
    theirs = quantise_blocks(weight.T, bits=4, block_size=block_size, method="k-quant")
    assert loss(x, weight, ours, 4) < 0.5 * loss(x, weight, theirs, 4)


def test_inputs_that_hang_together_in_no_way_are_rounded_to_the_nearest() -> None:
    weight = make_case(32, 7)[0]
    blocks = round_weight(weight, np.eye(32, dtype=np.float32), bits=4, block_size=16)
    rounded = dequantise_blocks(blocks, bits=4, width=32).T
    steps = np.repeat(blocks.scales, 16, axis=1).T
    inside = (rounded > rounded.reshape(2, 16, 7).min(axis=1).repeat(16, axis=0)) & (
        rounded < rounded.reshape(2, 16, 7).max(axis=1).repeat(16, axis=0)
    )
    assert inside.mean() > 0.5
    assert (np.abs(weight - rounded) <= 0.5001 * steps)[inside].all()


def test_zero_columns_stay_zero_and_unused_inputs_do_no_harm() -> None:
    weight, _, moments = make_case(32, 9)
    weight[:, 4] = 0
    moments[5:8] = moments[:, 5:8] = 0
    blocks = round_weight(weight, moments, bits=4, block_size=16)
    rounded = dequantise_blocks(blocks, bits=4, width=32).T
    assert np.isfinite(blocks.scales).all()
    assert (rounded[:, 4] == 0).all()
    assert (np.abs(rounded).max(axis=0) > 0).sum() == 8


def test_zero_inputs_that_pad_heads_stay_zero() -> None:
    weight, _, moments = make_case(32, 9)
    weight[5:8] = 0
    moments[5:8] = moments[:, 5:8] = 0
    rounded = dequantise_blocks(round_weight(weight, moments, bits=4, block_size=16), bits=4, width=32).T
    assert (rounded[5:8] == 0).all()


def test_arguments_are_left_as_they_are() -> None:
    weight, _, moments = make_case(32, 9)
    before = weight.copy(), moments.copy()
    round_weight(weight, moments, bits=4, block_size=16)
    assert np.array_equal(weight, before[0])
    assert np.array_equal(moments, before[1])

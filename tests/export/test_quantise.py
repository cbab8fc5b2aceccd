"""Weights as small integers, against versions of one block at a time."""

from __future__ import annotations

import numpy as np
import pytest

from ortgpt_export import quantise
from ortgpt_export.quantise import Blocks, Method, dequantise_blocks, quantise_blocks, quantise_columns

BITS = (4, 8)
BLOCK_SIZES = (16, 32, 64, 128, 256)
METHODS: tuple[Method, ...] = ("rtn", "k-quant")


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def numbers_of(blocks: Blocks, bits: int, block_size: int) -> np.ndarray:
    """The integers (out, blocks, block_size), byte by byte."""
    out, count, _ = blocks.packed.shape
    numbers = []
    for byte in blocks.packed.ravel().tolist():
        numbers += [byte] if bits == 8 else [byte % 16, byte // 16]
    return np.array(numbers).reshape(out, count, block_size)


def zero_points_of(blocks: Blocks, bits: int) -> np.ndarray:
    """(out, blocks), row by row, for a row begins with a byte of its own."""
    assert blocks.zero_points is not None
    out, count = blocks.scales.shape
    rows = []
    for row in blocks.zero_points.tolist():
        values = row if bits == 8 else [half for byte in row for half in (byte % 16, byte // 16)]
        rows.append(values[:count])
    return np.array(rows).reshape(out, count)


def nearest(block: np.ndarray, bits: int) -> tuple[list[int], float]:
    """Numbers and scale of one block: the range from -peak to peak in 2**bits numbers."""
    peak, middle, highest = float(np.abs(block).max()), 1 << (bits - 1), (1 << bits) - 1
    scale = 2 * peak / highest if peak else 1.0
    return [min(highest, max(0, round(float(value) / scale + middle))) for value in block], scale


def searched(block: np.ndarray, bits: int) -> np.ndarray:
    """llama.cpp's search for one block: 21 ranges, the best straight line through each, weighted by size."""
    values, highest = block.astype(np.float64), (1 << bits) - 1
    weights = np.sqrt(np.mean(values**2)) + np.abs(values)
    low = values.min()
    scale = (values.max() - low) / highest
    numbers = np.clip(np.rint((values - low) / scale), 0, highest)
    best = np.sum(weights * (scale * numbers + low - values) ** 2)
    for step in range(20):
        reach = (highest - 1 + 0.1 * step) / (values.max() - low)
        numbers = np.clip(np.rint((values - low) * reach), 0, highest)
        line = np.stack([numbers, np.ones_like(numbers)], axis=1) * np.sqrt(weights)[:, None]
        solution = np.linalg.lstsq(line, values * np.sqrt(weights), rcond=None)[0]
        error = np.sum(weights * (solution[0] * numbers + solution[1] - values) ** 2)
        if error < best:
            (scale, low), best = solution, error  # also where the next range begins
    zero = np.clip(np.rint(-low / scale), 0, highest)
    return (np.clip(np.rint(values / scale + zero), 0, highest) - zero) * scale


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("block_size", BLOCK_SIZES)
@pytest.mark.parametrize("width", [1, 15, 60, 256, 300])
def test_rounding_is_that_of_one_block_at_a_time(bits, block_size, width) -> None:
    matrix = normal(3, width)
    blocks = quantise_blocks(matrix, bits=bits, block_size=block_size, method="rtn")
    count = -(-width // block_size)
    assert blocks.packed.shape == (3, count, block_size * bits // 8)
    assert blocks.scales.shape == (3, count)
    assert blocks.zero_points is None
    padded = np.pad(matrix, [(0, 0), (0, count * block_size - width)]).reshape(3, count, block_size)
    numbers = numbers_of(blocks, bits, block_size)
    for row in range(3):
        for place in range(count):
            expected, scale = nearest(padded[row, place], bits)
            assert numbers[row, place].tolist() == expected
            assert blocks.scales[row, place] == pytest.approx(scale, rel=1e-6)


@pytest.mark.parametrize("bits", BITS)
def test_the_search_finds_what_a_search_of_one_block_at_a_time_finds(bits) -> None:
    """The two sum up in other orders, so that now and then a near tie goes the other way."""
    matrix = normal(40, 96)
    blocks = quantise_blocks(matrix, bits=bits, block_size=32, method="k-quant")
    found = dequantise_blocks(blocks, bits=bits, width=96).reshape(-1, 32)
    expected = np.stack([searched(block, bits) for block in matrix.reshape(-1, 32)])
    steps = blocks.scales.reshape(-1, 1)
    same = (np.abs(found - expected) <= 0.05 * steps).all(axis=1)
    assert same.mean() >= 0.95


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("block_size", [16, 128])
def test_the_search_loses_less_than_rounding(bits, block_size) -> None:
    matrix = normal(64, 256)
    lost = {}
    for method in METHODS:
        blocks = quantise_blocks(matrix, bits=bits, block_size=block_size, method=method)
        lost[method] = np.mean((dequantise_blocks(blocks, bits=bits, width=256) - matrix) ** 2)
    assert lost["k-quant"] < 0.95 * lost["rtn"]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("block_size", BLOCK_SIZES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("width", [1, 60, 256, 300])
def test_dequantised_weights_are_number_less_zero_point_times_scale(bits, block_size, method, width) -> None:
    matrix = normal(5, width, seed=1)
    blocks = quantise_blocks(matrix, bits=bits, block_size=block_size, method=method)
    numbers = numbers_of(blocks, bits, block_size).astype(np.float64)
    middle = np.full(blocks.scales.shape, 1 << (bits - 1))
    zeros = middle if method == "rtn" else zero_points_of(blocks, bits)
    expected = (numbers - zeros[..., None]) * blocks.scales[..., None].astype(np.float64)
    values = dequantise_blocks(blocks, bits=bits, width=width)
    assert values.shape == matrix.shape
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, expected.reshape(5, -1)[:, :width], rtol=1e-6)
    # Half a step, and one more half at the ends of the range, where the search may cut.
    steps = np.repeat(blocks.scales, block_size, axis=1)[:, :width]
    assert (np.abs(values - matrix) <= 1.5 * steps).all()


def test_the_first_of_two_4_bit_numbers_is_in_the_low_half() -> None:
    row = np.zeros((1, 16), np.float32)
    row[0, :4] = [7.5, -7.5, 3, -2]  # the peak makes the scale 1: 15.5, 0.5, 11, 6 and then 8s
    blocks = quantise_blocks(row, bits=4, block_size=16, method="rtn")
    assert blocks.scales.tolist() == [[1.0]]
    assert blocks.packed.tolist() == [[[0x0F, 0x6B] + [0x88] * 6]]


def test_every_row_of_zero_points_begins_a_byte() -> None:
    """So three blocks take two bytes, of which the last half is not used."""
    blocks = quantise_blocks(normal(4, 96), bits=4, block_size=32, method="k-quant")
    assert blocks.zero_points is not None
    assert blocks.zero_points.shape == (4, 2)
    assert (blocks.zero_points[:, 1] >> 4 == 0).all()
    assert len(set(zero_points_of(blocks, 4).ravel().tolist())) > 1
    assert quantise_blocks(normal(4, 96), bits=8, block_size=32, method="k-quant").zero_points.shape == (4, 3)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("method", METHODS)
def test_a_zero_stays_exactly_zero(bits, method) -> None:
    """Padded heads rely on it: what should add nothing adds nothing."""
    matrix = normal(16, 128)
    matrix[:, 5::16] = 0
    matrix[3] = 0
    blocks = quantise_blocks(matrix, bits=bits, block_size=32, method=method)
    values = dequantise_blocks(blocks, bits=bits, width=128)
    assert (values[matrix == 0] == 0).all()
    assert np.isfinite(blocks.scales).all()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.3, -0.4, 5.0, -1e-3, 1e20, 1e-20])
def test_a_block_of_equal_weights_keeps_their_size(bits, method, value) -> None:
    matrix = np.full((2, 64), value, np.float32)
    blocks = quantise_blocks(matrix, bits=bits, block_size=32, method=method)
    values = dequantise_blocks(blocks, bits=bits, width=64)
    assert np.abs(values / np.float32(value) - 1).max() <= 1.01 / ((1 << bits) - 1)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_block_on_one_side_of_zero_is_no_worse_than_others(bits, method, sign) -> None:
    """Between 5 and 6 there is no number for zero, which the search takes for granted."""
    matrix = (sign * np.random.default_rng(0).uniform(5, 6, (4, 64))).astype(np.float32)
    matrix[1:3] = normal(2, 64)
    blocks = quantise_blocks(matrix, bits=bits, block_size=32, method=method)
    values = dequantise_blocks(blocks, bits=bits, width=64)
    assert (
        np.abs(values - matrix).max(axis=1) <= 1.01 * np.abs(matrix).max(axis=1) / ((1 << bits) - 1)
    ).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_matrix_is_quantised_in_parts_as_it_is_at_once(method, monkeypatch) -> None:
    matrix = normal(11, 90)
    whole = quantise_blocks(matrix, bits=4, block_size=32, method=method)
    monkeypatch.setattr(quantise, "CHUNK", 200)  # two rows of 96
    parts = quantise_blocks(matrix, bits=4, block_size=32, method=method)
    for ours, theirs in zip(parts, whole, strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("method", METHODS)
def test_the_matrix_is_left_as_it_was(method) -> None:
    matrix = normal(4, 64)
    before = matrix.copy()
    quantise_blocks(matrix, bits=4, block_size=32, method=method)
    quantise_columns(matrix)
    assert np.array_equal(matrix, before)


def test_columns_are_rounded_each_with_its_own_scale() -> None:
    matrix = normal(37, 9) * np.geomspace(1e-3, 1e3, 9, dtype=np.float32)
    columns = quantise_columns(matrix)
    assert (columns.values.dtype, columns.scales.dtype) == (np.int8, np.float32)
    assert (columns.values.shape, columns.scales.shape) == ((37, 9), (9,))
    for column in range(9):
        peak = float(np.abs(matrix[:, column]).max())
        assert columns.scales[column] == pytest.approx(peak / 127, rel=1e-6)
        expected = [round(float(value) / (peak / 127)) for value in matrix[:, column]]
        assert np.abs(columns.values[:, column] - expected).max() <= 1  # of a tie
        assert np.abs(columns.values[:, column]).max() == 127
        values = columns.values[:, column] * columns.scales[column].astype(np.float64)
        assert np.abs(values - matrix[:, column]).max() <= 0.5001 * peak / 127


@pytest.mark.parametrize("value", [0.0, 1e-45, 1.9e-43])
def test_a_column_that_is_zero_or_nearly_becomes_zeros_and_no_nan(value) -> None:
    matrix = normal(8, 3)
    matrix[:, 1] = value
    with np.errstate(all="raise", under="ignore"):
        columns = quantise_columns(matrix)
    assert (columns.scales > 0).all()
    assert np.isfinite(columns.scales).all()
    assert (np.abs(columns.values[:, 1] * columns.scales[1]) <= 2 * np.float32(value)).all()

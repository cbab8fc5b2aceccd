"""The forms of matrices, on bare onnxruntime, against NumPy with the weights that the integers stand for."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from ortgpt.manifest import WEIGHTS_NAME
from ortgpt_export.graph_writer import MICROSOFT, GraphWriter
from ortgpt_export.matrices import BlockMatrices, DynamicMatrices, FloatMatrices, Tables
from ortgpt_export.quantise import dequantise_blocks, quantise_blocks, quantise_columns

ROUNDING = 1e-4  # of sums in float32 whose terms are around 1

BLOCKS = [
    BlockMatrices(bits, block_size, method)
    for bits in (4, 8)
    for block_size in (16, 32, 64, 128, 256)
    for method in ("rtn", "k-quant")
]
SHAPES = [(128, 96), (60, 7), (1, 5), (300, 33), (96, 1)]  # (in, out); 96 is three blocks of 32

Emit = Callable[[GraphWriter], Any]


class Built:
    """A graph of a few nodes and its data file."""

    def __init__(self, folder: Path, emit: Emit) -> None:
        self.folder = folder
        folder.mkdir()
        with (folder / WEIGHTS_NAME).open("wb") as file:
            self.writer = GraphWriter(file)
            emit(self.writer)

    @property
    def data_size(self) -> int:
        return (self.folder / WEIGHTS_NAME).stat().st_size

    def run(self, outputs: list[str], **feeds: np.ndarray) -> list[np.ndarray]:
        inputs = [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(value.dtype), [None] * value.ndim
            )
            for name, value in feeds.items()
        ]
        results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.writer.nodes, "g", inputs, results, self.writer.initializers)
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid(MICROSOFT, 1)]
        path = self.folder / "graph.onnx"
        path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return list(session.run(outputs, feeds))


@pytest.fixture
def build(tmp_path: Path) -> Callable[[Emit], Built]:
    return lambda emit: Built(tmp_path / "graph", emit)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def stored(form: BlockMatrices, matrix: np.ndarray) -> np.ndarray:
    """What a matrix (out, in) has become in the file."""
    blocks = quantise_blocks(matrix, bits=form.bits, block_size=form.block_size, method=form.method)
    return dequantise_blocks(blocks, bits=form.bits, width=matrix.shape[1])


def block_tolerance(x: np.ndarray, matrix: np.ndarray, block_size: int) -> np.ndarray:
    """How far a product with x (rows, in) may be off, (rows, out): activations of a block have 127 steps.

    Each is half a step off at most; a block's step is its largest activation over 127.
    """
    padding = [(0, 0), (0, -x.shape[1] % block_size)]
    steps = np.abs(np.pad(x, padding)).reshape(len(x), -1, block_size).max(axis=-1) / 127
    sizes = np.abs(np.pad(matrix, padding)).reshape(len(matrix), -1, block_size).sum(axis=-1)
    return np.asarray(0.5 * steps @ sizes.T + ROUNDING)


def add_bias(graph: GraphWriter, bias: np.ndarray | None) -> str:
    return "" if bias is None else graph.weight("bias", bias)


def name_of(form: BlockMatrices) -> str:
    return f"{form.bits} bits, blocks of {form.block_size}, {form.method}"


@pytest.mark.parametrize("form", BLOCKS, ids=name_of)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("has_bias", [False, True])
def test_a_product_in_blocks_is_that_of_the_stored_weights(form, shape, has_bias, build) -> None:
    weight, x = normal(*shape), normal(5, shape[0], seed=1)
    bias = normal(shape[1], seed=2) if has_bias else None
    built = build(lambda graph: form.multiply(graph, "x", "w", weight, "y", add_bias(graph, bias)))
    matrix = stored(form, weight.T)
    expected = x @ matrix.T + (0 if bias is None else bias)
    (y,) = built.run(["y"], x=x)
    assert (np.abs(y - expected) <= block_tolerance(x, matrix, form.block_size)).all()
    (one,) = built.run(["y"], x=x[2:3])
    assert (np.abs(one - expected[2:3]) <= block_tolerance(x[2:3], matrix, form.block_size)).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("has_bias", [False, True])
def test_a_product_with_dynamic_activations_is_that_of_the_stored_columns(shape, has_bias, build) -> None:
    weight, x = normal(*shape), normal(5, shape[0], seed=1)
    bias = normal(shape[1], seed=2) if has_bias else None
    built = build(
        lambda graph: DynamicMatrices().multiply(graph, "x", "w", weight, "y", add_bias(graph, bias))
    )
    columns = quantise_columns(weight)
    matrix = columns.values * columns.scales
    (y,) = built.run(["y"], x=x)
    # One scale for all activations, 255 steps from the least to the greatest; the rounded zero point
    # may cost another half step at the ends.
    step = (max(x.max(), 0) - min(x.min(), 0)) / 255
    tolerance = step * np.abs(matrix).sum(axis=0) + ROUNDING
    assert (np.abs(y - (x @ matrix + (0 if bias is None else bias))) <= tolerance).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("has_bias", [False, True])
def test_a_product_in_float_is_that_of_the_weights(shape, has_bias, build) -> None:
    weight, x = normal(*shape), normal(5, shape[0], seed=1)
    bias = normal(shape[1], seed=2) if has_bias else None
    built = build(lambda graph: FloatMatrices().multiply(graph, "x", "w", weight, "y", add_bias(graph, bias)))
    (y,) = built.run(["y"], x=x)
    assert np.abs(y - (x @ weight + (0 if bias is None else bias))).max() <= ROUNDING


@pytest.mark.parametrize("form", [FloatMatrices(), DynamicMatrices(), BLOCKS[3], BLOCKS[-4]])
def test_activations_keep_their_axes(form, build) -> None:
    weight, x = normal(64, 10), normal(2, 3, 64)
    built = build(lambda graph: form.multiply(graph, "x", "w", weight, "y"))
    (y,) = built.run(["y"], x=x)
    (flat,) = built.run(["y"], x=x.reshape(6, 64))
    assert y.shape == (2, 3, 10)
    assert np.abs(y.reshape(6, 10) - flat).max() <= ROUNDING


def table_graph(form: Tables, table: np.ndarray) -> Emit:
    def emit(graph: GraphWriter) -> None:
        form.store(graph, "table", table)
        form.look_up(graph, "table", table, "ids", "rows")
        form.project(graph, "x", "table", table, "logits")

    return emit


@pytest.mark.parametrize("form", BLOCKS, ids=name_of)
@pytest.mark.parametrize("width", [16, 60, 96, 129, 256, 384])
def test_lookup_and_head_have_the_same_table(form, width, build) -> None:
    """96 and 384 have an odd number of blocks, where rows of 4-bit zero points end in a half byte."""
    table, x = normal(37, width), normal(3, width, seed=1)
    ids = np.array([[0, 36, 5], [7, 7, 1]])
    rows, logits = build(table_graph(form, table)).run(["rows", "logits"], ids=ids, x=x)
    matrix = stored(form, table)
    assert rows.shape == (2, 3, width)
    np.testing.assert_allclose(rows, matrix[ids], rtol=1e-6)
    assert (np.abs(logits - x @ matrix.T) <= block_tolerance(x, matrix, form.block_size)).all()


def test_lookup_and_head_in_float_have_the_same_table(build) -> None:
    table, x = normal(37, 60), normal(3, 60, seed=1)
    ids = np.array([[0, 36, 5]])
    rows, logits = build(table_graph(FloatMatrices(), table)).run(["rows", "logits"], ids=ids, x=x)
    assert np.array_equal(rows, table[ids])
    assert np.abs(logits - x @ table.T).max() <= ROUNDING


@pytest.mark.parametrize("form", [BLOCKS[1], BLOCKS[6], BLOCKS[-1], BLOCKS[-4]], ids=name_of)
@pytest.mark.parametrize("width", [60, 256])
def test_the_table_is_stored_once(form, width, build) -> None:
    table = normal(50, width)
    built = build(table_graph(form, table))
    external = [
        {pair.key: pair.value for pair in tensor.external_data} | {"name": tensor.name}
        for tensor in built.writer.initializers
        if tensor.external_data
    ]
    places = {entry["name"]: (entry["offset"], entry["length"]) for entry in external}
    assert places.pop("table") == places["table.blocks"]
    assert len(set(places.values())) == len(places) == (2 if form.method == "rtn" else 3)
    blocks = -(-width // form.block_size)
    numbers, page = 50 * blocks * form.block_size * form.bits // 8, 4096
    others = 50 * blocks * 4 + (50 * -(-blocks * form.bits // 8) if form.method != "rtn" else 0)
    assert numbers + others <= built.data_size < numbers + others + 3 * page
    lookup, product = (
        next(node for node in built.writer.nodes if node.op_type == kind)
        for kind in ("GatherBlockQuantized", "MatMulNBits")
    )
    assert list(lookup.input)[2:] == list(product.input)[2:]


def test_a_width_of_whole_blocks_is_not_cut_and_others_are(build) -> None:
    def operators(width: int) -> list[str]:
        graph = GraphWriter(io.BytesIO())
        table_graph(BlockMatrices(8, 32), normal(3, width))(graph)
        return [node.op_type for node in graph.nodes]

    assert operators(64) == ["GatherBlockQuantized", "MatMulNBits"]
    assert operators(65) == ["GatherBlockQuantized", "Slice", "MatMulNBits"]


@pytest.mark.parametrize("form", BLOCKS, ids=name_of)
def test_products_ask_for_activations_of_8_bits(form) -> None:
    """Anything else takes 20 to 100 times as long."""
    graph = GraphWriter(io.BytesIO())
    form.multiply(graph, "x", "w", normal(16, 4), "y")
    table_graph(form, normal(5, 16))(graph)
    products = [node for node in graph.nodes if node.op_type == "MatMulNBits"]
    levels = [{a.name: a.i for a in node.attribute}["accuracy_level"] for node in products]
    assert levels == [4, 4]


def test_a_view_has_the_bytes_of_another_tensor_and_its_own_dims(build) -> None:
    def emit(graph: GraphWriter) -> None:
        graph.weight("first", normal(3))
        graph.weight("table", normal(6, 4))
        graph.view("other", "table", (3, 8))
        graph.weight("last", normal(5))

    first, table, other, last = build(emit).writer.initializers
    assert (other.name, list(other.dims), other.data_type) == ("other", [3, 8], table.data_type)
    assert list(table.dims) == [6, 4]
    assert other.external_data == table.external_data
    assert other.external_data not in (first.external_data, last.external_data)

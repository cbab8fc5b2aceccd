"""Reading a traced graph: what it says of the model, and what can't be spoken to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import GraphProto, TensorProto, helper, numpy_helper

from ortgpt.errors import CheckpointError
from ortgpt_export.traced_graph import TracedGraph

VOCAB, WIDTH, HEADS, SIZE = 7, 4, 2, 3
Edit = Callable[[GraphProto], None]


def write_graph(path: Path, edit: Edit = lambda _: None) -> Path:
    """A lookup, a product and a cache that is handed through: the least that a decoder is."""
    rng = np.random.default_rng(0)
    table = rng.standard_normal((VOCAB, WIDTH)).astype(np.float32)
    cache = ["rows", HEADS, "past", SIZE]
    pairs = [(f"past_key_values.0.{kind}", f"present.0.{kind}") for kind in ("key", "value")]
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "input_ids"], ["embedded"]),
            *(helper.make_node("Identity", [past], [present]) for past, present in pairs),
            helper.make_node("MatMul", ["embedded", "head"], ["logits"]),
        ],
        "least",
        [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["rows", "width"]),
            *(helper.make_tensor_value_info(past, TensorProto.FLOAT, cache) for past, _ in pairs),
        ],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", "width", VOCAB]),
            *(helper.make_tensor_value_info(present, TensorProto.FLOAT, cache) for _, present in pairs),
        ],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(table.T.copy(), "head")],
    )
    edit(graph)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    path.write_bytes(model.SerializeToString())
    return path


def read(tmp_path: Path, edit: Edit = lambda _: None) -> TracedGraph:
    return TracedGraph(write_graph(tmp_path / "model.onnx", edit))


def after_head(*nodes: onnx.NodeProto) -> Edit:
    """The product's result goes through `nodes`, the last of which gives the logits."""

    def edit(graph: GraphProto) -> None:
        graph.node[-1].output[0] = "product"
        graph.initializer.append(numpy_helper.from_array(np.ones(VOCAB, np.float32), "bias"))
        graph.node.extend(nodes)

    return edit


def test_the_shape_is_that_of_cache_and_head(tmp_path) -> None:
    assert read(tmp_path).shape == (1, HEADS, SIZE, WIDTH, VOCAB)


@pytest.mark.parametrize("inputs", [["product", "bias"], ["bias", "product"]])
@pytest.mark.parametrize("operator", ["Add", "Mul"])
def test_the_head_is_found_behind_a_bias_or_a_factor(operator, inputs, tmp_path) -> None:
    traced = read(tmp_path, after_head(helper.make_node(operator, inputs, ["logits"])))
    assert traced.head.output[0] == "product"


def test_the_head_is_found_behind_a_bound(tmp_path) -> None:
    """Gemma 2: the logits are bent by tanh."""
    bend = [
        helper.make_node("Div", ["product", "bias"], ["divided"]),
        helper.make_node("Tanh", ["divided"], ["bent"]),
        helper.make_node("Mul", ["bent", "bias"], ["logits"]),
    ]
    assert read(tmp_path, after_head(*bend)).head.output[0] == "product"


def test_the_table_is_the_one_that_the_ids_look_up(tmp_path) -> None:
    lookup = read(tmp_path).lookup
    assert lookup is not None
    assert lookup.input[0] == "table"


def test_a_table_that_something_else_reads_is_left_as_it_is(tmp_path) -> None:
    def edit(graph: GraphProto) -> None:
        graph.node.append(helper.make_node("Neg", ["table"], ["unused"]))

    assert read(tmp_path, edit).lookup is None


def test_a_weight_that_is_handed_on_is_read_itself(tmp_path) -> None:
    """So torch stores equal weights."""

    def edit(graph: GraphProto) -> None:
        graph.node[-1].input[1] = "alias"
        graph.node.insert(0, helper.make_node("Identity", ["head"], ["alias"]))

    traced = read(tmp_path, edit)
    assert traced.head.input[1] == "head"
    assert "Identity" not in [node.op_type for node in traced.nodes if "head" in node.input]


def test_a_lookup_by_something_else_is_no_table_of_tokens(tmp_path) -> None:
    def edit(graph: GraphProto) -> None:
        graph.initializer.append(numpy_helper.from_array(np.zeros((1, 1), np.int64), "ids"))
        graph.node[0].input[1] = "ids"

    assert read(tmp_path, edit).lookup is None


def test_weights_outside_the_file_are_read_from_there(tmp_path) -> None:
    inside = read(tmp_path)
    path = tmp_path / "outside.onnx"
    onnx.save(onnx.load(tmp_path / "model.onnx"), path, save_as_external_data=True, size_threshold=0)
    outside = TracedGraph(path)
    assert outside.tensors["head"].data_location == TensorProto.EXTERNAL
    assert outside.nbytes == inside.nbytes == 2 * VOCAB * WIDTH * 4
    np.testing.assert_array_equal(outside.values("head"), inside.values("head"))


def test_weights_that_are_not_finite_are_refused(tmp_path) -> None:
    def edit(graph: GraphProto) -> None:
        table = np.full((VOCAB, WIDTH), np.nan, np.float32)
        graph.initializer[0].CopyFrom(numpy_helper.from_array(table, "table"))

    with pytest.raises(CheckpointError, match="'table' holds NaN or infinite values"):
        read(tmp_path, edit).values("table")


def no_cache(graph: GraphProto) -> None:
    del graph.input[1:], graph.output[1:], graph.node[1:3]


def other_input(graph: GraphProto) -> None:
    graph.input.append(helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["rows", 3]))


def no_present(graph: GraphProto) -> None:
    del graph.output[-1]


def no_head(graph: GraphProto) -> None:
    graph.node[-1].op_type = "Sub"


def head_of_another_type(graph: GraphProto) -> None:
    graph.initializer[1].CopyFrom(numpy_helper.from_array(np.ones((WIDTH, VOCAB)), "head"))


def free_heads(graph: GraphProto) -> None:
    for value in graph.input[1:]:
        value.type.tensor_type.shape.dim[1].dim_param = "heads"


def unequal_layers(graph: GraphProto) -> None:
    graph.input[2].type.tensor_type.shape.dim[3].dim_value = SIZE + 1


def branches(graph: GraphProto) -> None:
    branch = helper.make_graph([], "branch", [], [])
    graph.node.append(helper.make_node("If", ["condition"], [], then_branch=branch, else_branch=branch))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (no_cache, "other inputs and outputs: no cache"),
        (other_input, "other inputs and outputs: 'pixel_values'"),
        (no_present, r"other inputs and outputs: 'present\.0\.value'"),
        (no_head, "does not end in a product with a matrix"),
        (head_of_another_type, "does not end in a product with a matrix"),
        (free_heads, "caches differ in shape"),
        (unequal_layers, "caches differ in shape"),
        (branches, "holds other graphs"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_no_decoder_could_speak_to_is_refused_in_one_sentence(edit, message, tmp_path) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        read(tmp_path, edit)
    assert "\n" not in str(caught.value)

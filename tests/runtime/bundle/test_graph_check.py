"""ortgpt.bundle.graph_check: what a fused graph may hold. Each case starts from a graph that is accepted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from onnx import TensorProto, helper

from ortgpt.errors import BundleError
from ortgpt.manifest import GRAPH_NAME


@pytest.mark.parametrize("ragged", [True, False])
def test_accepted_graph_is_one_that_onnxruntime_loads(tmp_path: Path, make_tiny: Any, ragged: bool) -> None:
    tiny = make_tiny(tmp_path / "tiny", ragged)
    bundle = tiny.open()
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(bundle.directory)
    )
    session = onnxruntime.InferenceSession(bundle.graph, options, providers=["CPUExecutionProvider"])
    assert ("query_seqlens" in {port.name for port in session.get_inputs()}) is ragged
    bundle.check_weights_unchanged()


@pytest.mark.parametrize(
    ("domain", "operator"),
    [
        ("", "If"),
        ("", "Loop"),
        ("", "Scan"),
        ("", "Constant"),
        ("", "NoSuchOperator"),
        ("", "FusedMatMul"),
        ("com.microsoft", "EPContext"),
        ("com.microsoft", "MatMul"),
        ("com.microsoft", "BeamSearch"),
        ("pyopmulti", "PyOp"),
        ("ai.onnx.contrib", "PythonOp"),
        ("ai.onnx.ml", "TreeEnsemble"),
        ("ai.onnx.preview.training", "Adam"),
        ("evil", "Relu"),
    ],
)
def test_operator_outside_the_list_is_refused(tiny: Any, domain: str, operator: str) -> None:
    """FAULTS 15"""
    tiny.model.graph.node.append(helper.make_node(operator, ["hidden_states"], ["extra"], domain=domain))
    full_name = f"{domain}.{operator}" if domain else operator
    assert f"operator '{full_name}' is not allowed (1 nodes)" in tiny.graph_refusal()


def test_default_domain_has_two_spellings(tiny: Any) -> None:
    tiny.model.graph.node[0].domain = "ai.onnx"
    tiny.seal()
    tiny.open()
    tiny.model.graph.node[0].op_type = "If"
    assert "operator 'If' is not allowed" in tiny.graph_refusal()


def add_function(model: Any) -> None:
    imports = [helper.make_opsetid("", 20)]
    model.functions.append(
        helper.make_function("com.microsoft", "FusedMatMul", ["a"], ["b"], [], imports)  # shadows a real one
    )


@pytest.mark.parametrize("value", [-(2**63), -(2**31), -4, -2, -1, 0, 2, None])
def test_a_gather_over_other_axes_than_the_rows_is_refused(tiny: Any, value: int | None) -> None:
    """FAULTS 15: onnxruntime 1.32 dies of a negative number."""
    gather = next(node for node in tiny.model.graph.node if node.op_type == "GatherND")
    del gather.attribute[:]
    if value is not None:
        gather.attribute.append(helper.make_attribute("batch_dims", value))
    assert f"has batch_dims {value or 0}, only 1 is allowed" in tiny.graph_refusal()


def import_opset(domain: str, version: int) -> Callable[[Any], None]:
    return lambda model: model.opset_import.append(helper.make_opsetid(domain, version))


def set_opset(version: int) -> Callable[[Any], None]:
    return lambda model: setattr(model.opset_import[0], "version", version)


def nest_graph(model: Any) -> None:
    inner = helper.make_graph([], "inner", [], [])
    model.graph.node[3].attribute.append(helper.make_attribute("body", inner))


def nest_tensor(model: Any) -> None:
    value = TensorProto(name="x", data_location=1, dims=[1], data_type=1)
    model.graph.node[3].attribute.append(helper.make_attribute("value", value))


def add_sparse(model: Any) -> None:
    model.graph.sparse_initializer.add()


def configure(model: Any) -> None:
    model.metadata_props.add(key="ort_config", value='{"session_options": {}}')


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_opset(99), "opset 99 of domain 'ai.onnx' is not known"),
        (set_opset(0), "opset 0 of domain 'ai.onnx' is not known"),
        (set_opset(-1), "opset -1 of domain"),
        (lambda model: model.opset_import.pop(0), "must import the ONNX opset"),
        (import_opset("ai.onnx", 20), "no opset twice"),
        (import_opset("ai.onnx.ml", 3), "opset 3 of domain 'ai.onnx.ml' is not known"),
        (lambda model: setattr(model, "ir_version", 99), "ir_version 99 is not known"),
        (add_function, "it holds functions"),
        (lambda model: model.training_info.add(), "it holds training information"),
        (add_sparse, "it holds sparse initializers"),
        (configure, "its metadata configures onnxruntime"),
        (nest_graph, "node '' holds a graph or a tensor in attribute 'body'"),
        (nest_tensor, "node '' holds a graph or a tensor in attribute 'value'"),
    ],
)
def test_graph_holds_nothing_but_nodes_of_known_opsets(
    tiny: Any, change: Callable[[Any], None], message: str
) -> None:
    """FAULTS 15, 27"""
    change(tiny.model)
    assert message in tiny.graph_refusal()


def port(name: str, kind: int, shape: list[Any] | None) -> Callable[[Any], None]:
    """Replace an input or output."""

    def change(model: Any) -> None:
        for side in (model.graph.input, model.graph.output):
            for value in side:
                if value.name == name:
                    value.CopyFrom(helper.make_tensor_value_info(name, kind, shape))

    return change


def rename(old: str, new: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        for value in (*model.graph.input, *model.graph.output):
            if value.name == old:
                value.name = new

    return change


FLOAT, INT32, INT64 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64
CACHE = "past_key_values.0.key"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename("input_ids", "tokens"), "input input_ids is missing"),
        (rename("input_ids", "tokens"), "input 'tokens' is not expected"),
        (rename("hidden_states", "states"), "output hidden_states is missing"),
        (rename("present.0.key", "present.1.key"), "output present.0.key is missing"),
        (rename("seqlens_k", "input_ids"), "two inputs have the same name"),
        (
            port("input_ids", INT32, ["rows", "width"]),
            "input input_ids must be int64 [rows, width], found int32 [rows, width]",
        ),
        (port("seqlens_k", INT32, []), "input seqlens_k must be int32 [rows], found int32 []"),
        (port("seqlens_k", INT32, None), "must be int32 [rows], found int32 without a shape"),
        (port("seqlens_k", INT32, [3]), "must be int32 [rows], found int32 [3]"),
        (port("total_sequence_length", INT32, [1]), "must be int32 [], found int32 [1]"),
        (
            port("logits", FLOAT, ["rows", "outputs", 41]),
            "output logits must be float32 [rows, outputs, 40], found float32 [rows, outputs, 41]",
        ),
        (port("logits", FLOAT, ["rows", "outputs", "vocab"]), "found float32 [rows, outputs, vocab]"),
        (port("hidden_states", TensorProto.DOUBLE, ["rows", "width", 16]), "found type 11 [rows, width, 16]"),
        (
            port(CACHE, FLOAT, ["rows", 4, "capacity", 4]),
            f"input {CACHE} must be float32 [rows, 2, capacity, 8], found float32 [rows, 4, capacity, 4]",
        ),
        (
            port("attention_bias", FLOAT, ["rows", 2, "width", "total"]),
            "found float32 [rows, 2, width, total]",
        ),
    ],
)
def test_inputs_and_outputs_are_those_of_the_contract(
    tiny: Any, change: Callable[[Any], None], message: str
) -> None:
    """FAULTS 16"""
    change(tiny.model)
    assert message in tiny.graph_refusal()


def test_names_of_free_axes_do_not_matter_and_never_reach_the_terminal_raw(tiny: Any) -> None:
    tiny.model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch\x1b[2J"
    tiny.seal()
    tiny.open()
    tiny.model.graph.input[0].type.tensor_type.elem_type = INT32
    assert r"found int32 ['batch\x1b[2J', width]" in tiny.graph_refusal()


def test_input_of_another_kind_than_a_tensor_is_refused(tiny: Any) -> None:
    """FAULTS 16"""
    sequence = helper.make_tensor_sequence_value_info("input_ids", INT64, ["rows", "width"])
    tiny.model.graph.input[0].CopyFrom(sequence)
    assert "input input_ids must be int64 [rows, width], found type 0 without a shape" in tiny.graph_refusal()


def test_query_seqlens_belongs_to_bundles_for_onnxruntime_1_32_only(tmp_path: Path, make_tiny: Any) -> None:
    """FAULTS 16"""
    for ragged, floor, message in ((True, "1.31", "is not expected"), (False, "1.32", "is missing")):
        tiny = make_tiny(tmp_path / floor, ragged)
        tiny.write_manifest(provenance=tiny.manifest["provenance"] | {"onnxruntime_floor": floor})
        with pytest.raises(BundleError, match=f"input '?query_seqlens'? {message}"):
            tiny.open()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 3}, "4 outputs are too few for the manifest's 3 layers"),
        ({"layers": 2**31 - 1}, "too few for the manifest's 2147483647 layers"),
        ({"vocab_size": 41}, "output logits must be float32 [rows, outputs, 41], found"),
        ({"vocab_size": 41}, "input_ids must look up a table of 41 x 16, found a table [40, 16]"),
        ({"context": 33}, "position_ids must look up a table of 33 x 16, found a table [32, 16]"),
        (
            {"heads": 1, "head_size": 16, "cache_head_size": 16},
            "node 'attention' has num_heads 2, the manifest 1",
        ),
        (
            {"heads": 1, "head_size": 16, "cache_head_size": 16},
            "node 'attention' has kv_num_heads 2, the manifest 1",
        ),
        ({"cache_head_size": 16}, "must be float32 [rows, 2, capacity, 16], found"),
        ({"width": 32, "head_size": 16, "cache_head_size": 16}, "output hidden_states must be"),
    ],
)
def test_graph_computes_the_architecture_that_the_manifest_names(
    tiny: Any, changes: dict[str, int], message: str
) -> None:
    """FAULTS 16"""
    tiny.write_architecture(**changes)
    assert message in tiny.graph_refusal()


def test_number_of_attention_nodes_is_the_number_of_layers(tiny: Any) -> None:
    """FAULTS 16"""
    tiny.model.graph.node.append(tiny.model.graph.node[4])
    assert "the manifest has 1 layers, the graph 2 attention nodes" in tiny.graph_refusal()


def test_all_problems_are_listed_at_once(tiny: Any) -> None:
    """FAULTS 16"""
    tiny.set_external("wte", offset="-4")
    tiny.model.graph.node[0].op_type = "If"
    tiny.model.opset_import[0].version = 99
    rename("input_ids", "tokens")(tiny.model)
    message = tiny.graph_refusal()
    for part in (
        "offset '-4'",
        "operator 'If'",
        "opset 99",
        "input_ids is missing",
        "'tokens' is not expected",
    ):
        assert part in message
    assert message.startswith(f"{tiny.directory}: {GRAPH_NAME} is not usable: ")


def test_long_list_of_problems_is_cut(tiny: Any) -> None:
    for number in range(100):
        tiny.model.graph.node.append(helper.make_node(f"Evil{number}", [], []))
    message = tiny.graph_refusal()
    assert "'Evil19'" in message
    assert "'Evil20'" not in message
    assert message.endswith("; and 80 more")


def test_bundle_is_frozen(tiny: Any) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        tiny.open().graph = b""

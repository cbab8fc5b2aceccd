"""The export to float16: the graph against the NumPy reference, and what float16 can't hold."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from checkpoints import make_checkpoint
from onnx import TensorProto

from ortgpt.errors import CheckpointError, OptionError
from ortgpt.graph_contract import FUSED_OPERATORS, fused_inputs, fused_outputs
from ortgpt_export.checkpoint import open_checkpoint
from ortgpt_export.config import ACTIVATIONS
from ortgpt_export.exporter import export_checkpoint
from ortgpt_export.half import LARGEST, to_half
from ortgpt_export.job import describe
from ortgpt_export.reference import forward
from ortgpt_export.schemes import SCHEMES

FP16 = SCHEMES["fp16"]
PROMPT, STEPS = 12, 10
# Of the spread of the logits, or of the hidden states: what float16 loses on the way, in 2 to 12 layers.
LIMIT = 5e-3

SHAPES: dict[str, dict[str, Any]] = {
    "even heads": {},
    "12 layers": {"n_layer": 12, "scale": 0.1},
    "3 heads of 12": {"n_head": 3, "n_embd": 36},
    "5 heads of 5": {"n_head": 5, "n_embd": 25},
    "7 heads of 1": {"n_head": 7, "n_embd": 7},
    "n_inner": {"n_inner": 37},
    "attention scaled by layer": {"scale_attn_by_inverse_layer_idx": True, "n_layer": 3},
    **{name: {"activation_function": name} for name in ACTIVATIONS},
}


def check_against_reference(checkpoint: Path, graph: Any) -> None:
    """A prefill and cached steps, against one uncached float32 pass of the rounded weights."""
    token_ids = np.random.default_rng(1).integers(0, graph.config.vocab_size, PROMPT + STEPS).tolist()
    with open_checkpoint(checkpoint, graph.config) as weights:
        rounded = {name: values.astype(np.float16).astype(np.float32) for name, values in weights.items()}
    expected = forward(rounded, graph.config, np.array(token_ids))[:2]
    for values, wanted in zip(graph.run(token_ids, PROMPT), expected, strict=True):
        assert values.dtype == np.float32
        assert values.shape == wanted.shape
        assert np.ptp(wanted) > 0.5, "numbers this flat could not show a difference"
        assert np.abs(values - wanted).max() <= LIMIT * np.ptp(wanted)


@pytest.mark.parametrize("overrides", SHAPES.values(), ids=SHAPES.keys())
def test_every_shape_and_activation_agrees_with_the_reference(overrides, tmp_path, make_graph) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", seed=3, **overrides)
    check_against_reference(checkpoint, make_graph(checkpoint, scheme=FP16))


def test_a_separate_head_agrees_with_the_reference(checkpoint, edit_config, edit_weights, make_graph) -> None:
    edit_config(checkpoint, tie_word_embeddings=False)
    head = np.random.default_rng(9).standard_normal((257, 32)).astype(np.float32)
    edit_weights(checkpoint, lambda weights: weights | {"lm_head.weight": 0.2 * head})
    check_against_reference(checkpoint, make_graph(checkpoint, scheme=FP16))


def test_the_graph_for_onnxruntime_1_31_agrees_with_the_reference(checkpoint, make_graph) -> None:
    check_against_reference(checkpoint, make_graph(checkpoint, scheme=FP16, onnxruntime_floor="1.31"))


@pytest.mark.parametrize("floor", ["1.31", "1.32"])
def test_ports_and_operators_are_those_of_the_contract(floor, checkpoint, make_graph) -> None:
    graph = make_graph(checkpoint, scheme=FP16, onnxruntime_floor=floor)
    model = onnx.load_from_string(graph.proto).graph
    architecture = describe(graph.config, graph.config.vocab_size)
    inputs = fused_inputs(architecture, ragged_widths=floor == "1.32", element_type="float16")
    outputs = fused_outputs(architecture, element_type="float16")
    assert [(v.name, dtype_of(v)) for v in model.input] == [(port.name, port.dtype) for port in inputs]
    assert [(v.name, dtype_of(v)) for v in model.output] == [(port.name, port.dtype) for port in outputs]
    assert all(node.op_type in FUSED_OPERATORS[node.domain] for node in model.node)
    names = {name for node in model.node for name in node.input}
    assert "attention_bias" not in names
    assert ("query_seqlens" in names) is (floor == "1.32")


def dtype_of(value: onnx.ValueInfoProto) -> str:
    return str(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))


def test_all_weights_are_float16_and_only_what_is_handed_out_becomes_float32(checkpoint, make_graph) -> None:
    model = onnx.load_from_string(make_graph(checkpoint, scheme=FP16).proto).graph
    assert {tensor.data_type for tensor in model.initializer} == {TensorProto.FLOAT16, TensorProto.INT64}
    casts = {node.output[0] for node in model.node if node.op_type == "Cast"}
    assert casts == {"hidden_states", "logits"}
    readers = [node.op_type for node in model.node if "wte.weight" in node.input]
    assert readers == ["Gather", "FusedMatMul"], "the head reads the embedding table itself"


def test_weights_are_rounded_to_the_nearest_float16() -> None:
    values = np.array([0, 1, -1.00048828125, 65504, 65519, -65519, 6e-8, 1e-9], np.float32)
    halves = to_half("x", values)
    assert halves.dtype == np.float16
    assert halves.tolist() == [0, 1, -1, 65504, 65504, -65504, np.float16(6e-8), 0]


@pytest.mark.parametrize("value", [65520, -65520, 1e6, -3e38])
def test_a_weight_beyond_float16_is_refused_with_its_tensor_and_size(value: float) -> None:
    values = np.ones((3, 4), np.float32)
    values[1, 2] = value
    with pytest.raises(CheckpointError, match=r"h\.7\.x reaches [0-9,]+, float16 ends at 65,504") as caught:
        to_half("h.7.x", values)
    assert f"{abs(value):,.0f}"[:3] in str(caught.value)
    assert "fp32" in str(caught.value.hint)


@pytest.mark.parametrize(("scale", "lost"), [(1e-7, "%"), (1e-9, "100% of it"), (1e-30, "100% of it")])
def test_a_tensor_that_float16_would_flush_away_is_refused(scale: float, lost: str) -> None:
    values = (scale * np.random.default_rng(0).standard_normal((64, 64))).astype(np.float32)
    with pytest.raises(CheckpointError, match=r"h\.7\.x is too small for float16: it reaches .*e-") as caught:
        to_half("h.7.x", values)
    assert lost in str(caught.value)


def test_small_weights_beside_others_are_no_fault() -> None:
    values = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    values[:, :32] *= 1e-9
    assert not to_half("x", values)[:, :32].any()
    assert not to_half("x", np.zeros(5, np.float32)).any()
    assert to_half("x", np.zeros((0, 5), np.float32)).shape == (0, 5)


@pytest.mark.parametrize(
    ("name", "factor", "message"),
    [
        ("h.1.mlp.c_fc.weight", 1e6, "h.1.mlp.c_fc.weight reaches"),
        ("h.0.attn.c_attn.bias", 1e7, "h.0.attn.c_attn.bias reaches"),
        ("wte.weight", 1e-8, "wte.weight is too small"),
        ("h.0.ln_2.weight", 1e-8, "h.0.ln_2.weight is too small"),
    ],
)
def test_no_bundle_is_written_of_weights_that_float16_can_t_hold(
    name, factor, message, checkpoint, edit_weights, tmp_path
) -> None:
    edit_weights(checkpoint, scaled(name, factor))
    with pytest.raises(CheckpointError, match=message):
        export_checkpoint(str(checkpoint), tmp_path / "bundle", precision="fp16", verify="none")
    assert not (tmp_path / "bundle").exists()
    export_checkpoint(str(checkpoint), tmp_path / "bundle", precision="fp32", verify="none")


def scaled(name: str, factor: float) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    stored = f"transformer.{name}"
    return lambda weights: weights | {stored: weights[stored] * np.float32(factor)}


def with_channel(token: float, position: float) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """One channel of the residual stream raised by all tokens, and by the first position."""

    def change(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        weights["transformer.wte.weight"][:, 5] += token
        weights["transformer.wpe.weight"][0, 5] += position
        return weights

    return change


def test_activations_beyond_float16_are_refused(checkpoint, edit_weights, tmp_path) -> None:
    edit_weights(checkpoint, with_channel(1000, 0.7 * LARGEST))
    with pytest.raises(CheckpointError, match=r"the numbers of h\.\d\.\w+\.sum reach 46,8\d\d when"):
        export_checkpoint(str(checkpoint), tmp_path / "bundle", precision="fp16", verify="none")


def test_logits_beyond_float16_are_refused(checkpoint, edit_weights, tmp_path) -> None:
    edit_weights(checkpoint, scaled("ln_f.weight", 1e5 / 5))
    with pytest.raises(CheckpointError, match=r"the numbers of logits reach [0-9,]+ when"):
        export_checkpoint(str(checkpoint), tmp_path / "bundle", precision="fp16", verify="none")


def test_activations_of_several_thousand_as_gpt_2_has_them_lose_little(
    checkpoint, edit_weights, tmp_path
) -> None:
    """Its are in a few channels, at the first token, which most others attend to."""
    edit_weights(checkpoint, with_channel(0, 4000))
    manifest = export_checkpoint(str(checkpoint), tmp_path / "bundle", precision="fp16")
    assert manifest.quality is not None
    assert manifest.quality.kl_divergence < 1e-4


def test_the_manifest_says_what_fp16_is_and_what_it_has_lost(checkpoint, tmp_path, caplog) -> None:
    with caplog.at_level(logging.INFO, logger="ortgpt"):
        manifest = export_checkpoint(str(checkpoint), tmp_path / "bundle", precision="fp16")
    assert (manifest.precision, manifest.element_type) == ("fp16", "float16")
    assert (manifest.block_size, manifest.row_invariant, manifest.notes) == (None, False, ())
    assert manifest.quality is not None
    assert 0 < manifest.quality.kl_divergence < 1e-4
    assert manifest.quality.top1_agreement > 0.99
    assert manifest.parity != "skipped"
    assert caplog.records == [], "that fp16 is slow here is nothing that an exporter needs to hear"


def test_fp16_is_made_for_the_onnxruntime_that_there_is_for_cuda(checkpoint, tmp_path) -> None:
    floors = {}
    for number, options in enumerate(
        ({"precision": "fp16"}, {"precision": "fp16", "onnxruntime_floor": "1.32"}, {"precision": "fp32"})
    ):
        manifest = export_checkpoint(str(checkpoint), tmp_path / str(number), verify="none", **options)
        floors[number] = manifest.provenance.onnxruntime_floor
    assert list(floors.values()) == ["1.31", "1.32", "1.32"]


def test_row_invariance_is_not_to_be_had_with_fp16(checkpoint, tmp_path) -> None:
    with pytest.raises(OptionError, match="row_invariant can't be had with fp16: a GPU orders its sums"):
        export_checkpoint(str(checkpoint), tmp_path / "bundle", precision="fp16", row_invariant=True)

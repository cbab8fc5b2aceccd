"""The authored graph, on bare onnxruntime, against transformers and against the NumPy reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from checkpoints import make_checkpoint
from dequantised import dequantised
from transformers import GPT2LMHeadModel

from ortgpt.graph_contract import FUSED_OPERATORS, fused_inputs, fused_outputs
from ortgpt_export.checkpoint import open_checkpoint
from ortgpt_export.config import ACTIVATIONS
from ortgpt_export.graph import data_bytes
from ortgpt_export.heads import cache_head_size
from ortgpt_export.job import describe
from ortgpt_export.reference import forward
from ortgpt_export.schemes import SCHEMES, Scheme, choose_scheme

LIMIT = 2e-4
PROMPT, STEPS = 12, 16

Change = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


def transformers_forward(checkpoint: Path, token_ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
    # eager: its faster attention ignores scale_attn_weights and scale_attn_by_inverse_layer_idx
    model = GPT2LMHeadModel.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        result = model(torch.tensor([token_ids]), output_hidden_states=True)
    return result.logits[0].numpy(), result.hidden_states[-1][0].numpy()


def check_three_agree(checkpoint: Path, graph: Any) -> None:
    vocab = graph.config.vocab_size
    token_ids = np.random.default_rng(1).integers(0, vocab, PROMPT + STEPS).tolist()
    expected = transformers_forward(checkpoint, token_ids)
    assert np.ptp(expected[0]) > 1, "logits this flat could not show a difference"
    with open_checkpoint(checkpoint, graph.config) as weights:
        reference = forward(weights, graph.config, np.array(token_ids))
    for ours in (graph.run(token_ids, PROMPT), reference[:2]):
        for values, wanted in zip(ours, expected, strict=True):
            assert values.shape == wanted.shape
            assert np.abs(values - wanted).max() <= LIMIT


SHAPES: dict[str, dict[str, Any]] = {
    "1 layer": {"n_layer": 1},
    "12 layers": {"n_layer": 12, "scale": 0.1},
    "1 head": {"n_head": 1, "n_embd": 8},
    "3 heads of 12": {"n_head": 3, "n_embd": 36},
    "5 heads of 10": {"n_head": 5, "n_embd": 50},
    "3 heads of 20": {"n_head": 3, "n_embd": 60},
    "5 heads of 5": {"n_head": 5, "n_embd": 25},
    "7 heads of 1": {"n_head": 7, "n_embd": 7},
    "2 heads of 64": {"n_head": 2, "n_embd": 128, "scale": 0.1},
    "n_inner": {"n_inner": 37},
    "vocabulary of GPT-2": {"vocab_size": 50257, "n_embd": 16},
    "large epsilon": {"layer_norm_epsilon": 0.3},
    "unscaled attention": {"scale_attn_weights": False},
    "attention scaled by layer": {"scale_attn_by_inverse_layer_idx": True, "n_layer": 3},
    "unscaled, but by layer": {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True},
    "padded heads scaled by layer": {"scale_attn_by_inverse_layer_idx": True, "n_head": 5, "n_embd": 25},
    "reordered attention": {"reorder_and_upcast_attn": True},
}


@pytest.mark.parametrize("overrides", SHAPES.values(), ids=SHAPES.keys())
def test_every_shape_agrees_with_transformers(overrides, tmp_path, make_graph) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", seed=3, **overrides)
    check_three_agree(checkpoint, make_graph(checkpoint))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_agrees_with_transformers(name, tmp_path, make_graph) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", seed=4, activation_function=name)
    check_three_agree(checkpoint, make_graph(checkpoint))


def test_activations_differ_enough_for_the_limit_to_tell_them_apart(tmp_path) -> None:
    """Guards the test above: two kinds of gelu differ by more than LIMIT in these models."""
    token_ids = list(range(PROMPT))
    logits = []
    for name in ("gelu", "gelu_new"):
        checkpoint = make_checkpoint(tmp_path / name, seed=4, activation_function=name)
        logits.append(transformers_forward(checkpoint, token_ids)[0])
    assert np.abs(logits[0] - logits[1]).max() > LIMIT


def without_prefix(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix("transformer."): values for name, values in weights.items()}


def with_masks(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    mask = np.tril(np.ones((1, 1, 64, 64), np.uint8))
    old = {f"transformer.h.{i}.attn.bias": mask for i in range(2)}
    return (
        weights
        | old
        | {f"transformer.h.{i}.attn.masked_bias": np.full((1,), -1e4, np.float32) for i in range(2)}
    )


def with_tied_copy(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return weights | {"lm_head.weight": weights["transformer.wte.weight"].copy()}


def in_half(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: values.astype(np.float16) for name, values in weights.items()}


def in_bfloat16(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: values.astype(ml_dtypes.bfloat16) for name, values in weights.items()}


@pytest.mark.parametrize("change", [without_prefix, with_masks, with_tied_copy, in_half, in_bfloat16])
def test_every_way_to_store_the_weights_agrees_with_transformers(
    change: Change, checkpoint, edit_weights, make_graph
) -> None:
    edit_weights(checkpoint, change)
    check_three_agree(checkpoint, make_graph(checkpoint))


def separate_head(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    head = np.random.default_rng(9).standard_normal(weights["transformer.wte.weight"].shape)
    return weights | {"lm_head.weight": (0.2 * head).astype(np.float32)}


def test_a_separate_head_agrees_with_transformers(checkpoint, edit_config, edit_weights, make_graph) -> None:
    edit_config(checkpoint, tie_word_embeddings=False)
    edit_weights(checkpoint, separate_head)
    graph = make_graph(checkpoint)
    check_three_agree(checkpoint, graph)
    assert {"wte.weight", "lm_head.weight"} <= initializer_names(graph)


def test_the_graph_for_onnxruntime_1_31_agrees_and_has_no_query_seqlens(checkpoint, make_graph) -> None:
    graph = make_graph(checkpoint, onnxruntime_floor="1.31")
    check_three_agree(checkpoint, graph)
    assert b"query_seqlens" not in graph.proto
    assert b"query_seqlens" in make_graph(checkpoint).proto


def initializer_names(graph: Any) -> set[str]:
    return {tensor.name for tensor in onnx.load_from_string(graph.proto).graph.initializer}


@pytest.mark.parametrize("floor", ["1.31", "1.32"])
def test_inputs_outputs_and_operators_are_those_of_the_contract(floor, checkpoint, make_graph) -> None:
    graph = make_graph(checkpoint, onnxruntime_floor=floor)
    model = onnx.load(graph.path, load_external_data=False).graph
    architecture = describe(graph.config, graph.config.vocab_size)
    inputs = fused_inputs(architecture, ragged_widths=floor == "1.32")
    assert [ports_of(v) for v in model.input] == [tuple(port) for port in inputs]
    assert [ports_of(v) for v in model.output] == [tuple(port) for port in fused_outputs(architecture)]
    assert all(node.op_type in FUSED_OPERATORS[node.domain] for node in model.node)


def ports_of(value: onnx.ValueInfoProto) -> tuple[str, str, tuple[int | str, ...]]:
    tensor = value.type.tensor_type
    dtype = str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return value.name, dtype, tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim)


def test_the_head_reads_the_embedding_table_itself(checkpoint, make_graph) -> None:
    model = onnx.load_from_string(make_graph(checkpoint).proto).graph
    readers = [node.op_type for node in model.node if "wte.weight" in node.input]
    assert readers == ["Gather", "FusedMatMul"]


def test_every_weight_lies_in_one_aligned_external_file(checkpoint, make_graph) -> None:
    """So the graph itself stays small, whatever the weights take: files over 2 GB are possible."""
    graph = make_graph(checkpoint)
    size = (graph.path.parent / "decoder.onnx.data").stat().st_size
    end = 0
    for tensor in onnx.load_from_string(graph.proto).graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            assert tensor.ByteSize() < 100
            continue
        fields = {entry.key: entry.value for entry in tensor.external_data}
        assert set(fields) == {"location", "offset", "length"}
        assert fields["location"] == "decoder.onnx.data"
        assert int(fields["offset"]) % 4096 == 0
        assert int(fields["offset"]) >= end
        end = int(fields["offset"]) + int(fields["length"])
    assert end == size


@pytest.mark.parametrize("heads", [{"n_head": 5, "n_embd": 25}, {"n_head": 2, "n_embd": 32}])
def test_the_size_is_known_before_anything_is_written(heads, tmp_path, make_graph) -> None:
    graph = make_graph(make_checkpoint(tmp_path / "checkpoint", **heads))
    with open_checkpoint(tmp_path / "checkpoint", graph.config) as weights:
        promised = data_bytes(graph.config, weights.nbytes)
    size = (graph.path.parent / "decoder.onnx.data").stat().st_size
    assert size <= promised <= size + 4096 * 40


def test_the_same_checkpoint_gives_the_same_bytes(checkpoint, make_graph) -> None:
    first = make_graph(checkpoint)
    data = (first.path.parent / "decoder.onnx.data").read_bytes()
    second = make_graph(checkpoint)
    assert first.proto == second.proto
    assert data == (second.path.parent / "decoder.onnx.data").read_bytes()


def test_heads_are_padded_to_the_next_multiple_of_eight(checkpoint, make_graph) -> None:
    config = make_graph(checkpoint).config
    sizes = {1: 8, 7: 8, 8: 8, 9: 16, 12: 16, 64: 64, 100: 104}
    for head_size, padded in sizes.items():
        changed = type(config)(**{**vars(config), "n_embd": config.n_head * head_size})
        assert cache_head_size(changed) == padded


QUANTISED = {name: scheme for name, scheme in SCHEMES.items() if name not in ("fp32", "fp16")} | {
    f"{name}, row-invariant": choose_scheme(name, row_invariant=True) for name in ("int8", "int4")
}
ODD_SHAPES: dict[str, dict[str, Any]] = {
    "heads of 12, width 60": {"n_head": 5, "n_embd": 60, "n_inner": 100},
    "heads of 5, narrower than a block": {"n_head": 3, "n_embd": 15, "n_inner": 7},
    "blocks and a rest": {"n_head": 3, "n_embd": 300, "n_inner": 300, "n_layer": 1, "scale": 0.1},
    "an odd number of blocks": {"n_head": 6, "n_embd": 384, "n_inner": 96, "n_layer": 1, "scale": 0.1},
    "exact gelu, scaled by layer": {
        "activation_function": "gelu",
        "scale_attn_by_inverse_layer_idx": True,
    },
}


def check_weights(checkpoint: Path, graph: Any, scheme: Scheme) -> None:
    """The graph is a pass with the stored weights, but for activations of 8 bits.

    Those cost a few per cent of what logits differ from token to token; other weights cost far more.
    """
    token_ids = np.random.default_rng(1).integers(0, graph.config.vocab_size, PROMPT + STEPS).tolist()
    with open_checkpoint(checkpoint, graph.config) as weights:
        rounded = forward(dequantised(weights, graph.config, scheme), graph.config, np.array(token_ids))
        exact = forward(weights, graph.config, np.array(token_ids))
    for values, wanted, original in zip(graph.run(token_ids, PROMPT), rounded, exact, strict=False):
        spread = wanted.std()
        distance = np.sqrt(np.mean((values - wanted) ** 2)) / spread
        assert distance <= 0.03
        if scheme.precision == "int4":
            assert distance <= 0.5 * np.sqrt(np.mean((values - original) ** 2)) / spread


@pytest.mark.parametrize("scheme", QUANTISED.values(), ids=QUANTISED.keys())
@pytest.mark.parametrize("overrides", ODD_SHAPES.values(), ids=ODD_SHAPES.keys())
def test_a_quantised_graph_computes_with_the_stored_weights(overrides, scheme, tmp_path, make_graph) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", seed=3, **overrides)
    check_weights(checkpoint, make_graph(checkpoint, scheme=scheme), scheme)


@pytest.mark.parametrize("scheme", QUANTISED.values(), ids=QUANTISED.keys())
def test_a_quantised_separate_head_is_a_table_of_its_own(
    scheme, checkpoint, edit_config, edit_weights, make_graph
) -> None:
    edit_config(checkpoint, tie_word_embeddings=False)
    edit_weights(checkpoint, separate_head)
    graph = make_graph(checkpoint, scheme=scheme)
    check_weights(checkpoint, graph, scheme)
    assert {"wte.weight", "lm_head.weight.blocks"} <= initializer_names(graph)


@pytest.mark.parametrize("scheme", QUANTISED.values(), ids=QUANTISED.keys())
@pytest.mark.parametrize("floor", ["1.31", "1.32"])
def test_a_quantised_graph_keeps_the_contract(scheme, floor, checkpoint, make_graph) -> None:
    graph = make_graph(checkpoint, scheme=scheme, onnxruntime_floor=floor)
    model = onnx.load(graph.path, load_external_data=False).graph
    architecture = describe(graph.config, graph.config.vocab_size)
    inputs = fused_inputs(architecture, ragged_widths=floor == "1.32")
    assert [ports_of(v) for v in model.input] == [tuple(port) for port in inputs]
    assert [ports_of(v) for v in model.output] == [tuple(port) for port in fused_outputs(architecture)]
    assert all(node.op_type in FUSED_OPERATORS[node.domain] for node in model.node)


@pytest.mark.parametrize("scheme", QUANTISED.values(), ids=QUANTISED.keys())
def test_no_matrix_of_a_quantised_graph_is_left_in_float(scheme, checkpoint, make_graph) -> None:
    graph = onnx.load_from_string(make_graph(checkpoint, scheme=scheme).proto).graph
    large = {tensor.name for tensor in graph.initializer if len(tensor.dims) > 1 and tensor.data_type == 1}
    assert all(name.endswith(".scales") for name in large)

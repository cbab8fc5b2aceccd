"""ortgpt.graph_contract against the table of inputs and outputs in the architecture."""

from __future__ import annotations

import pytest

from ortgpt.graph_contract import FUSED_OPERATORS, cache_names, fused_inputs, fused_outputs
from ortgpt.manifest import Architecture

TWO_LAYERS = Architecture(
    model_type="gpt2",
    layers=2,
    heads=3,
    head_size=5,
    cache_head_size=8,
    width=15,
    context=64,
    vocab_size=100,
    tokenizer_size=90,
    bos_token_id=None,
    eos_token_ids=(),
)
CACHE = ("float32", ("rows", 3, "capacity", 8))


def test_inputs_are_those_of_the_contract_in_order() -> None:
    ports = [(port.name, port.dtype, port.shape) for port in fused_inputs(TWO_LAYERS, ragged_widths=True)]
    assert ports == [
        ("input_ids", "int64", ("rows", "width")),
        ("position_ids", "int64", ("rows", "width")),
        ("seqlens_k", "int32", ("rows",)),
        ("total_sequence_length", "int32", ()),
        ("output_positions", "int64", ("rows", "outputs")),
        ("attention_bias", "float32", ("bias_rows", 1, "width", "total")),
        ("query_seqlens", "int32", ("rows",)),
        ("past_key_values.0.key", *CACHE),
        ("past_key_values.0.value", *CACHE),
        ("past_key_values.1.key", *CACHE),
        ("past_key_values.1.value", *CACHE),
    ]


def test_query_seqlens_is_there_with_ragged_widths_only() -> None:
    ragged = fused_inputs(TWO_LAYERS, ragged_widths=True)
    plain = fused_inputs(TWO_LAYERS, ragged_widths=False)
    assert [port for port in ragged if port.name != "query_seqlens"] == plain
    assert len(plain) == len(ragged) - 1


def test_outputs_are_those_of_the_contract_in_order() -> None:
    ports = [(port.name, port.dtype, port.shape) for port in fused_outputs(TWO_LAYERS)]
    assert ports == [
        ("logits", "float32", ("rows", "outputs", 100)),
        ("hidden_states", "float32", ("rows", "width", 15)),
        ("present.0.key", *CACHE),
        ("present.0.value", *CACHE),
        ("present.1.key", *CACHE),
        ("present.1.value", *CACHE),
    ]


def test_past_and_present_of_a_layer_are_paired() -> None:
    assert cache_names(11) == (
        ("past_key_values.11.key", "present.11.key"),
        ("past_key_values.11.value", "present.11.value"),
    )


def test_past_and_present_are_in_the_same_order_and_of_the_same_shape() -> None:
    past = [port for port in fused_inputs(TWO_LAYERS, ragged_widths=True) if port.name.startswith("past")]
    present = [port for port in fused_outputs(TWO_LAYERS) if port.name.startswith("present")]
    pairs = [names for layer in range(2) for names in cache_names(layer)]
    assert [(a.name, b.name) for a, b in zip(past, present, strict=True)] == pairs
    assert [port[1:] for port in past] == [port[1:] for port in present]


@pytest.mark.parametrize(
    "operator",
    ["If", "Loop", "Scan", "Constant", "SequenceMap", "PyOp", "EPContext", "BeamSearch", "MemcpyToHost"],
)
def test_operators_that_nest_graphs_or_run_foreign_code_are_not_allowed(operator: str) -> None:
    """FAULTS 15"""
    assert set(FUSED_OPERATORS) == {"", "com.microsoft"}
    assert all(operator not in names for names in FUSED_OPERATORS.values())

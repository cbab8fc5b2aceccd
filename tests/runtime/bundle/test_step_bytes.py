"""Weights that a decode step reads: whole, but for tables that are only looked up in."""

from __future__ import annotations

from math import prod

import pytest
from checkpoints import make_config, make_weights

from ortgpt.bundle.bundle import open_bundle
from ortgpt.bundle.step_bytes import count_step_bytes
from ortgpt.bundle.wire import Model, Node, Tensor, read_model

FLOAT, UINT8 = 1, 2


def node(operator: str, *inputs: str) -> Node:
    return Node(operator, "", "", inputs, (), {}, (), {}, {})


def graph(nodes: list[Node], **tensors: tuple[tuple[int, ...], int]) -> Model:
    initializers = tuple(Tensor(name, dims, kind, 1, (), None) for name, (dims, kind) in tensors.items())
    return Model(10, (), tuple(nodes), initializers, (), (), (), 0, 0, 0)


def test_a_bundle_reads_all_its_weights_but_one_row_of_the_positions(make_bundle) -> None:
    bundle = open_bundle(make_bundle())
    config = make_config()
    weights = sum(array.nbytes for array in make_weights(config, seed=0).values())
    unread = 4 * config["n_embd"] * (config["n_positions"] - 1)
    found = count_step_bytes(read_model(bundle.graph))
    # Besides, the graph has a few constants of its own.
    assert weights - unread <= found <= weights - unread + 100


@pytest.mark.parametrize("dims", [(10, 8), (10, 1, 8), (1, 8)])
def test_of_a_table_that_is_only_looked_up_in_a_row_is_read(dims) -> None:
    looked_up = graph([node("Gather", "table", "input_ids")], table=(dims, FLOAT))
    assert count_step_bytes(looked_up) == 4 * prod(dims[1:])


def test_a_table_that_the_head_reads_too_is_read_whole_and_once() -> None:
    shared = graph(
        [node("Gather", "table", "input_ids"), node("MatMul", "states", "table")], table=((10, 8), FLOAT)
    )
    assert count_step_bytes(shared) == 4 * 80


def test_a_quantised_table_is_read_by_row_with_its_scales_unless_the_head_has_them_too() -> None:
    lookup = node("GatherBlockQuantized", "table", "input_ids", "scales")
    tensors = {"table": ((10, 32), UINT8), "scales": ((10, 2), FLOAT)}
    assert count_step_bytes(graph([lookup], **tensors)) == 32 + 8
    head = node("MatMulNBits", "states", "table", "scales")
    assert count_step_bytes(graph([lookup, head], **tensors)) == 320 + 80


def test_a_number_without_axes_is_read() -> None:
    assert count_step_bytes(graph([node("Add", "x", "one")], one=((), FLOAT))) == 4
    assert count_step_bytes(graph([], one=((), FLOAT), none=((0, 3), FLOAT))) == 4


def test_a_merged_decoder_reads_the_weights_of_its_branch_with_a_past(make_portable) -> None:
    """Its outer graph has one node, which reads none."""
    graphs = [
        read_model(
            next(make_portable("llama", merged=merged).glob("*.onnx")).read_bytes(), dialect="portable"
        )
        for merged in (False, True)
    ]
    plain, merged = map(count_step_bytes, graphs)
    assert merged == pytest.approx(plain, rel=0.02)  # small constants are told apart

"""The graph that moves cells, as onnx reads it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from ortgpt.inference.move_graph import INPUTS, IR_VERSION, OPSET, OUTPUT, _number, _varint, move_graph


def test_onnx_finds_no_fault_in_it() -> None:
    model = onnx.load_from_string(move_graph())
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == IR_VERSION
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    assert tuple(port.name for port in model.graph.input) == INPUTS
    assert [port.name for port in model.graph.output] == [OUTPUT]


def test_it_is_what_onnx_itself_would_write() -> None:
    """Not a byte that its own serialiser would put elsewhere or leave out."""
    model = onnx.load_from_string(move_graph())
    again = onnx.ModelProto()
    again.CopyFrom(model)
    assert len(again.SerializeToString(deterministic=True)) == len(move_graph())


def test_it_moves_cells_within_every_plane() -> None:
    source, target = np.arange(24.0, dtype=np.float32).reshape(12, 2), np.zeros((8, 2), np.float32)
    places = {
        "source_planes": [0, 6],  # two planes of six cells
        "source_cells": [5, 0],
        "target_planes": [0, 4],  # of four
        "target_cells": [1, 3],
    }
    shapes = {"planes": (-1, 1, 1), "cells": (1, -1, 1)}
    feeds = {
        name: np.array(values).reshape(shapes[name.partition("_")[2]]) for name, values in places.items()
    }
    (moved,) = ReferenceEvaluator(onnx.load_from_string(move_graph())).run(
        None, {"source": source, "target": target, **feeds}
    )
    expected = target.copy()
    expected[[1, 3, 5, 7]] = source[[5, 0, 11, 6]]
    np.testing.assert_array_equal(moved, expected)


@pytest.mark.parametrize(
    ("value", "written"), [(0, b"\0"), (127, b"\x7f"), (128, b"\x80\x01"), (300, b"\xac\x02")]
)
def test_numbers_are_written_in_sevens_of_bits(value: int, written: bytes) -> None:
    assert _varint(value) == written
    assert _number(1, value) == b"\x08" + written

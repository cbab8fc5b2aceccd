"""ortgpt.bundle.weights and weights_check, on weights written by this test."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from ortgpt.bundle import weights_check
from ortgpt.bundle.weights import map_initializers
from ortgpt.bundle.weights_check import find_bad_weights
from ortgpt.errors import BundleIntegrityError


def test_mapped_arrays_are_those_that_the_onnx_package_reads(tiny: Any) -> None:
    arrays = map_initializers(tiny.open())
    assert arrays.keys() == {tensor.name for tensor in tiny.model.graph.initializer}
    for tensor in tiny.model.graph.initializer:
        expected = numpy_helper.to_array(tensor, base_dir=str(tiny.directory))
        np.testing.assert_array_equal(arrays[tensor.name], expected, strict=True)
        assert not arrays[tensor.name].flags.writeable


def test_tensor_without_values_is_mapped(tiny: Any) -> None:
    tiny.initializer("ln_1.shift").dims[:] = [0, 3]
    tiny.set_external("ln_1.shift", length="0", offset=str(tiny.weights_path.stat().st_size))
    tiny.seal()
    assert map_initializers(tiny.open())["ln_1.shift"].shape == (0, 3)


def test_bundle_whose_weights_file_is_empty_is_mapped(tiny: Any) -> None:
    expected = {name: array.copy() for name, array in map_initializers(tiny.open()).items()}
    for tensor in tiny.model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(expected[tensor.name], tensor.name))
    tiny.weights_path.write_bytes(b"")
    tiny.seal()
    arrays = map_initializers(tiny.open())
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array, strict=True)


def test_weights_replaced_since_opening_are_not_mapped(tiny: Any) -> None:
    """FAULTS 11"""
    bundle = tiny.open()
    tiny.weights_path.write_bytes(bytes(7936))
    with pytest.raises(BundleIntegrityError, match="changed since the bundle was opened"):
        map_initializers(bundle)


def test_sound_weights_have_no_faults(tiny: Any) -> None:
    assert find_bad_weights(tiny.open()) == []


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_every_bad_value_is_counted_and_its_initializer_named(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    """FAULTS 17"""
    monkeypatch.setattr(weights_check, "CHUNK", chunk)
    table = np.ones((40, 16))
    table[0, 0] = table[39, 15] = np.nan
    table[20, 3] = -np.inf
    tiny.write_weights("wte", table)
    tiny.write_weights("ln_1.shift", [1e-40, -1e-45, 0, -0.0, 1.2e-38, *[0] * 11])
    tiny.write_weights("qkv", np.zeros((16, 48)))
    tiny.seal()
    assert find_bad_weights(tiny.open()) == ["wte: 2 NaN, 1 infinite", "ln_1.shift: 2 denormal"]


def test_final_norm_of_zeros_is_named_another_is_not(tiny: Any) -> None:
    """FAULTS 17"""
    for name in ("ln_1.scale", "ln_f.shift"):
        tiny.write_weights(name, np.zeros(16))
    tiny.seal()
    assert find_bad_weights(tiny.open()) == []
    tiny.write_weights("ln_f.scale", np.zeros(16))
    tiny.seal()
    assert find_bad_weights(tiny.open()) == ["ln_f.scale: all zero, so every prediction is the same"]


def test_values_held_in_the_graph_are_looked_through_too(tiny: Any) -> None:
    """FAULTS 17"""
    scale = [1.0, float("nan"), *[1.0] * 14]
    tiny.initializer("ln_1.scale").CopyFrom(helper.make_tensor("ln_1.scale", TensorProto.FLOAT, [16], scale))
    tiny.seal()
    assert find_bad_weights(tiny.open()) == ["ln_1.scale: 1 NaN"]


def test_small_weights_of_float16_are_as_good_as_others(tiny: Any) -> None:
    """FAULTS 17"""
    values = np.array([1e-3, 1e-5, 0, np.inf], dtype=np.float16)
    tiny.model.graph.initializer.append(numpy_helper.from_array(values, "half"))
    tiny.seal()
    assert find_bad_weights(tiny.open()) == ["half: 1 infinite"]


def test_whole_numbers_have_no_bad_values(tiny: Any) -> None:
    values = np.frombuffer(np.float32([np.nan]).tobytes(), dtype=np.int32)
    tiny.model.graph.initializer.append(numpy_helper.from_array(values, "whole"))
    tiny.seal()
    assert find_bad_weights(tiny.open()) == []

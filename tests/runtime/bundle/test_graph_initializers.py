"""ortgpt.bundle.graph_check: where initializers may lie. Each case starts from a graph that is accepted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ortgpt.errors import BundleError
from ortgpt.manifest import WEIGHTS_NAME


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"location": "../" + WEIGHTS_NAME},
            "lies in '../decoder.onnx.data', only decoder.onnx.data is allowed",
        ),
        ({"location": "/etc/passwd"}, "lies in '/etc/passwd'"),
        ({"location": "./" + WEIGHTS_NAME}, "lies in './decoder.onnx.data'"),
        ({"location": "*/_ORT_MEM_ADDR_/*"}, "lies in '\\*/_ORT_MEM_ADDR_/\\*'"),
        ({"location": ""}, "lies in ''"),
        ({"location": "a" * 5000}, "lies in 'aaaa"),
        ({"offset": "-4"}, "has offset '-4', which is not a count of bytes"),
        ({"offset": "1" + "0" * 18}, "has offset '1000000000000000000', which is not"),
        ({"offset": "9" * 5000}, "has offset '9999"),
        ({"offset": "0x10"}, "has offset '0x10'"),
        ({"offset": " 0"}, "has offset ' 0'"),
        ({"offset": "٣"}, "has offset '٣'"),
        ({"offset": ""}, "has offset ''"),
        ({"offset": str(10**17)}, "ends at byte 100000000000002560 of decoder.onnx.data, which has 7936"),
        ({"offset": "5377"}, "ends at byte 7937 of decoder.onnx.data, which has 7936"),
        ({"length": "2556"}, "has length 2556, its dims ask for 2560"),
        ({"length": "2564"}, "has length 2564, its dims ask for 2560"),
        ({"length": "-2560"}, "has length '-2560'"),
        ({"__class__": "evil"}, "found keys 'location', 'offset', 'length', '__class__'"),
        ({"checksum": "0"}, "found keys 'location', 'offset', 'length', 'checksum'"),
    ],
)
def test_external_data_may_only_lie_within_the_weights_file(
    tiny: Any, fields: dict[str, str], message: str
) -> None:
    """FAULTS 13, 14"""
    tiny.set_external("wte", **fields)
    tiny.seal()
    with pytest.raises(BundleError, match="initializer 'wte' .*" + message):
        tiny.open()


def test_offset_may_reach_up_to_the_end_and_is_0_where_it_is_left_out(tiny: Any) -> None:
    tiny.set_external("wte", offset="5376")
    tiny.seal()
    tiny.open()
    del tiny.initializer("wte").external_data[1]
    tiny.seal()
    tiny.open()


def keep_only(tiny: Any, *keys: str) -> None:
    tensor = tiny.initializer("wte")
    kept = [(pair.key, pair.value) for pair in tensor.external_data if pair.key in keys]
    del tensor.external_data[:]
    for key, value in kept:
        tensor.external_data.add(key=key, value=value)


def repeat_location(tiny: Any) -> None:
    tiny.initializer("wte").external_data.add(key="location", value="/etc/passwd")


def set_dims(*dims: int, of: str = "ln_f.scale") -> Callable[[Any], None]:
    def change(tiny: Any) -> None:
        tiny.initializer(of).dims[:] = dims

    return change


def set_type(number: int) -> Callable[[Any], None]:
    def change(tiny: Any) -> None:
        tiny.initializer("ln_f.scale").data_type = number

    return change


def set_field(tensor: str, field: str, value: Any) -> Callable[[Any], None]:
    def change(tiny: Any) -> None:
        setattr(tiny.initializer(tensor), field, value)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tiny: keep_only(tiny), "initializer 'wte' must refer .* found keys none"),
        (lambda tiny: keep_only(tiny, "location", "offset"), "found keys 'location', 'offset'"),
        (lambda tiny: keep_only(tiny, "length", "offset"), "found keys 'offset', 'length'"),
        (repeat_location, "found keys 'location', 'offset', 'length', 'location'"),
        (set_dims(2**40), r"'ln_f.scale' has impossible dims \(1099511627776,\)"),
        (set_dims(-16), r"impossible dims \(-16,\)"),
        (set_dims(*[1] * 9), "impossible dims"),
        (set_dims(*[2**30] * 8), "has length 64, its dims ask for"),
        (set_dims(17), "has length 64, its dims ask for 68"),
        (set_type(8), "has element type 8, which no bundle uses"),
        (set_type(0), "has element type 0"),
        (set_type(7), "has length 64, its dims ask for 128"),
        (set_field("wte", "data_location", 0), "'wte' must hold its values or refer to them, not both"),
        (set_field("wte", "raw_data", bytes(2560)), "'wte' must hold its values or refer to them, not both"),
        (set_field("last_axis", "data_location", 1), "'last_axis' must hold its values or refer"),
        (set_dims(2, of="last_axis"), "'last_axis' holds 8 bytes, its dims ask for 16"),
        (set_field("ln_1.scale", "name", "wte"), "two initializers have the same name"),
        (set_field("last_axis", "name", "seqlens_k"), "an input has a default value"),
    ],
)
def test_initializer_must_fit_its_dims(tiny: Any, change: Callable[[Any], None], message: str) -> None:
    """FAULTS 13, 14"""
    change(tiny)
    tiny.seal()
    with pytest.raises(BundleError, match=message):
        tiny.open()


def test_weights_file_that_is_shorter_than_its_tensors_is_refused(tiny: Any) -> None:
    """FAULTS 13: the manifest agrees with the file, the graph does not."""
    tiny.weights_path.write_bytes(tiny.weights_path.read_bytes()[:-1])
    assert (
        "initializer 'ln_f.shift' ends at byte 7936 of decoder.onnx.data, which has 7935"
        in tiny.graph_refusal()
    )

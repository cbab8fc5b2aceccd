"""ortgpt.bundle.quantised_check: what onnxruntime packs without a look of its own. From a graph that runs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from onnx import helper
from quantised_tiny import quantise_tiny

from ortgpt.inference.fused_decoder import FusedDecoder
from ortgpt.inference.session import Session

Change = Callable[[Any], None]


@pytest.fixture
def quantised(tiny: Any) -> Any:
    return quantise_tiny(tiny)


def node(tiny: Any, name: str) -> Any:
    return next(node for node in tiny.model.graph.node if node.name == name)


def set_integer(name: str, **values: int) -> Change:
    """Set attributes of a node, or drop them where the value is None."""

    def change(tiny: Any) -> None:
        attributes = node(tiny, name).attribute
        kept = [attribute for attribute in attributes if attribute.name not in values]
        del attributes[:]
        attributes.extend(kept)
        attributes.extend(helper.make_attribute(k, v) for k, v in values.items() if v is not None)

    return change


def set_input(name: str, place: int, value: str) -> Change:
    def change(tiny: Any) -> None:
        inputs = node(tiny, name).input
        inputs.extend([""] * (place + 1 - len(inputs)))
        inputs[place] = value

    return change


def set_dims(name: str, *dims: int) -> Change:
    """Other dims for as many values."""

    def change(tiny: Any) -> None:
        tensor = tiny.initializer(name)
        del tensor.dims[:]
        tensor.dims.extend(dims)

    return change


def set_type(name: str, kind: int) -> Change:
    return lambda tiny: setattr(tiny.initializer(name), "data_type", kind)


def shorten(name: str, *dims: int, size: int = 1) -> Change:
    """Fewer values, of `size` bytes each: a tensor that is whole in itself."""

    def change(tiny: Any) -> None:
        set_dims(name, *dims)(tiny)
        count = size
        for dim in dims:
            count *= dim
        tiny.set_external(name, length=str(count))

    return change


def test_the_graph_that_all_cases_start_from_runs(quantised: Any) -> None:
    bundle = quantised.open()
    session = Session(bundle.graph, bundle.directory, bundle.manifest, threads=1)
    logits = FusedDecoder(session, bundle.manifest).extend([[1, 2, 3]]).logits
    assert logits.shape == (1, 1, 40)
    assert logits.std() > 0.1


PRODUCT: list[tuple[Change, str]] = [
    (set_integer("qkv_out", bits=2), "node 'qkv_out' has 2 bits in blocks of 16, which no bundle uses"),
    (set_integer("qkv_out", bits=-4), "has -4 bits in blocks of 16"),
    (set_integer("qkv_out", block_size=8), "has 4 bits in blocks of 8"),
    (set_integer("qkv_out", block_size=512), "has 4 bits in blocks of 512"),
    (set_integer("qkv_out", block_size=0), "has 4 bits in blocks of 0"),
    (set_integer("qkv_out", block_size=None), "has 4 bits in blocks of 0"),
    (set_integer("qkv_out", bits=8), "needs 768 values in input 1"),
    (set_integer("qkv_out", block_size=32), "needs 768 values in input 1"),
    (set_integer("qkv_out", N=0), "has impossible sizes N = 0, K = 16"),
    (set_integer("qkv_out", N=None), "has impossible sizes N = 0, K = 16"),
    (set_integer("qkv_out", N=-48), "has impossible sizes N = -48"),
    (set_integer("qkv_out", N=2**62), "has impossible sizes"),
    (set_integer("qkv_out", K=2**31), "has impossible sizes"),
    (set_integer("qkv_out", K=-16), "has impossible sizes"),
    (set_integer("qkv_out", N=49), "needs 392 values in input 1, found (48, 1, 8)"),
    (set_integer("qkv_out", N=24), "needs 192 values in input 1"),
    (set_integer("qkv_out", K=17), "needs 768 values in input 1"),
    (set_input("qkv_out", 1, "normed"), "must take its weights from initializers, input 1 is 'normed'"),
    (set_input("qkv_out", 1, ""), "must take its weights from initializers, input 1 is ''"),
    (set_input("qkv_out", 2, ""), "must take its weights from initializers, input 2 is ''"),
    (set_input("qkv_out", 2, "tokens"), "must take its weights from initializers, input 2 is 'tokens'"),
    (set_input("qkv_out", 3, "nothing"), "must take its weights from initializers, input 3 is 'nothing'"),
    (set_input("qkv_out", 1, "wte.blocks"), "needs 384 values in input 1, found (40, 1, 8)"),
    (set_input("qkv_out", 2, "wte.scales"), "needs 48 values in input 2, found (40, 1)"),
    (set_input("qkv_out", 3, "wte.zero_points"), "needs 48 values in input 3, found (40, 1)"),
    (set_input("qkv_out", 3, "qkv.bias"), "needs 48 values in input 3, found (48,)"),
    (set_input("qkv_out", 4, "last_axis"), "has g_idx"),
    (set_input("qkv_out", 5, "proj.bias"), "needs a bias of 48 values"),
    (set_input("qkv_out", 5, "positions"), "needs a bias of 48 values"),
    (shorten("qkv", 47, 1, 8), "needs 384 values in input 1, found (47, 1, 8)"),
    (shorten("qkv.scales", 47, 1, size=4), "needs 48 values in input 2, found (47, 1)"),
    (shorten("qkv.zero_points", 24, 1), "needs 48 values in input 3, found (24, 1)"),
    (shorten("qkv.bias", 47, size=4), "needs a bias of 48 values"),
    (set_type("qkv", 3), "needs 384 values in input 1"),
    (set_type("qkv.zero_points", 3), "needs 48 values in input 3"),
]

LOOKUP: list[tuple[Change, str]] = [
    (set_integer("tokens", bits=2), "node 'tokens' has 2 bits in blocks of 16 along axes (0, 1)"),
    (set_integer("tokens", block_size=24), "has 4 bits in blocks of 24"),
    (set_integer("tokens", block_size=None), "has 4 bits in blocks of 0"),
    (set_integer("tokens", gather_axis=1), "along axes (1, 1), which no bundle uses"),
    (set_integer("tokens", quantize_axis=0), "along axes (0, 0), which no bundle uses"),
    (set_integer("tokens", quantize_axis=-1), "along axes (0, -1), which no bundle uses"),
    (
        set_integer("positions", bits=4),
        "position_ids must look up a table of 32 x 16, found a table [32, 32]",
    ),
    (set_integer("tokens", bits=8), "input_ids must look up a table of 40 x 16, found a table [40, 8]"),
    (set_input("tokens", 0, "normed"), "must look up a table of uint8"),
    (set_input("tokens", 0, ""), "must look up a table of uint8"),
    (set_input("tokens", 0, "wte.blocks"), "must look up a table of uint8"),
    (set_input("tokens", 0, "proj"), "must look up a table of uint8"),
    (set_input("tokens", 2, ""), "needs scales of 40 x 1"),
    (set_input("tokens", 2, "wpe.scales"), "needs scales of 40 x 1"),
    (set_input("tokens", 2, "positions"), "needs scales of 40 x 1"),
    (set_input("tokens", 3, "qkv.zero_points"), "needs zero points for 40 x 1 blocks"),
    (set_input("tokens", 3, "normed"), "needs zero points for 40 x 1 blocks"),
    (set_dims("wte.scales", 1, 40), "needs scales of 40 x 1"),
    (set_dims("wte.zero_points", 40), "needs zero points for 40 x 1 blocks"),
    (shorten("wte", 39, 8), "input_ids must look up a table of 40 x 16, found a table [39, 16]"),
    (set_type("wte", 3), "must look up a table of uint8"),
    (set_type("wte.zero_points", 3), "needs zero points for 40 x 1 blocks"),
]

DYNAMIC: list[tuple[Change, str]] = [
    (set_input("projected", 1, "normed"), "node 'projected' must multiply with int8 weights of two axes"),
    (set_input("projected", 1, ""), "must multiply with int8 weights of two axes"),
    (set_input("projected", 1, "wte"), "must multiply with int8 weights of two axes"),
    (set_dims("proj", 16, 16, 1), "must multiply with int8 weights of two axes"),
    (set_type("proj", 2), "must multiply with int8 weights of two axes"),
    (set_input("projected", 2, ""), "needs 16 scales"),
    (set_input("projected", 2, "qkv.bias"), "needs 16 scales"),
    (set_input("projected", 2, "normed"), "needs 16 scales"),
    (set_dims("proj.scales", 16, 1), "needs 16 scales"),
    (shorten("proj.scales", 1, size=4), "needs 16 scales"),
    (set_input("projected", 3, "proj"), "has zero points, which no bundle uses"),
    (set_input("projected", 4, "qkv.bias"), "needs a bias of 16 values"),
    (set_dims("proj.bias", 1, 16), "needs a bias of 16 values"),
]


@pytest.mark.parametrize(("change", "message"), PRODUCT + LOOKUP + DYNAMIC)
def test_weights_that_are_not_as_many_as_the_node_says_are_refused(
    quantised: Any, change: Change, message: str
) -> None:
    change(quantised)
    assert message in quantised.graph_refusal()


@pytest.mark.parametrize(
    "change",
    [
        set_input("qkv_out", 3, ""),
        set_input("qkv_out", 5, ""),
        set_input("tokens", 3, ""),
        set_input("projected", 4, ""),
        set_dims("qkv", 48, 8),
        set_dims("qkv.scales", 48),
        set_integer("qkv_out", accuracy_level=None),
        set_integer("tokens", gather_axis=None),
    ],
)
def test_what_may_be_left_out_may_be_left_out(quantised: Any, change: Change) -> None:
    change(quantised)
    quantised.seal()
    quantised.open(verify=False)


def test_every_spoilt_node_is_named(quantised: Any) -> None:
    for change, _ in (PRODUCT[0], LOOKUP[0], DYNAMIC[0]):
        change(quantised)
    message = quantised.graph_refusal()
    assert [name for name in ("'qkv_out'", "'tokens'", "'projected'") if name in message] == [
        "'qkv_out'",
        "'tokens'",
        "'projected'",
    ]


def test_random_edits_are_a_typed_error_or_a_graph_that_runs(quantised: Any, tmp_path: Path) -> None:
    """FAULTS 15: in a process of its own, which must not crash."""
    program = Path(__file__).with_name("spoil_graph.py")
    (tmp_path / "model.onnx").write_bytes(quantised.model.SerializeToString())
    shown = subprocess.run(
        [sys.executable, program, quantised.directory, tmp_path / "model.onnx", "0", "600"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr[-2000:]
    outcomes = ast.literal_eval(shown.stdout.splitlines()[-1])
    assert sum(outcomes.values()) == 600
    assert set(outcomes) >= {"ran", "BundleError"}

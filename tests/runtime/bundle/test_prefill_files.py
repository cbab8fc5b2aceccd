"""The second graph of a bundle and its data file: held to what the first ones are held to."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from ortgpt.bundle.bundle import open_bundle
from ortgpt.bundle.step_bytes import count_step_bytes
from ortgpt.bundle.weights import map_initializers
from ortgpt.bundle.weights_check import find_bad_weights
from ortgpt.bundle.wire import read_model
from ortgpt.errors import BundleIntegrityError
from ortgpt.manifest import (
    GENERATION_CONFIG_NAME,
    GRAPH_NAME,
    PREFILL_GRAPH_NAME,
    PREFILL_WEIGHTS_NAME,
    TOKENIZER_NAME,
    WEIGHTS_NAME,
)

NAMES = (PREFILL_GRAPH_NAME, PREFILL_WEIGHTS_NAME)
FIRST = (GRAPH_NAME, WEIGHTS_NAME, TOKENIZER_NAME, GENERATION_CONFIG_NAME)


class FastBundle:
    """The tiny bundle with a second graph, whose "qkv" lies in a data file of its own."""

    def __init__(self, tiny: Any) -> None:
        self.tiny = tiny
        self.directory: Path = tiny.directory
        self.graph = ModelProto()
        self.graph.CopyFrom(tiny.model)
        fields = self.fields("qkv")
        begin, length = int(fields["offset"].value), int(fields["length"].value)
        values = tiny.weights_path.read_bytes()[begin : begin + length]
        fields["location"].value, fields["offset"].value = PREFILL_WEIGHTS_NAME, "0"
        (self.directory / PREFILL_WEIGHTS_NAME).write_bytes(values)
        tiny.write_manifest(files=tiny.manifest["files"] | {name: {} for name in NAMES})
        self.seal()

    def fields(self, name: str) -> dict[str, Any]:
        tensor = next(one for one in self.graph.graph.initializer if one.name == name)
        return {pair.key: pair for pair in tensor.external_data}

    def seal(self, graph: bytes | None = None) -> None:
        data = self.graph.SerializeToString() if graph is None else graph
        (self.directory / PREFILL_GRAPH_NAME).write_bytes(data)
        self.tiny.seal()


@pytest.fixture
def fast(tiny: Any) -> FastBundle:
    return FastBundle(tiny)


def test_both_graphs_are_held_as_they_were_hashed(fast: FastBundle) -> None:
    bundle = fast.tiny.open()
    assert bundle.prefill_graph == fast.graph.SerializeToString()
    assert bundle.graph == fast.tiny.model.SerializeToString()
    assert set(bundle.identities) == {WEIGHTS_NAME, PREFILL_WEIGHTS_NAME}
    bundle.check_weights_unchanged()


def test_a_bundle_without_them_has_no_second_graph(tiny: Any) -> None:
    bundle = tiny.open()
    assert bundle.prefill_graph is None
    assert set(bundle.identities) == {WEIGHTS_NAME}
    assert not bundle.manifest.fast_prefill


@pytest.mark.parametrize("name", NAMES)
def test_one_without_the_other_is_refused(fast: FastBundle, name: str) -> None:
    files = fast.tiny.manifest["files"]
    del files[name]
    fast.tiny.write_manifest(files=files)
    assert "lists one of prefill.onnx and prefill.onnx.data, not both" in fast.tiny.refusal()


@pytest.mark.parametrize("name", NAMES)
def test_digest_mismatch_and_wrong_size_are_integrity_errors(fast: FastBundle, name: str) -> None:
    """FAULTS 8, 9, 10"""
    path = fast.directory / name
    good = path.read_bytes()
    path.write_bytes(bytes([good[0] ^ 1]) + good[1:])
    assert f"{name} has SHA-256" in fast.tiny.refusal(BundleIntegrityError)
    for data in (good[:-1], good + b"\0"):
        path.write_bytes(data)
        for verify in (True, False):
            message = fast.tiny.refusal(BundleIntegrityError, verify=verify)
            assert f"{name} has {len(data)} bytes, the manifest says {len(good)}" in message


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "is missing"),
        (os.mkfifo, "is a FIFO, not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "is a link that leaves the bundle"),
    ],
)
def test_missing_files_and_those_of_other_kinds_are_refused(
    fast: FastBundle, name: str, make: Callable[[Path], None], message: str
) -> None:
    """FAULTS 5, 7"""
    (fast.directory / name).unlink()
    make(fast.directory / name)
    kind = BundleIntegrityError if message == "is missing" else None
    found = fast.tiny.refusal(kind) if kind else fast.tiny.refusal()
    assert f"{name} {message}" in found


@pytest.mark.parametrize("graph", [b"", b"garbage", b"{}", b"\x08"])
def test_a_second_graph_that_is_none_is_named(fast: FastBundle, graph: bytes) -> None:
    """FAULTS 12"""
    fast.seal(graph)
    assert f"{PREFILL_GRAPH_NAME} is not a readable ONNX graph" in fast.tiny.refusal()


def test_the_second_graph_keeps_the_contract_of_the_first(fast: FastBundle) -> None:
    """FAULTS 15, 16"""
    fast.graph.graph.node[0].op_type = "If"
    fast.graph.graph.input[0].name = "tokens"
    fast.seal()
    message = fast.tiny.refusal()
    assert f"{PREFILL_GRAPH_NAME} is not usable: " in message
    assert "operator 'If' is not allowed" in message
    assert "input input_ids is missing" in message


@pytest.mark.parametrize(
    ("tensor", "changes", "message"),
    [
        (
            "qkv",
            {"location": "../x"},
            "lies in '../x', only decoder.onnx.data and prefill.onnx.data is allowed",
        ),
        ("qkv", {"location": PREFILL_GRAPH_NAME}, "lies in 'prefill.onnx'"),
        ("qkv", {"offset": "-4"}, "has offset '-4'"),
        ("qkv", {"offset": "4"}, "ends at byte 3076 of prefill.onnx.data, which has 3072"),
        ("qkv", {"offset": "10000", "location": WEIGHTS_NAME}, "ends at byte 13072 of decoder.onnx.data"),
        ("wte", {"location": PREFILL_WEIGHTS_NAME, "offset": "1000"}, "byte 3560 of prefill.onnx.data"),
        ("wte", {"length": "4"}, "has length 4, its dims ask for 2560"),
    ],
)
def test_its_weights_lie_within_the_two_data_files(
    fast: FastBundle, tensor: str, changes: dict[str, str], message: str
) -> None:
    """FAULTS 13"""
    for key, value in changes.items():
        fast.fields(tensor)[key].value = value
    fast.seal()
    assert message in fast.tiny.refusal()


def test_the_first_graph_may_not_refer_to_the_second_data_file(fast: FastBundle) -> None:
    """FAULTS 13"""
    fast.tiny.set_external("qkv", location=PREFILL_WEIGHTS_NAME, offset="0")
    fast.seal()
    message = fast.tiny.refusal()
    assert "decoder.onnx is not usable" in message
    assert f"lies in '{PREFILL_WEIGHTS_NAME}', only {WEIGHTS_NAME} is allowed" in message


@pytest.mark.parametrize("name", [WEIGHTS_NAME, PREFILL_WEIGHTS_NAME])
def test_data_changed_between_hashing_and_mapping_are_found(fast: FastBundle, name: str) -> None:
    """FAULTS 11"""
    bundle = fast.tiny.open()
    path = fast.directory / name
    shutil.copy(path, fast.directory / "new")
    os.replace(fast.directory / "new", path)
    with pytest.raises(BundleIntegrityError, match=f"{name} changed while the model was loaded"):
        bundle.check_weights_unchanged()
    with pytest.raises(BundleIntegrityError, match="changed since the bundle was opened"):
        map_initializers(bundle, bundle.prefill_graph)


def test_data_changed_while_they_are_hashed_are_found(fast: FastBundle) -> None:
    """FAULTS 11"""
    changes = iter([b"evil"])

    def change(done: int, total: int) -> None:
        for data in changes:
            with (fast.directory / PREFILL_WEIGHTS_NAME).open("r+b") as file:
                file.write(data)

    entries = fast.tiny.manifest["files"]
    fast.tiny.write_manifest(files={PREFILL_WEIGHTS_NAME: entries.pop(PREFILL_WEIGHTS_NAME)} | entries)
    message = fast.tiny.refusal(BundleIntegrityError, on_progress=change)
    assert f"{PREFILL_WEIGHTS_NAME} changed while it was read" in message


def test_initializers_of_either_graph_are_mapped_from_the_files_they_lie_in(fast: FastBundle) -> None:
    bundle = fast.tiny.open()
    first, second = map_initializers(bundle), map_initializers(bundle, bundle.prefill_graph)
    assert set(first) == set(second)
    for name, values in first.items():
        np.testing.assert_array_equal(second[name], values, strict=True)


def test_bad_values_of_either_graph_are_found_and_shared_ones_told_once(fast: FastBundle) -> None:
    """FAULTS 17"""
    values = np.zeros((16, 48), "<f4")
    values[3, 5] = np.inf
    (fast.directory / PREFILL_WEIGHTS_NAME).write_bytes(values.tobytes())
    fast.tiny.write_weights("ln_1.shift", [np.nan])
    fast.seal()
    assert find_bad_weights(fast.tiny.open()) == ["ln_1.shift: 1 NaN", "qkv: 1 infinite"]


def test_a_decode_step_reads_no_more_than_without_them(make_bundle: Callable[..., Path]) -> None:
    fast, plain = (
        read_model(open_bundle(make_bundle(precision="int8", fast_prefill=is_fast)).graph)
        for is_fast in (True, False)
    )
    assert count_step_bytes(fast) == count_step_bytes(plain)

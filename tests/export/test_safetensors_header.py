"""FAULTS 21: safetensors files that are not sound are refused before the library reads them."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from ortgpt.errors import CheckpointError
from ortgpt_export.safetensors_header import MAX_HEADER_BYTES, MAX_TENSORS, TensorInfo, read_header


def tensor(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    as_list = {tuple: list}
    return {
        "dtype": dtype,
        "shape": as_list.get(type(shape), lambda v: v)(shape),
        "data_offsets": as_list.get(type(offsets), lambda v: v)(offsets),
    }


def packed(header: Any, data: bytes = bytes(8), length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


ENTRY = b'"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'

MALFORMED = {
    "empty file": b"",
    "seven bytes": bytes(7),
    "length only": struct.pack("<Q", 10),
    "length beyond the file": packed({"a": tensor()}, length=10_000),
    "length of 2**63": packed({"a": tensor()}, length=2**63),
    "length over the cap": struct.pack("<Q", MAX_HEADER_BYTES + 1) + b"{}",
    "length zero": packed(b""),
    "header not JSON": packed(b"{not json}"),
    "header not UTF-8": packed(b'{"\xff": 1}'),
    "header a list": packed(b"[]"),
    "header with leading space": packed(b" {" + ENTRY + b"}"),
    "header nested deeply": packed(b'{"a":' + b"[" * 100_000),
    "header with NaN": packed(b'{"a": NaN}'),
    "a number of 5,000 digits": packed(b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b"]}}"),
    "the same tensor twice": packed(b"{" + ENTRY + b"," + ENTRY + b"}"),
    "the same field twice": packed(b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}'),
    "tensor not an object": packed({"a": 3}),
    "tensor null": packed({"a": None}),
    "dtype missing": packed({"a": {"shape": [2], "data_offsets": [0, 8]}}),
    "unknown field": packed({"a": {**tensor(), "extra": 1}}),
    "unknown dtype": packed({"a": tensor("F33")}),
    "dtype a list": packed({"a": tensor(["F32"])}),
    "shape negative": packed({"a": tensor(shape=(-2,))}),
    "shape of floats": packed({"a": tensor(shape=(2.0,))}),
    "shape of booleans": packed({"a": tensor(shape=(True, 2))}),
    "shape not a list": packed({"a": tensor(shape="2")}),
    "shape overflowing": packed({"a": tensor(shape=(2**62, 2**62))}),
    "shape larger than its bytes": packed({"a": tensor(shape=(3,))}),
    "offsets backwards": packed({"a": tensor(offsets=(8, 0))}),
    "offsets negative": packed({"a": tensor(offsets=(-8, 0))}),
    "offsets beyond the file": packed({"a": tensor(shape=(4,), offsets=(0, 16))}),
    "three offsets": packed({"a": tensor(offsets=(0, 4, 8))}),
    "offset a string": packed({"a": tensor(offsets=("0", "8"))}),
    "overlap": packed({"a": tensor(), "b": tensor(offsets=(4, 12))}, bytes(12)),
    "shared bytes": packed({"a": tensor(), "b": tensor()}),
    "hole": packed({"a": tensor(), "b": tensor(offsets=(12, 20))}, bytes(20)),
    "bytes left over": packed({"a": tensor()}, bytes(9)),
    "bytes missing": packed({"a": tensor()}, bytes(7)),
    "metadata not strings": packed({"__metadata__": {"a": 1}, "a": tensor()}),
    "metadata a list": packed({"__metadata__": [], "a": tensor()}),
}


@pytest.mark.parametrize("content", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_file_is_a_checkpoint_error_that_names_it(content, tmp_path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"^model.safetensors is not a sound safetensors file: "):
        read_header(path)


def test_more_tensors_than_the_cap_are_refused(tmp_path) -> None:
    entries = {f"t{i}": tensor(shape=(0,), offsets=(0, 0)) for i in range(MAX_TENSORS + 1)}
    path = tmp_path / "model.safetensors"
    path.write_bytes(packed(entries, b""))
    with pytest.raises(CheckpointError, match="10,001 tensors"):
        read_header(path)


def test_the_largest_legal_counts_pass(tmp_path) -> None:
    entries = {f"t{i}": tensor(shape=(0,), offsets=(0, 0)) for i in range(MAX_TENSORS)}
    path = tmp_path / "model.safetensors"
    path.write_bytes(packed(entries, b""))
    assert len(read_header(path)) == MAX_TENSORS


def test_what_the_library_writes_is_read(tmp_path) -> None:
    arrays = {
        "a": np.zeros((2, 3), np.float32),
        "b": np.zeros((), np.float16),
        "c": np.zeros((0, 4), np.int64),
        "d": np.zeros(5, np.uint8),
    }
    path = tmp_path / "x.safetensors"
    save_file(arrays, path, metadata={"format": "pt"})
    header = read_header(path)
    assert {name: info.shape for name, info in header.items()} == {n: a.shape for n, a in arrays.items()}
    assert header["a"].dtype == "F32"
    assert all(isinstance(info, TensorInfo) for info in header.values())


def test_a_missing_file_and_a_pipe_are_named_without_waiting(tmp_path: Path) -> None:
    import os

    path = tmp_path / "model.safetensors"
    with pytest.raises(CheckpointError, match=r"model.safetensors is missing"):
        read_header(path)
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match=r"not a regular file"):
        read_header(path)

"""ortgpt.manifest and ortgpt.manifest_reader: what is written is read, and everything else is refused."""

from __future__ import annotations

import json
import logging
import random
from dataclasses import replace
from typing import Any

import pytest

from ortgpt.errors import BundleError
from ortgpt.manifest import (
    MAX_MANIFEST_BYTES,
    Architecture,
    FileEntry,
    Manifest,
    Parity,
    Probe,
    Provenance,
    check_file_name,
    parse_version,
)
from ortgpt.manifest_reader import read_manifest

NAMES = ("decoder.onnx", "decoder.onnx.data", "tokenizer.json", "generation_config.json")
MANIFEST = Manifest(
    architecture=Architecture(
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
        eos_token_ids=(0, 7),
    ),
    dialect="fused",
    precision="fp32",
    block_size=None,
    row_invariant=True,
    files={name: FileEntry(size=10, sha256="0123456789abcdef" * 4) for name in NAMES},
    provenance=Provenance(source="tiny", source_sha256="1" * 64, exporter="0.1.0", onnxruntime_floor="1.32"),
    probe=Probe(text="Once", token_ids=(1, 2), argmax=99),
    parity=Parity(
        reference="numpy",
        prompt_tokens=16,
        cached_steps=8,
        max_abs_logits_difference=1e-5,
        max_abs_hidden_difference=2e-5,
        greedy_agreement=1.0,
    ),
    notes=("eos id 500 dropped",),
)


def data() -> dict[str, Any]:
    return dict(json.loads(MANIFEST.to_json()))


def problems(text: str | bytes) -> str:
    with pytest.raises(BundleError) as caught:
        read_manifest(text)
    assert str(caught.value).startswith("manifest")
    return str(caught.value)


def problems_with(*path: str, value: Any) -> str:
    """What is said when the value at a path is another one."""
    changed = data()
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return problems(json.dumps(changed))


def test_manifest_is_read_as_it_was_written() -> None:
    assert read_manifest(MANIFEST.to_json()) == MANIFEST
    assert read_manifest(MANIFEST.to_json().encode()) == MANIFEST


def test_parity_may_be_skipped() -> None:
    assert read_manifest(json.dumps(data() | {"parity": "skipped"})).parity == "skipped"
    assert "parity must be an object" in problems_with("parity", value="passed")


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "not json",
        "[]",
        "3",
        "null",
        '"manifest"',
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"layers": ' + "9" * 5000 + "}",
        '{"layers": NaN}',
        '{"layers": -Infinity}',
        '{"layers": 1,}',
        b"\xff\xfe\xff",
        b"\x80",
        "{}",
        " " * (MAX_MANIFEST_BYTES + 1),
    ],
    ids=lambda text: repr(text[:20]),
)
def test_what_is_no_manifest_is_a_bundle_error(text: str | bytes) -> None:
    """FAULTS 2"""
    problems(text)


def test_manifest_of_the_largest_size_is_read() -> None:
    text = MANIFEST.to_json()
    assert read_manifest(text + " " * (MAX_MANIFEST_BYTES - len(text))) == MANIFEST


@pytest.mark.parametrize("version", ["2.0", "0.9", "10.0"])
def test_unknown_major_version_is_refused(version: str) -> None:
    """FAULTS 3"""
    message = problems_with("schema_version", value=version)
    assert "schema_version" in message


@pytest.mark.parametrize("version", [None, 1, 1.0, "", "1", "one", "v1.0", ["1.0"]])
def test_version_must_be_there(version: Any) -> None:
    """FAULTS 3"""
    assert 'no schema_version like "1.0"' in problems_with("schema_version", value=version)


def test_newer_minor_version_is_read() -> None:
    """FAULTS 3"""
    assert read_manifest(json.dumps(data() | {"schema_version": "1.9"})).schema_version == "1.9"


def test_unknown_key_is_ignored_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """FAULTS 3"""
    with caplog.at_level(logging.WARNING, "ortgpt"):
        assert read_manifest(json.dumps(data() | {"colour": "blue", "x" * 999: 1})) == MANIFEST
    assert "unknown key 'colour'" in caplog.text
    assert "x" * 100 not in caplog.text


def test_known_keys_cause_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "ortgpt"):
        read_manifest(MANIFEST.to_json())
    assert caplog.text == ""


BAD_NAMES = [
    "",
    ".",
    "..",
    "../x",
    "/etc/passwd",
    "a/../../x",
    "a/b",
    "a/",
    "./a",
    "C:\\x",
    "C:x",
    "\\\\server\\x",
    "a\0b",
    "a\nb",
    "\x1b[2J",
    "\ud800",
    "x" * 256,
    "x" * 5000,
    "CON",
    "con.txt",
    "NUL",
    "com1.json",
]


@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda name: repr(name[:20]))
def test_file_name_must_be_plain(name: str) -> None:
    """FAULTS 4"""
    assert check_file_name(name)
    entry = {"size": 1, "sha256": "0" * 64}
    changed = data()
    changed["files"][name] = entry
    assert "files: " in problems(json.dumps(changed))


@pytest.mark.parametrize("name", [*NAMES, "README.md", "a b", "ünïcode", ".hidden", "console", "x" * 255])
def test_plain_file_name_is_accepted(name: str) -> None:
    """FAULTS 4"""
    assert check_file_name(name) is None


@pytest.mark.parametrize("name", NAMES)
def test_the_four_files_must_be_listed(name: str) -> None:
    changed = data()
    del changed["files"][name]
    assert f"files does not list {name}" in problems(json.dumps(changed))


@pytest.mark.parametrize("digest", [None, "", "0" * 63, "0" * 65, "g" * 64, " " + "0" * 63, 0, ["0" * 64]])
def test_digest_must_be_64_hex_digits(digest: Any) -> None:
    """FAULTS 8"""
    message = problems_with("files", "decoder.onnx", "sha256", value=digest)
    assert "files.decoder.onnx.sha256 is not a SHA-256 digest in hex" in message


def test_uppercase_digest_is_the_same_digest() -> None:
    """FAULTS 8"""
    changed = data()
    changed["files"]["decoder.onnx"]["sha256"] = "0123456789ABCDEF" * 4
    assert read_manifest(json.dumps(changed)) == MANIFEST


@pytest.mark.parametrize("entry", [None, [], "x", {}])
def test_file_entry_must_have_size_and_digest(entry: Any) -> None:
    """FAULTS 8"""
    message = problems_with("files", "decoder.onnx", value=entry)
    assert "files.decoder.onnx.sha256 must be a string" in message
    assert "files.decoder.onnx.size must be an integer" in message


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("architecture", [], "architecture must be an object"),
        ("files", None, "files must be an object"),
        ("architecture.layers", 0, "architecture.layers must be an integer"),
        ("architecture.layers", 2**31, "architecture.layers must be an integer"),
        ("architecture.layers", True, "architecture.layers must be an integer"),
        ("architecture.layers", 2.0, "architecture.layers must be an integer"),
        ("architecture.layers", "2", "architecture.layers must be an integer"),
        ("architecture.width", 16, "3 heads of size 5 do not make width 16"),
        ("architecture.cache_head_size", 4, "cache_head_size is smaller than head_size"),
        ("architecture.tokenizer_size", 101, "tokenizer_size is larger than vocab_size"),
        ("architecture.bos_token_id", 100, "a token id is outside the vocabulary"),
        ("architecture.bos_token_id", -1, "architecture.bos_token_id must be an integer"),
        ("architecture.eos_token_ids", [100], "a token id is outside the vocabulary"),
        ("architecture.eos_token_ids", [-1], "eos_token_ids must be a list of token ids"),
        ("architecture.eos_token_ids", [True], "eos_token_ids must be a list of token ids"),
        ("architecture.eos_token_ids", 7, "eos_token_ids must be a list of token ids"),
        ("architecture.model_type", "", "architecture.model_type must be a string"),
        ("dialect", "other", "dialect must be one of fused, portable"),
        ("dialect", "portable", "portable must be there for the portable dialect"),
        ("architecture.kv_heads", 2, "3 heads can't share 2 of keys and values"),
        ("portable", 5, "portable must be an object"),
        ("portable", {}, "portable.data_files must be a list of strings"),
        ("dialect", ["fused"], "dialect must be one of fused"),
        ("precision", None, "precision must be one of fp32"),
        ("block_size", 0, "block_size must be an integer"),
        ("row_invariant", 1, "row_invariant must be true or false"),
        ("files.decoder.onnx.size", -1, "files.decoder.onnx.size must be an integer"),
        ("files.decoder.onnx.size", 2**63, "files.decoder.onnx.size must be an integer"),
        ("provenance.source", None, "provenance.source must be a string"),
        ("probe.text", "\ud800", "probe.text must be a string"),
        ("probe.argmax", 100, "a token id is outside the vocabulary"),
        ("probe.token_ids", [2**70], "a token id is outside the vocabulary"),
        ("parity.greedy_agreement", "1", "parity.greedy_agreement must be a finite number"),
        ("parity.greedy_agreement", True, "parity.greedy_agreement must be a finite number"),
        ("parity.max_abs_logits_difference", 10**400, "difference must be a finite number"),
        ("notes", 5, "notes must be a list of strings"),
        ("notes", "note", "notes must be a list of strings"),
        ("notes", [1], "notes must be a list of strings"),
        ("notes", None, "notes must be a list of strings"),
    ],
)
def test_every_field_is_checked(path: str, value: Any, message: str) -> None:
    """FAULTS 2, 16"""
    keys = path.replace("decoder.onnx", "decoder_onnx").split(".")
    assert message in problems_with(*(key.replace("_onnx", ".onnx") for key in keys), value=value)


def test_number_too_large_for_a_float_is_not_finite() -> None:
    """FAULTS 2"""
    text = MANIFEST.to_json().replace("1e-05", "1e999")
    assert "max_abs_logits_difference must be a finite number" in problems(text)


def test_all_problems_are_listed_at_once() -> None:
    changed = data()
    changed["architecture"]["layers"] = -1
    changed["files"]["../x"] = {}
    changed["probe"] = None
    del changed["precision"]
    message = problems(json.dumps(changed))
    for part in ("architecture.layers", "'../x'", "probe must be an object", "precision"):
        assert part in message


def replacements() -> list[Any]:
    return [None, True, -1, 0, 2**64, 10**400, 1.5, 1e308, "", "x", "\ud800", [], [[]], [None], {}, {"": {}}]


def every_place(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(value, dict):
        return [path]
    return [path] * bool(path) + [place for key in value for place in every_place(value[key], (*path, key))]


@pytest.mark.parametrize("place", every_place(data()), ids=".".join)
def test_any_value_in_any_place_is_read_or_refused_in_one_error(place: tuple[str, ...]) -> None:
    """FAULTS 2: no other exception leaks."""
    for value in replacements():
        changed = data()
        parent = changed
        for key in place[:-1]:
            parent = parent[key]
        parent[place[-1]] = value
        read_or_refuse(json.dumps(changed))
    del parent[place[-1]]
    read_or_refuse(json.dumps(changed))


def read_or_refuse(text: str | bytes) -> Manifest | None:
    try:
        return read_manifest(text)
    except BundleError:
        return None


def test_damaged_manifest_is_read_or_refused_in_one_error() -> None:
    """FAULTS 2, 10"""
    source = random.Random(0)
    whole = MANIFEST.to_json().encode()
    refused = 0
    for _ in range(1500):
        damaged = bytearray(whole)
        for _ in range(source.choice((1, 1, 5))):
            place = source.randrange(len(damaged))
            damaged[place : place + source.choice((1, 1, 20))] = source.randbytes(source.choice((0, 1, 1, 9)))
        refused += read_or_refuse(bytes(damaged)) is None
    assert refused > 500


@pytest.mark.parametrize(
    ("floor", "ragged"),
    [("1.31", False), ("1.31.9", False), ("1.32", True), ("1.32.1", True), ("1.100", True), ("2.0", True)],
)
def test_ragged_widths_come_with_onnxruntime_1_32(floor: str, ragged: bool) -> None:
    changed = data()
    changed["provenance"]["onnxruntime_floor"] = floor
    assert read_manifest(json.dumps(changed)).ragged_widths is ragged


@pytest.mark.parametrize(
    ("text", "version"), [("1.32", (1, 32)), ("1.32.0rc1", (1, 32)), ("x", (0, 0)), ("1", (0, 0))]
)
def test_version_is_major_and_minor(text: str, version: tuple[int, int]) -> None:
    assert parse_version(text) == version


def test_cache_bytes_count_keys_and_values_of_every_layer() -> None:
    assert MANIFEST.architecture.cache_bytes_per_token() == 2 * 2 * 3 * 8 * 4
    assert MANIFEST.architecture.cache_bytes_per_token(2) == 2 * 2 * 3 * 8 * 2


def test_manifest_with_infinite_numbers_is_not_written() -> None:
    assert isinstance(MANIFEST.parity, Parity)
    broken = replace(MANIFEST, parity=replace(MANIFEST.parity, greedy_agreement=float("nan")))
    with pytest.raises(ValueError, match="JSON"):
        broken.to_json()

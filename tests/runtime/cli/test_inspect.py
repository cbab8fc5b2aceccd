"""`ortgpt inspect`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest


@pytest.fixture
def copy(storyteller_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(storyteller_bundle, tmp_path / "copy"))


def flip_a_bit(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(data)


def test_json_holds_the_manifest(invoke, storyteller_bundle) -> None:
    shown = invoke("inspect", storyteller_bundle, "--json")
    assert (shown.code, shown.err) == (0, "")
    document = json.loads(shown.out)
    assert document == {
        "bundle": str(storyteller_bundle),
        "verified": False,
        "manifest": json.loads((storyteller_bundle / "manifest.json").read_text()),
    }


def test_text_names_what_matters(invoke, storyteller_bundle) -> None:
    shown = invoke("inspect", storyteller_bundle)
    manifest = json.loads((storyteller_bundle / "manifest.json").read_text())
    rows = dict(line.split("  ", 1) for line in shown.out.splitlines())
    rows = {name: value.strip() for name, value in rows.items()}
    assert rows["context"] == str(manifest["architecture"]["context"])
    assert rows["precision"] == "fp32, row-invariant"
    assert rows["parity"] == "skipped"
    weights = manifest["files"]["decoder.onnx.data"]
    assert rows["decoder.onnx.data"] == f"{weights['size']:,} bytes, sha256 {weights['sha256'][:12]}"
    assert shown.err == "sizes and graph checked; --verify checks digests too\n"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({}, "cache in pairs, position ids, no hidden states"),
        ({"position_ids": False}, "cache in pairs, no position ids, no hidden states"),
        ({"stacked": True}, "cache stacked, position ids, no hidden states"),
        ({"hidden_states": True}, "cache in pairs, position ids, hidden states"),
    ],
)
def test_a_line_of_portable_bundles_says_what_their_graph_takes_and_gives(
    options: dict[str, bool], line: str, invoke, make_portable, tmp_path
) -> None:
    bundle = Path(shutil.copytree(make_portable("gpt2", **options), tmp_path / "copy"))
    assert invoke("adopt", bundle).code == 0
    rows = dict(row.split("  ", 1) for row in invoke("inspect", bundle).out.splitlines())
    assert rows["graph"].strip() == line


def test_the_fused_dialect_has_no_line_of_the_graph(invoke, storyteller_bundle) -> None:
    assert "\ngraph " not in invoke("inspect", storyteller_bundle).out


def test_verify_runs_the_bundle_and_says_so(invoke, storyteller_bundle) -> None:
    shown = invoke("inspect", storyteller_bundle, "--verify", "--json")
    assert shown.code == 0
    assert json.loads(shown.out)["verified"] is True
    assert invoke("inspect", storyteller_bundle, "--verify").err == "verified\n"


@pytest.mark.parametrize(
    "name", ["decoder.onnx.data", "decoder.onnx", "tokenizer.json", "generation_config.json"]
)
def test_verify_finds_a_flipped_bit_in_any_file(name, invoke, copy) -> None:
    """FAULTS 10"""
    flip_a_bit(copy / name, (copy / name).stat().st_size // 2)
    shown = invoke("inspect", copy, "--verify")
    assert (shown.code, shown.out) == (3, "")
    assert name in shown.err
    assert "SHA-256" in shown.err


def test_verify_reports_nan_weights(invoke, nan_bundle) -> None:
    """FAULTS 17"""
    shown = invoke("inspect", nan_bundle, "--verify", "--json")
    assert (shown.code, shown.out) == (3, "")
    assert "weights are damaged" in shown.err
    assert "32 NaN" in shown.err


def test_a_text_that_meets_nan_weights_fails_with_the_step(invoke, nan_bundle) -> None:
    """FAULTS 17"""
    asked = (
        "generate",
        "a" * 68,
        "-m",
        nan_bundle,
        "--max-new-tokens",
        "8",
        "--json",
        "--stop-token-ids",
        "none",
    )
    shown = invoke(*asked)
    assert (shown.code, shown.out) == (1, "")
    assert shown.err.splitlines() == [
        "error: the model produced non-finite logits at step 3",
        "hint: run `ortgpt inspect DIR --verify`: the weights may hold NaN or infinite values",
    ]


def test_strict_refuses_hard_links(invoke, copy, tmp_path) -> None:
    """FAULTS 6"""
    (tmp_path / "link").hardlink_to(copy / "tokenizer.json")
    assert invoke("inspect", copy).code == 0
    shown = invoke("inspect", copy, "--strict")
    assert shown.code == 3
    assert "tokenizer.json is a hard link" in shown.err


def test_what_is_no_bundle_is_refused(invoke, tmp_path) -> None:
    """FAULTS 1"""
    shown = invoke("inspect", tmp_path, "--json")
    assert (shown.code, shown.out) == (3, "")
    assert "it has no manifest.json" in shown.err

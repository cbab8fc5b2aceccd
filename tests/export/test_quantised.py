"""The export of a quantised bundle as a whole: what its manifest says, and which files it leaves."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import onnx
import pytest
from checkpoints import make_checkpoint

import ortgpt
from ortgpt.errors import BundleError
from ortgpt.manifest import Manifest, Quality
from ortgpt.manifest_reader import read_manifest
from ortgpt_export import bundle_writer, job, quality
from ortgpt_export.cli import STAGES
from ortgpt_export.exporter import export_checkpoint
from ortgpt_export.quality import measure_quality, next_logits, sample_texts

BUNDLE_FILES = [
    "decoder.onnx",
    "decoder.onnx.data",
    "generation_config.json",
    "manifest.json",
    "tokenizer.json",
]
VARIANTS: list[dict[str, Any]] = [
    {"precision": "int8"},
    {"precision": "int8-dynamic"},
    {"precision": "int4"},
    {"precision": "int8", "row_invariant": True},
    {"precision": "int4", "row_invariant": True},
]
BLOCK_SIZES = [128, None, 128, 64, 32]

Measured = Callable[..., tuple[Path, Manifest]]


def contents(bundle: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in bundle.iterdir()}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("quantised") / "checkpoint")


@pytest.fixture(scope="module")
def measured(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """measured(precision=..., ...) -> the checkpoint's bundle, compared with numpy, and its manifest."""
    made: dict[str, tuple[Path, Manifest]] = {}

    def export(**options: Any) -> tuple[Path, Manifest]:
        key = repr(options)
        if key not in made:
            bundle = tmp_path_factory.mktemp("measured") / "bundle"
            made[key] = bundle, export_checkpoint(str(checkpoint), bundle, **options)
        return made[key]

    return export


@pytest.mark.parametrize(("options", "block_size"), list(zip(VARIANTS, BLOCK_SIZES, strict=True)), ids=str)
def test_the_manifest_says_what_was_made_and_measured(options, block_size, measured) -> None:
    bundle, manifest = measured(**options)
    assert sorted(os.listdir(bundle)) == BUNDLE_FILES
    assert os.listdir(bundle.parent) == ["bundle"]
    assert read_manifest((bundle / "manifest.json").read_bytes()) == manifest
    assert (manifest.precision, manifest.block_size) == (options["precision"], block_size)
    assert manifest.row_invariant is options.get("row_invariant", False)
    assert manifest.quality is not None
    assert (manifest.quality.texts, manifest.quality.tokens) == (16, 16 * 64)
    assert 0 < manifest.quality.kl_divergence < quality.KL_LIMITS[manifest.precision]
    assert 0.5 < manifest.quality.top1_agreement <= 1
    assert manifest.quality.perplexity is None
    assert manifest.parity != "skipped"
    assert manifest.parity.reference == "numpy"
    assert manifest.parity.max_abs_logits_difference > 2e-4, "beyond what an fp32 bundle may differ by"


def test_the_measured_quality_is_that_of_the_bundle_on_disk_against_fp32(
    checkpoint, measured, tmp_path
) -> None:
    exact = export_checkpoint(str(checkpoint), tmp_path / "fp32", verify="none")
    bundle, manifest = measured(precision="int4")
    assert exact.quality is None
    with ortgpt.load(tmp_path / "fp32") as reference, ortgpt.load(bundle) as model:
        assert measure_quality(model, reference, sample_texts(reference)) == manifest.quality


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_none_measures_nothing_and_writes_the_same_weights(options, checkpoint, measured, tmp_path) -> None:
    manifest = export_checkpoint(str(checkpoint), tmp_path / "bundle", verify="none", **options)
    assert (manifest.parity, manifest.quality) == ("skipped", None)
    _, other = measured(**options)
    assert (manifest.files, manifest.probe) == (other.files, other.probe)


@pytest.mark.parametrize("options", VARIANTS[:3], ids=str)
def test_the_same_checkpoint_gives_the_same_bytes_twice(options, checkpoint, measured, tmp_path) -> None:
    export_checkpoint(str(checkpoint), tmp_path / "bundle", **options)
    assert contents(tmp_path / "bundle") == contents(measured(**options)[0])


def test_torch_is_a_reference_as_well(checkpoint, measured, tmp_path) -> None:
    found = export_checkpoint(str(checkpoint), tmp_path / "bundle", precision="int8", verify="torch")
    _, expected = measured(precision="int8")
    assert found.quality == expected.quality
    assert found.parity != "skipped"
    assert expected.parity != "skipped"
    assert found.parity.reference == "torch"
    difference = expected.parity.max_abs_logits_difference
    assert found.parity.max_abs_logits_difference == pytest.approx(difference, abs=1e-3)


def test_notes_are_in_the_manifest_and_are_warned_of_once(tmp_path, caplog) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", vocab_size=300, bos_token_id=999)
    manifest = export_checkpoint(str(checkpoint), tmp_path / "bundle", precision="int4")
    assert [record.getMessage() for record in caplog.records] == list(manifest.notes)
    assert len(manifest.notes) == 2
    assert "999 is outside" in manifest.notes[0]
    assert "257 of 300 ids" in manifest.notes[1]


@pytest.mark.parametrize("precision", ["int8", "int8-dynamic", "int4"])
def test_the_probe_is_the_bundles_own_answer(precision, measured) -> None:
    bundle, manifest = measured(precision=precision)
    probe = manifest.probe
    with ortgpt.load(bundle, verify=False) as model:
        assert next_logits(model, probe.token_ids)[-1, :257].argmax() == probe.argmax


def test_a_probe_of_other_weights_is_found(measured, tmp_path) -> None:
    bundle = Path(shutil.copytree(measured(precision="int8")[0], tmp_path / "bundle"))
    manifest = json.loads((bundle / "manifest.json").read_text())
    with ortgpt.load(bundle) as model:
        worst = int(next_logits(model, manifest["probe"]["token_ids"])[-1, :257].argmin())
    changed = manifest | {"probe": manifest["probe"] | {"argmax": worst}}
    (bundle / "manifest.json").write_text(json.dumps(changed))
    with pytest.raises(BundleError, match="the probe differs"):
        ortgpt.load(bundle)


@pytest.mark.parametrize("context", [1, 2, 17])
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_a_tiny_context_is_exported_and_measured(context, precision, tmp_path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", n_positions=context)
    manifest = export_checkpoint(str(checkpoint), tmp_path / "bundle", precision=precision)
    assert manifest.quality is not None
    assert manifest.quality.tokens == 16 * context


@pytest.mark.parametrize("precision", ["int8", "int8-dynamic", "int4"])
def test_a_model_without_bos_and_eos_is_exported_and_measured(precision, tmp_path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", bos_token_id=None, eos_token_id=None)
    manifest = export_checkpoint(str(checkpoint), tmp_path / "bundle", precision=precision)
    assert manifest.quality is not None
    assert manifest.quality.tokens == 16 * 64


@pytest.mark.parametrize("precision", ["int8", "int8-dynamic", "int4"])
def test_a_model_of_equal_logits_loses_nothing(precision, tmp_path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", scale=0.0)
    manifest = export_checkpoint(str(checkpoint), tmp_path / "bundle", precision=precision)
    assert manifest.quality == Quality(texts=16, tokens=1024, kl_divergence=0.0, top1_agreement=1.0)


def test_the_perplexity_of_a_text_is_in_the_manifest(checkpoint, tmp_path) -> None:
    text = tmp_path / "fox.txt"
    text.write_text("Once upon a time there was a fox. " * 4)
    manifest = export_checkpoint(str(checkpoint), tmp_path / "bundle", precision="int4", perplexity_text=text)
    assert manifest.quality is not None
    found = manifest.quality.perplexity
    assert found is not None
    assert (found.text, found.tokens, found.stride) == ("fox.txt", 136, 32), "no path of this machine"
    assert found.value != found.fp32
    assert read_manifest((tmp_path / "bundle" / "manifest.json").read_bytes()) == manifest
    with ortgpt.load(tmp_path / "bundle") as model:
        assert model.score(text.read_text()).perplexity == pytest.approx(found.value)


def test_force_replaces_a_bundle_of_another_precision(checkpoint, tmp_path) -> None:
    for precision in ("int8", "fp32", "int4"):
        export_checkpoint(
            str(checkpoint), tmp_path / "bundle", precision=precision, verify="none", force=True
        )
        assert sorted(os.listdir(tmp_path / "bundle")) == BUNDLE_FILES
        with ortgpt.load(tmp_path / "bundle") as model:
            assert model.manifest.precision == precision


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_progress_counts_every_stage_to_its_end(precision, checkpoint, tmp_path) -> None:
    reports: dict[str, list[tuple[int, int]]] = {}
    export_checkpoint(
        str(checkpoint),
        tmp_path / "bundle",
        precision=precision,
        progress=lambda stage, done, total: reports.setdefault(stage, []).append((done, total)),
    )
    assert [stage for stage in reports if stage != "calibrate"] == [
        "read",
        "prepare",
        "write",
        "compare",
        "verify",
    ]
    for steps in reports.values():
        assert [done for done, _ in steps] == sorted({done for done, _ in steps})
        assert len({total for _, total in steps}) == 1
        assert steps[-1][0] == steps[-1][1]


def test_every_stage_has_a_word_on_the_screen() -> None:
    assert set(STAGES) == set(get_args(job.Stage))


def test_a_quantised_bundle_is_a_fraction_of_the_weights(tmp_path) -> None:
    """128 wide, so that blocks are full: 8 or 4 bits and a scale (a zero point) per block."""
    checkpoint = make_checkpoint(tmp_path / "c", n_layer=1, n_head=4, n_embd=128, scale=0.1)
    sizes = {}
    for precision in ("fp32", "int8", "int8-dynamic", "int4"):
        bundle = tmp_path / precision
        export_checkpoint(str(checkpoint), bundle, precision=precision, verify="none")
        tensors = onnx.load(bundle / "decoder.onnx", load_external_data=False).graph.initializer
        stored = [{pair.key: int(pair.value) for pair in t.external_data[1:]} for t in tensors]
        sizes[precision] = sum({part["offset"]: part["length"] for part in stored if part}.values())
    assert sizes["int8"] / sizes["fp32"] < 0.27
    assert sizes["int8-dynamic"] / sizes["fp32"] < 0.27
    assert sizes["int4"] / sizes["fp32"] < 0.165  # of the position table, too, which has 8 bits


def test_the_temporary_fp32_model_is_gone_when_the_bundle_is_moved(checkpoint, tmp_path, monkeypatch) -> None:
    seen: list[list[str]] = []
    real = bundle_writer._move

    def move(source: Path, target: Path) -> None:
        seen.append(sorted(os.listdir(source)))
        real(source, target)

    monkeypatch.setattr(bundle_writer, "_move", move)
    export_checkpoint(str(checkpoint), tmp_path / "bundle", precision="int4", verify="none")
    assert len(seen) == 2
    assert seen[-1] == BUNDLE_FILES

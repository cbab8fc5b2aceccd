"""The whole export: what a bundle says of itself, what is refused before any work, what is imported."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import make_checkpoint

import ortgpt
from ortgpt.errors import CheckpointError, MissingExtraError, OptionError
from ortgpt.manifest_reader import read_manifest
from ortgpt_export.exporter import export_checkpoint

BUNDLE_FILES = [
    "decoder.onnx",
    "decoder.onnx.data",
    "generation_config.json",
    "manifest.json",
    "tokenizer.json",
]


def digests(bundle: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in bundle.iterdir()}


def test_a_bundle_has_its_five_files_and_a_manifest_that_describes_them(checkpoint, tmp_path) -> None:
    manifest = export_checkpoint(str(checkpoint), tmp_path / "bundle", verify="none")
    assert sorted(os.listdir(tmp_path / "bundle")) == BUNDLE_FILES
    assert read_manifest((tmp_path / "bundle" / "manifest.json").read_bytes()) == manifest
    on_disk = digests(tmp_path / "bundle")
    for name, entry in manifest.files.items():
        assert entry.sha256 == on_disk[name]
        assert entry.size == (tmp_path / "bundle" / name).stat().st_size
    assert set(manifest.files) == set(BUNDLE_FILES) - {"manifest.json"}


def test_the_manifest_describes_the_model(tmp_path) -> None:
    checkpoint = make_checkpoint(tmp_path / "my-model", n_head=3, n_embd=36, vocab_size=300, eos_token_id=7)
    manifest = export_checkpoint(
        str(checkpoint), tmp_path / "bundle", verify="none", onnxruntime_floor="1.31"
    )
    shape = manifest.architecture
    assert (shape.layers, shape.heads, shape.head_size, shape.cache_head_size) == (2, 3, 12, 16)
    assert (shape.width, shape.context, shape.vocab_size, shape.tokenizer_size) == (36, 64, 300, 257)
    assert (shape.bos_token_id, shape.eos_token_ids) == (256, (7,))
    assert manifest.provenance.source == "my-model", "no path of this machine"
    assert manifest.provenance.exporter == f"ortgpt {ortgpt.__version__}"
    assert manifest.provenance.onnxruntime_floor == "1.31"
    assert not manifest.ragged_widths
    assert manifest.parity == "skipped"
    generation = json.loads((tmp_path / "bundle" / "generation_config.json").read_text())
    assert generation == {"bos_token_id": 256, "eos_token_id": [7]}


def test_the_same_checkpoint_gives_the_same_bytes_twice(checkpoint, tmp_path) -> None:
    for name in ("one", "two"):
        export_checkpoint(str(checkpoint), tmp_path / name)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_the_source_digest_follows_every_file_that_was_read(checkpoint, tmp_path, edit_config) -> None:
    def digest(name: str) -> str:
        manifest = export_checkpoint(str(checkpoint), tmp_path / name, verify="none")
        return manifest.provenance.source_sha256

    first = digest("first")
    (checkpoint / "README.md").write_text("not read")
    assert digest("second") == first
    edit_config(checkpoint, attn_pdrop=0.5)
    assert digest("third") != first
    (checkpoint / "generation_config.json").write_text('{"eos_token_id": 3}')
    assert len({first, digest("third-again"), digest("fourth")}) == 2


def test_notes_are_in_the_manifest_and_are_warned_of(tmp_path, caplog) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", vocab_size=300, bos_token_id=999)
    manifest = export_checkpoint(str(checkpoint), tmp_path / "bundle", verify="none")
    assert [record.getMessage() for record in caplog.records] == list(manifest.notes)
    assert len(manifest.notes) == 2
    assert "999 is outside" in manifest.notes[0]
    assert "257 of 300 ids" in manifest.notes[1]


def test_the_probe_is_the_model_s_greedy_answer_as_transformers_gives_it(checkpoint, tmp_path) -> None:
    import torch
    from transformers import GPT2LMHeadModel

    probe = export_checkpoint(str(checkpoint), tmp_path / "bundle", verify="none").probe
    assert bytes(probe.text, "ascii").startswith(b"Once upon a time")
    with torch.no_grad():
        logits = GPT2LMHeadModel.from_pretrained(checkpoint)(torch.tensor([probe.token_ids])).logits
    assert int(logits[0, -1].argmax()) == probe.argmax


@pytest.mark.parametrize("context", [1, 2, 5, 16, 17])
def test_a_tiny_context_is_exported_and_verified(context, tmp_path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", n_positions=context)
    manifest = export_checkpoint(str(checkpoint), tmp_path / "bundle")
    assert 1 <= len(manifest.probe.token_ids) <= context
    assert manifest.parity != "skipped"
    assert manifest.parity.prompt_tokens + manifest.parity.cached_steps == min(context, 40)


def test_a_model_of_equal_logits_is_exported(tmp_path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", scale=0.0)
    assert export_checkpoint(str(checkpoint), tmp_path / "bundle").parity != "skipped"


def test_progress_counts_every_stage_to_its_end(checkpoint, tmp_path) -> None:
    reports: dict[str, list[tuple[int, int]]] = {}

    def progress(stage: str, done: int, total: int) -> None:
        reports.setdefault(stage, []).append((done, total))

    export_checkpoint(str(checkpoint), tmp_path / "bundle", progress=progress)
    assert list(reports) == ["read", "write", "verify"]
    for steps in reports.values():
        assert [done for done, _ in steps] == sorted({done for done, _ in steps})
        assert len({total for _, total in steps}) == 1
        assert steps[-1][0] == steps[-1][1]


REFUSED = [
    ({"precision": "fp16", "row_invariant": True}, "row_invariant can't be had with fp16"),
    ({"precision": "fp64"}, "precision must be one of fp32, .*int4, got 'fp64'"),
    ({"precision": "int8-dynamic", "row_invariant": True}, "row_invariant can't be had with int8-dynamic"),
    ({"perplexity_text": "README.md"}, "perplexity_text compares a precision with fp32"),
    (
        {"precision": "int8", "verify": "none", "perplexity_text": "README.md"},
        "perplexity_text can't be measured with verify none",
    ),
    ({"precision": "int8", "perplexity_text": "no-such-file"}, "perplexity_text no-such-file can't be read"),
    ({"via": "torch"}, "via must be graph or optimum, got 'torch'"),
    (
        {"via": "optimum", "precision": "int4"},
        "precision must be fp32 or int8-dynamic via optimum, got 'int4'",
    ),
    ({"via": "optimum", "row_invariant": True}, "row_invariant is not to be had via optimum"),
    ({"via": "optimum", "fast_prefill": True}, "fast_prefill is not to be had via optimum"),
    ({"verify": "yes"}, "verify must be one of none, numpy, torch, got 'yes'"),
    ({"onnxruntime_floor": "1.20"}, "onnxruntime_floor must be one of 1.31, 1.32, got '1.20'"),
    ({"revision": "main"}, "revision is for hub ids"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[str(options) for options, _ in REFUSED])
def test_options_are_refused_before_any_work(options, message, checkpoint, tmp_path) -> None:
    with pytest.raises(OptionError, match=message):
        export_checkpoint(str(checkpoint), tmp_path / "new" / "bundle", **options)
    assert not (tmp_path / "new").exists()


def test_an_existing_output_is_refused_before_the_source_is_read(tmp_path) -> None:
    """FAULTS 63: also before anything is downloaded."""
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "notes.txt").write_text("mine")
    with pytest.raises(OptionError, match=r"^output "):
        export_checkpoint("no-such-org/no-such-model", tmp_path / "bundle")


def test_a_refused_checkpoint_leaves_nothing(checkpoint, edit_config, tmp_path) -> None:
    edit_config(checkpoint, n_layer=5)
    with pytest.raises(CheckpointError, match=r"h.2.ln_1.weight is missing"):
        export_checkpoint(str(checkpoint), tmp_path / "out" / "bundle")
    assert list((tmp_path / "out").iterdir()) == []


def run_python(script: str, *arguments: str | Path) -> str:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_an_export_imports_no_torch(checkpoint, tmp_path) -> None:
    script = (
        "import sys\n"
        "from ortgpt_export.exporter import export_checkpoint\n"
        "export_checkpoint(sys.argv[1], sys.argv[2])\n"
        "print(sorted({'torch', 'transformers', 'optimum', 'scipy'} & set(sys.modules)))\n"
    )
    assert run_python(script, checkpoint, tmp_path / "bundle") == "[]\n"


@pytest.mark.parametrize("package", ["onnx", "safetensors", "ml_dtypes"])
def test_a_missing_package_names_the_extra(package, checkpoint, tmp_path) -> None:
    """FAULTS 70"""
    script = (
        "import sys; sys.modules[sys.argv[3]] = None\n"
        "from ortgpt.errors import MissingExtraError\n"
        "try:\n"
        "    from ortgpt_export.exporter import export_checkpoint\n"
        "except MissingExtraError as error: print(error.extra, error)\n"
    )
    answer = run_python(script, checkpoint, tmp_path / "bundle", package)
    assert answer == f"export export needs the package '{package}', which is not installed\n"


def test_a_missing_hub_package_matters_only_to_hub_ids(checkpoint, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    export_checkpoint(str(checkpoint), tmp_path / "local", verify="none")
    with pytest.raises(MissingExtraError, match="huggingface_hub") as caught:
        export_checkpoint("org/model", tmp_path / "bundle", verify="none")
    assert caught.value.extra == "export"


@pytest.mark.parametrize(
    ("verify", "package", "extra"),
    [("torch", "torch", "optimum"), ("torch", "transformers", "optimum"), ("numpy", "onnxruntime", "cpu")],
)
def test_a_verification_that_cannot_run_is_refused_first(
    verify, package, extra, checkpoint, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("ortgpt_export.verify.find_spec", lambda name: None if name == package else object())
    with pytest.raises(MissingExtraError, match=f"--verify {verify} needs the package '{package}'") as caught:
        export_checkpoint(str(checkpoint), tmp_path / "out" / "bundle", verify=verify)
    assert caught.value.extra == extra
    assert not (tmp_path / "out").exists()

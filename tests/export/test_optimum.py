"""`--via optimum` as a whole: what it says, what it keeps to itself, what it refuses."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from portable_exports import make_portable_checkpoint
from tokenizers import pre_tokenizers

import ortgpt
from ortgpt.errors import CheckpointError, OptionError
from ortgpt.manifest import Manifest
from ortgpt.manifest_reader import read_manifest
from ortgpt_export.exporter import export_checkpoint

BUNDLE_FILES = [
    "decoder.onnx",
    "decoder.onnx.data",
    "generation_config.json",
    "manifest.json",
    "tokenizer.json",
]
Change = Callable[..., None]
Export = Callable[..., Manifest]


def test_a_bundle_has_its_five_files_and_a_manifest_that_describes_them(
    export: Export, llama: Path, tmp_path: Path
) -> None:
    manifest = export(llama, tmp_path / "bundle")
    assert sorted(os.listdir(tmp_path / "bundle")) == BUNDLE_FILES
    assert read_manifest((tmp_path / "bundle" / "manifest.json").read_bytes()) == manifest
    assert set(manifest.files) == set(BUNDLE_FILES) - {"manifest.json"}
    assert (manifest.dialect, manifest.precision, manifest.row_invariant) == ("portable", "fp32", False)
    shape = manifest.architecture
    assert (shape.model_type, shape.layers, shape.heads, shape.kv_heads) == ("llama", 2, 4, 2)
    assert (shape.head_size, shape.cache_head_size, shape.width, shape.context) == (8, 8, 32, 64)
    assert (shape.vocab_size, shape.tokenizer_size) == (257, 257)
    assert (shape.bos_token_id, shape.eos_token_ids) == (256, (256,))
    assert manifest.provenance.source == "tiny-llama", "no path of this machine"
    assert manifest.provenance.onnxruntime_floor == "1.31"
    versions = [f"{name} {version(name)}" for name in ("optimum-onnx", "torch", "transformers")]
    assert manifest.provenance.exporter == f"ortgpt {ortgpt.__version__} via {', '.join(versions)}"


def test_a_bundle_is_compared_with_torch_unless_told_otherwise(
    export: Export, llama: Path, tmp_path: Path
) -> None:
    parity = export(llama, tmp_path / "bundle").parity
    assert (parity.reference, parity.prompt_tokens, parity.cached_steps) == ("torch", 24, 16)
    assert 0 < parity.max_abs_logits_difference <= 2e-4
    assert 0 < parity.max_abs_hidden_difference <= 2e-4
    assert parity.greedy_agreement == 1.0


def test_numpy_compares_a_gpt2_and_nothing_else(
    export: Export, checkpoint: Path, llama: Path, tmp_path: Path
) -> None:
    parity = export(checkpoint, tmp_path / "gpt2", verify="numpy").parity
    assert parity.reference == "numpy"
    assert 0 < parity.max_abs_logits_difference <= 2e-4
    with pytest.raises(OptionError, match="verify numpy knows GPT-2 only: of a llama take torch or none"):
        export(llama, tmp_path / "llama", verify="numpy")
    assert not (tmp_path / "llama").exists()


def test_int8_is_compared_with_the_fp32_graph(export: Export, checkpoint: Path, tmp_path: Path) -> None:
    manifest = export(checkpoint, tmp_path / "bundle", precision="int8-dynamic")
    assert manifest.precision == "int8-dynamic"
    assert manifest.quality is not None
    assert 0 < manifest.quality.kl_divergence < 0.1
    assert manifest.parity.reference == "torch"
    assert sorted(os.listdir(tmp_path / "bundle")) == BUNDLE_FILES


def test_the_probe_is_the_checkpoint_s_answer(export: Export, llama: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    probe = export(llama, tmp_path / "bundle", verify="none").probe
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(llama)(torch.tensor([probe.token_ids])).logits
    assert int(logits[0, -1].argmax()) == probe.argmax
    ortgpt.load(tmp_path / "bundle").close()  # which asks the probe


def test_a_hub_id_is_fetched_as_for_every_export(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    asked: list[Any] = []

    def download(name: str, *, revision: str | None, **_: Any) -> str:
        asked.append((name, revision))
        return str(llama)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    manifest = export_checkpoint(
        "org/model", tmp_path / "bundle", via="optimum", revision="main", verify="none"
    )
    assert asked == [("org/model", "main")]
    assert manifest.provenance.source == "org/model"


def test_shards_and_half_precision_are_read(export: Export, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    whole = make_portable_checkpoint(tmp_path / "whole", "qwen2")
    model = AutoModelForCausalLM.from_pretrained(whole, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    (tmp_path / "shards" / "tokenizer.json").write_bytes((whole / "tokenizer.json").read_bytes())
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    parity = export(tmp_path / "shards", tmp_path / "bundle").parity
    assert 0 < parity.max_abs_logits_difference <= 2e-4


def test_progress_counts_every_stage_to_its_end(export: Export, llama: Path, tmp_path: Path) -> None:
    reports: dict[str, list[tuple[int, int]]] = {}

    def progress(stage: str, done: int, total: int) -> None:
        reports.setdefault(stage, []).append((done, total))

    export(llama, tmp_path / "bundle", progress=progress)
    assert list(reports) == ["read", "trace", "write", "verify"]
    for stage, steps in reports.items():
        assert [done for done, _ in steps] == sorted({done for done, _ in steps}), stage
        assert steps[-1][0] == steps[-1][1], stage


def test_a_local_directory_never_reaches_for_the_network(
    export: Export, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached: list[Any] = []

    def refuse(*arguments: Any, **_: Any) -> Any:
        reached.append(arguments)
        raise OSError("no network here")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    export(llama, tmp_path / "bundle")
    assert reached == []


def test_code_in_a_checkpoint_is_not_run(
    export: Export, llama: Path, tmp_path: Path, edit_config: Change
) -> None:
    mark = tmp_path / "was-run"
    (llama / "modeling_mine.py").write_text(f"open({str(mark)!r}, 'w')\nclass Mine: pass\n")
    edit_config(
        llama, auto_map={"AutoModelForCausalLM": "modeling_mine.Mine", "AutoConfig": "modeling_mine.Mine"}
    )
    export(llama, tmp_path / "bundle", verify="none")
    assert not mark.exists()


def test_nothing_is_said_and_no_setting_is_left_changed(
    export: Export, llama: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    loggers = [logging.getLogger(name) for name in ("transformers", "optimum", "torch")]
    levels, environment = [logger.level for logger in loggers], dict(os.environ)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        export(llama, tmp_path / "bundle")
    assert [str(warning.message) for warning in said] == []
    assert capfd.readouterr() == ("", "")
    assert [logger.level for logger in loggers] == levels
    assert dict(os.environ) == environment


@pytest.mark.parametrize("debug", [False, True])
def test_the_command_says_one_line_and_with_debug_what_optimum_says(
    debug, llama: Path, tmp_path: Path
) -> None:
    arguments = [
        "export",
        llama,
        "-o",
        tmp_path / "bundle",
        "--via",
        "optimum",
        *(["--debug"] if debug else []),
    ]
    result = subprocess.run(
        [sys.executable, "-m", "ortgpt", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
    lines = result.stderr.split("\n")
    assert lines[-2].startswith(f"{tmp_path / 'bundle'}: fp32, 0.")
    assert "against torch" in lines[-2]
    assert ("TracerWarning" in result.stderr) is debug
    if not debug:
        assert [line for line in lines if line] == [lines[-2]]


def opt_without_tokenizer_json(folder: Path) -> Path:
    """With the files that OPT's tokenizer has on the hub: </s> stands before every text."""
    checkpoint = make_portable_checkpoint(folder, "opt", vocab_size=261, eos_token_id=2, bos_token_id=2)
    for name in ("tokenizer.json", "special_tokens_map.json"):
        (checkpoint / name).unlink()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *alphabet, "th"]
    vocabulary = {token: place for place, token in enumerate(tokens)}
    settings = {
        "tokenizer_class": "GPT2Tokenizer",
        "add_bos_token": True,
        "add_prefix_space": False,
        **dict.fromkeys(("bos_token", "eos_token", "unk_token"), "</s>"),
    }
    (checkpoint / "vocab.json").write_text(json.dumps(vocabulary))
    (checkpoint / "merges.txt").write_text("#version: 0.2\nt h\n")
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(settings))
    return checkpoint


def test_a_tokenizer_of_older_files_is_converted_as_transformers_does(export: Export, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    checkpoint = opt_without_tokenizer_json(tmp_path / "opt")
    export(checkpoint, tmp_path / "bundle", verify="none")
    expected = AutoTokenizer.from_pretrained(checkpoint)
    with ortgpt.load(tmp_path / "bundle") as model:
        for text in ("the cat", "", " naïve th"):
            assert list(model.generate(text, max_new_tokens=1).prompt_token_ids) == expected(text).input_ids


def test_the_source_digest_follows_the_settings_of_a_converted_tokenizer(
    export: Export, tmp_path: Path
) -> None:
    checkpoint = opt_without_tokenizer_json(tmp_path / "opt")
    first = export(checkpoint, tmp_path / "first", verify="none").provenance.source_sha256
    settings = checkpoint / "tokenizer_config.json"
    settings.write_text(settings.read_text().replace('"add_bos_token": true', '"add_bos_token": false'))
    second = export(checkpoint, tmp_path / "second", verify="none").provenance.source_sha256
    assert first != second


def test_a_tokenizer_that_cannot_be_converted_is_one_sentence(export: Export, tmp_path: Path) -> None:
    checkpoint = opt_without_tokenizer_json(tmp_path / "opt")
    (checkpoint / "tokenizer_config.json").write_text('{"tokenizer_class": "NoSuchTokenizer"}')
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json, and transformers can't make one: "):
        export(checkpoint, tmp_path / "bundle")
    (checkpoint / "vocab.json").unlink()
    with pytest.raises(CheckpointError, match="the checkpoint has no tokenizer"):
        export(checkpoint, tmp_path / "bundle")

"""Checkpoint to bundle: the path of the data, in the order in which it happens."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import ortgpt
from ortgpt.checks import shown
from ortgpt.errors import OptionError
from ortgpt.interfaces import Floats
from ortgpt.manifest import (
    GENERATION_CONFIG_NAME,
    GRAPH_NAME,
    TOKENIZER_NAME,
    WEIGHTS_NAME,
    Architecture,
    FileEntry,
    Manifest,
    Parity,
    Probe,
    Provenance,
)
from ortgpt_export.bundle_writer import BundleWriter
from ortgpt_export.checkpoint import INDEX_NAME, Checkpoint, open_checkpoint, weight_files
from ortgpt_export.config import CONFIG_NAME, GPT2Config, read_config
from ortgpt_export.graph import cache_head_size, data_bytes, write_graph
from ortgpt_export.probe import make_probe
from ortgpt_export.source import fetch, parse_source, source_sha256
from ortgpt_export.tokenizer_file import TokenizerFile, read_tokenizer, tokenizer_files
from ortgpt_export.verify import check_available, measure_parity, numpy_reference, torch_reference

logger = logging.getLogger("ortgpt")

Progress = Callable[[Literal["read", "write", "verify"], int, int], None]
"""Is told (stage, done, total): bytes of the checkpoint, bytes of the weights, forward passes."""

ONNXRUNTIME_FLOORS = ("1.31", "1.32")
VERIFICATIONS = ("none", "numpy", "torch")
SMALL_FILES_BYTES = 64 << 20  # room for graph, tokenizer and manifest


def export_checkpoint(
    source: str,
    output: str | Path,
    *,
    precision: str = "fp32",
    via: str = "graph",
    verify: str = "numpy",
    revision: str | None = None,
    onnxruntime_floor: str = "1.32",
    force: bool = False,
    quiet: bool = False,
    progress: Progress = lambda *_: None,
) -> Manifest:
    """Turn a GPT-2 checkpoint into a bundle and return the bundle's manifest.

    source             a directory with config.json, safetensors weights and a tokenizer, or a hub id
    output             the bundle's directory; written whole or not at all
    verify             compare the bundle with "numpy" or "torch" (transformers), or "none"
    revision           of a hub id: branch, tag or commit
    onnxruntime_floor  oldest onnxruntime to run it: "1.32", or "1.31" without ragged batches
    force              replace a bundle that is already there
    quiet              no progress bars of the hub
    progress           called with (stage, done, total)

    Raises OptionError for arguments, CheckpointError for a checkpoint that can't be exported,
    BundleError when the bundle fails its verification, OrtgptError for a full disk or a failed
    download, MissingExtraError when an extra is missing.
    """
    _check_choices(precision, via, verify, onnxruntime_floor)
    check_available(verify)
    origin = parse_source(source, revision)
    with BundleWriter(Path(output), force=force) as bundle:
        directory = fetch(origin, quiet=quiet)
        config = read_config(directory)
        tokenizer = read_tokenizer(directory, config.vocab_size)
        architecture = describe(config, tokenizer.loaded.size)
        with open_checkpoint(directory, config) as weights:
            provenance = Provenance(
                source=origin.name,
                source_sha256=_digest(directory, progress),
                exporter=f"ortgpt {ortgpt.__version__}",
                onnxruntime_floor=onnxruntime_floor,
            )
            _write_files(bundle, weights, config, architecture, tokenizer, onnxruntime_floor, progress)
            probe = make_probe(weights, config, tokenizer.loaded)
            notes = (*config.notes, *tokenizer.notes)
            manifest = make_manifest(architecture, provenance, probe, bundle.files, notes)
            if verify != "none":
                bundle.write_manifest(manifest)
                parity = _verify(bundle.directory, directory, weights, config, verify, progress)
                manifest = replace(manifest, parity=parity)
            bundle.commit(manifest)
    for note in manifest.notes:
        logger.warning("%s", note)
    return manifest


def describe(config: GPT2Config, tokenizer_size: int) -> Architecture:
    """The manifest's architecture."""
    return Architecture(
        model_type="gpt2",
        layers=config.n_layer,
        heads=config.n_head,
        head_size=config.head_size,
        cache_head_size=cache_head_size(config),
        width=config.n_embd,
        context=config.n_positions,
        vocab_size=config.vocab_size,
        tokenizer_size=tokenizer_size,
        bos_token_id=config.bos_token_id,
        eos_token_ids=config.eos_token_ids,
    )


def make_manifest(
    architecture: Architecture,
    provenance: Provenance,
    probe: Probe,
    files: dict[str, FileEntry],
    notes: tuple[str, ...],
) -> Manifest:
    """The manifest of an fp32 bundle that has not been verified yet."""
    return Manifest(
        architecture=architecture,
        dialect="fused",
        precision="fp32",
        block_size=None,
        row_invariant=True,
        files=files,
        provenance=provenance,
        probe=probe,
        parity="skipped",
        notes=notes,
    )


def _check_choices(precision: str, via: str, verify: str, onnxruntime_floor: str) -> None:
    if precision in ("fp16", "int8", "int4"):
        raise OptionError("precision", f"{precision} is not there yet: only fp32 is")
    if precision != "fp32":
        raise OptionError("precision", f"must be fp32, got {shown(precision)}")
    if via == "optimum":
        raise OptionError("via", "optimum is not there yet: only graph is")
    if via != "graph":
        raise OptionError("via", f"must be graph, got {shown(via)}")
    if verify not in VERIFICATIONS:
        raise OptionError("verify", f"must be one of {', '.join(VERIFICATIONS)}, got {shown(verify)}")
    if onnxruntime_floor not in ONNXRUNTIME_FLOORS:
        raise OptionError(
            "onnxruntime_floor",
            f"must be one of {', '.join(ONNXRUNTIME_FLOORS)}, got {shown(onnxruntime_floor)}",
        )


def _digest(directory: Path, progress: Progress) -> str:
    """The digest over all files that this export reads."""
    files = weight_files(directory) + tokenizer_files(directory)
    optional = (CONFIG_NAME, GENERATION_CONFIG_NAME, INDEX_NAME)
    files += [directory / name for name in optional if (directory / name).exists()]
    count = _Counter("read", sum(path.stat().st_size for path in files), progress)
    return source_sha256(files, count)


def _write_files(
    bundle: BundleWriter,
    weights: Checkpoint,
    config: GPT2Config,
    architecture: Architecture,
    tokenizer: TokenizerFile,
    onnxruntime_floor: str,
    progress: Progress,
) -> None:
    """Everything but the manifest."""
    bundle.reserve(data_bytes(config, weights.nbytes) + len(tokenizer.json) + SMALL_FILES_BYTES)
    with bundle.file(WEIGHTS_NAME) as data_file:
        graph = write_graph(
            weights,
            config,
            architecture,
            data_file,
            ragged_widths=onnxruntime_floor != "1.31",
            on_bytes=_Counter("write", weights.nbytes, progress),
        )
    bundle.add(GRAPH_NAME, graph)
    bundle.add(TOKENIZER_NAME, tokenizer.json)
    ids = {"bos_token_id": config.bos_token_id, "eos_token_id": list(config.eos_token_ids)}
    bundle.add(GENERATION_CONFIG_NAME, (json.dumps(ids, indent=2) + "\n").encode("utf-8"))


def _verify(
    bundle: Path,
    source: Path,
    weights: Mapping[str, Floats],
    config: GPT2Config,
    verify: str,
    progress: Progress,
) -> Parity:
    reference = torch_reference(source) if verify == "torch" else numpy_reference(weights, config)
    on_step = partial(progress, "verify")
    return measure_parity(bundle, config, reference, verify, on_step)


class _Counter:
    """Adds up bytes and reports them as a stage's progress."""

    def __init__(self, stage: Literal["read", "write"], total: int, progress: Progress) -> None:
        self._stage = stage
        self._total = total
        self._done = 0
        self._progress = progress

    def __call__(self, nbytes: int) -> None:
        self._done += nbytes
        self._progress(self._stage, self._done, self._total)

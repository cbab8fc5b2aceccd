"""Checkpoint to bundle: the path of the data, in the order in which it happens."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path

import ortgpt
from ortgpt.checks import shown
from ortgpt.errors import OptionError
from ortgpt.manifest import GENERATION_CONFIG_NAME, Manifest, Provenance
from ortgpt_export.bundle_writer import BundleWriter
from ortgpt_export.checkpoint import INDEX_NAME, weight_files
from ortgpt_export.config import CONFIG_NAME
from ortgpt_export.job import Job, open_graph_job
from ortgpt_export.optimum_job import choose_portable_scheme, open_optimum_job
from ortgpt_export.optimum_trace import check_optimum, describe_tracing
from ortgpt_export.progress import Counter, Progress
from ortgpt_export.quality import read_text
from ortgpt_export.quantised import write_quantised
from ortgpt_export.schemes import Scheme, choose_scheme
from ortgpt_export.source import fetch, parse_source, source_sha256
from ortgpt_export.tokenizer_file import tokenizer_files
from ortgpt_export.verify import check_available, check_quantisers

logger = logging.getLogger("ortgpt")

ONNXRUNTIME_FLOORS = ("1.31", "1.32")
DEFAULT_FLOORS = {"fp16": "1.31"}  # the others': 1.32
VIAS = ("graph", "optimum")
VERIFICATIONS = ("none", "numpy", "torch")


def export_checkpoint(
    source: str,
    output: str | Path,
    *,
    precision: str = "fp32",
    row_invariant: bool = False,
    fast_prefill: bool = False,
    via: str = "graph",
    verify: str | None = None,
    perplexity_text: str | Path | None = None,
    revision: str | None = None,
    onnxruntime_floor: str | None = None,
    force: bool = False,
    quiet: bool = False,
    verbose: bool = False,
    progress: Progress = lambda *_: None,
) -> Manifest:
    """Turn a checkpoint into a bundle and return the bundle's manifest.

    source             a directory with config.json, safetensors weights and a tokenizer, or a hub id
    output             the bundle's directory; written whole or not at all
    precision          "fp32", "fp16", "int8", "int8-dynamic" or "int4": see docs/precision.md. Via "optimum"
                       "fp32" or "int8-dynamic"
    row_invariant      quantise so that a row's numbers never depend on the rows beside it
    fast_prefill       add a second copy of the layers, as int8-dynamic, for calls of many tokens;
                       with "int8" and "int4"
    via                "graph": the fused graph, of GPT-2, without torch. "optimum": what Optimum makes, of
                       GPT-2 and other families, by way of torch
    verify             compare the bundle with "numpy" (GPT-2 only) or "torch" (transformers), or "none"; a
                       quantised one also with the fp32 model, over whole distributions. None: "numpy", via
                       "optimum" "torch"
    perplexity_text    a text file whose perplexity under the bundle and under fp32 goes into the manifest
    revision           of a hub id: branch, tag or commit
    onnxruntime_floor  oldest onnxruntime to run it: "1.32", or "1.31" without ragged batches. None: 1.32, but
                       1.31 via "optimum", and for fp16, since there is no newer one for CUDA
    force              replace a bundle that is already there
    quiet              no progress bars of the hub
    verbose            let through what Optimum and torch have to say
    progress           called with (stage, done, total)

    Raises OptionError for arguments, CheckpointError for a checkpoint that can't be exported,
    BundleError when the bundle fails its verification, OrtgptError for a full disk or a failed
    download, MissingExtraError when an extra is missing.
    """
    is_traced = via == "optimum"
    choose = choose_portable_scheme if is_traced else choose_scheme
    scheme = choose(precision, row_invariant=row_invariant, fast_prefill=fast_prefill)
    if verify is None:
        verify = "torch" if is_traced else "numpy"
    default_floor = "1.31" if is_traced else DEFAULT_FLOORS.get(scheme.precision, "1.32")
    floor = default_floor if onnxruntime_floor is None else onnxruntime_floor
    _check_choices(via, verify, floor)
    _check_quantised(scheme, verify, perplexity_text)
    if is_traced:
        check_optimum()
    check_available(verify)
    text = None if perplexity_text is None else read_text(Path(perplexity_text))
    origin = parse_source(source, revision)
    with BundleWriter(Path(output), force=force) as bundle:
        directory = fetch(origin, quiet=quiet)
        exporter = f"ortgpt {ortgpt.__version__}" + (f" via {describe_tracing()}" if is_traced else "")
        describe = partial(_provenance, directory, origin.name, exporter, floor, progress)
        opened: AbstractContextManager[Job]
        if is_traced:
            opened = open_optimum_job(directory, bundle, describe, progress, verify, verbose)
        else:
            opened = open_graph_job(directory, describe, progress)
        with opened as job:
            if scheme.precision == "fp32":
                manifest = job.write(bundle, scheme)
                if verify != "none":
                    manifest = replace(manifest, parity=job.parity(bundle.directory, verify, "fp32"))
            else:
                manifest = write_quantised(job, bundle, scheme, verify, text)
        bundle.commit(manifest)
    for note in manifest.notes:
        logger.warning("%s", note)
    return manifest


def _provenance(
    directory: Path, name: str, exporter: str, floor: str, progress: Progress, others: list[Path]
) -> Provenance:
    return Provenance(
        source=name,
        source_sha256=_digest(directory, others, progress),
        exporter=exporter,
        onnxruntime_floor=floor,
    )


def _check_choices(via: str, verify: str, onnxruntime_floor: str) -> None:
    if via not in VIAS:
        raise OptionError("via", f"must be {' or '.join(VIAS)}, got {shown(via)}")
    if verify not in VERIFICATIONS:
        raise OptionError("verify", f"must be one of {', '.join(VERIFICATIONS)}, got {shown(verify)}")
    if onnxruntime_floor not in ONNXRUNTIME_FLOORS:
        raise OptionError(
            "onnxruntime_floor",
            f"must be one of {', '.join(ONNXRUNTIME_FLOORS)}, got {shown(onnxruntime_floor)}",
        )


def _check_quantised(scheme: Scheme, verify: str, perplexity_text: str | Path | None) -> None:
    if scheme.precision == "fp32":
        if perplexity_text is not None:
            raise OptionError(
                "perplexity_text", "compares a precision with fp32, and fp32 is what was asked for"
            )
        return
    check_quantisers()
    if perplexity_text is not None and verify == "none":
        raise OptionError("perplexity_text", "can't be measured with verify none")


def _digest(directory: Path, others: list[Path], progress: Progress) -> str:
    """The digest over all files that this export reads."""
    files = weight_files(directory) + tokenizer_files(directory) + others
    optional = (CONFIG_NAME, GENERATION_CONFIG_NAME, INDEX_NAME)
    files += [directory / name for name in optional if (directory / name).exists()]
    count = Counter("read", sum(path.stat().st_size for path in files), progress)
    return source_sha256(files, count)

"""One checkpoint on its way into a bundle: what every precision has in common."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

from ortgpt.interfaces import Floats
from ortgpt.manifest import (
    GENERATION_CONFIG_NAME,
    GRAPH_NAME,
    PREFILL_GRAPH_NAME,
    PREFILL_WEIGHTS_NAME,
    TOKENIZER_NAME,
    WEIGHTS_NAME,
    Architecture,
    Manifest,
    Parity,
    Precision,
    Probe,
    Provenance,
)
from ortgpt_export.bundle_writer import BundleWriter
from ortgpt_export.checkpoint import Checkpoint
from ortgpt_export.config import GPT2Config
from ortgpt_export.graph import data_bytes, write_graph
from ortgpt_export.heads import cache_head_size
from ortgpt_export.probe import make_probe
from ortgpt_export.schemes import Scheme
from ortgpt_export.tokenizer_file import TokenizerFile
from ortgpt_export.verify import measure_parity, numpy_reference, torch_reference

Stage = Literal["read", "write", "verify", "prepare", "calibrate", "compare"]
Progress = Callable[[Stage, int, int], None]
"""Is told (stage, done, total): bytes of the checkpoint, bytes of the weights, forward passes, texts.

"prepare" is the fp32 model that the others are compared with.
"""

SMALL_FILES_BYTES = 64 << 20  # room for graph, tokenizer and manifest


@dataclass(frozen=True)
class Job:
    """What has been read of the checkpoint in `directory`; provenance goes into every manifest of it."""

    directory: Path
    config: GPT2Config
    weights: Checkpoint
    tokenizer: TokenizerFile
    provenance: Provenance
    progress: Progress

    @cached_property
    def architecture(self) -> Architecture:
        return describe(self.config, self.tokenizer.loaded.size)

    @cached_property
    def probe(self) -> Probe:
        """The known answer of the fp32 weights."""
        return make_probe(self.weights, self.config, self.tokenizer.loaded)

    def write(
        self,
        bundle: BundleWriter,
        scheme: Scheme,
        weights: Mapping[str, Floats] | None = None,
        *,
        wide: Mapping[str, Floats] | None = None,
        stage: Stage = "write",
    ) -> Manifest:
        """Write all files; afterwards the bundle's directory can be loaded. Returns its manifest, unverified.

        weights  what is stored; None: the checkpoint's
        wide     what the second graph stores, if the scheme has one; None: the same
        stage    as which progress is reported
        """
        bundle.reserve(
            data_bytes(self.config, self.weights.nbytes) + len(self.tokenizer.json) + SMALL_FILES_BYTES
        )
        stored = self.weights if weights is None else weights
        self._write_graphs(bundle, scheme, stored, stored if wide is None else wide, stage)
        bundle.add(TOKENIZER_NAME, self.tokenizer.json)
        ids = {"bos_token_id": self.config.bos_token_id, "eos_token_id": list(self.config.eos_token_ids)}
        bundle.add(GENERATION_CONFIG_NAME, (json.dumps(ids, indent=2) + "\n").encode("utf-8"))
        manifest = Manifest(
            architecture=self.architecture,
            dialect="fused",
            precision=scheme.precision,
            block_size=scheme.block_size,
            row_invariant=scheme.row_invariant,
            files=bundle.files,
            provenance=self.provenance,
            probe=self.probe,
            parity="skipped",
            notes=(*self.config.notes, *self.tokenizer.notes),
        )
        bundle.write_manifest(manifest)
        return manifest

    def _write_graphs(
        self,
        bundle: BundleWriter,
        scheme: Scheme,
        weights: Mapping[str, Floats],
        wide: Mapping[str, Floats],
        stage: Stage,
    ) -> None:
        """The graph with its data file, and the scheme's second graph, which takes from there what it can."""
        graphs = [(GRAPH_NAME, WEIGHTS_NAME, scheme, weights)]
        if wide_scheme := scheme.wide():
            graphs.append((PREFILL_GRAPH_NAME, PREFILL_WEIGHTS_NAME, wide_scheme, wide))
        own = () if wide is weights else [name for name in wide if (wide[name] != weights[name]).any()]
        graph = b""
        for graph_name, data_name, form, values in graphs:
            with bundle.file(data_name) as data_file:
                graph = write_graph(
                    values,
                    self.config,
                    self.architecture,
                    data_file,
                    ragged_widths=self.provenance.onnxruntime_floor != "1.31",
                    scheme=form,
                    location=data_name,
                    beside=graph,
                    own=own,
                    on_bytes=Counter(stage, self.weights.nbytes, self.progress),
                )
            bundle.add(graph_name, graph)

    def parity(self, bundle: Path, verify: str, precision: Precision) -> Parity:
        """Compare a written bundle with "numpy" or "torch"."""
        is_torch = verify == "torch"
        reference = (
            torch_reference(self.directory) if is_torch else numpy_reference(self.weights, self.config)
        )
        on_step = partial(self.progress, "verify")
        return measure_parity(bundle, self.config, reference, verify, precision, on_step)


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


class Counter:
    """Adds up bytes and reports them as a stage's progress."""

    def __init__(self, stage: Stage, total: int, progress: Progress) -> None:
        self._stage = stage
        self._total = total
        self._done = 0
        self._progress = progress

    def __call__(self, nbytes: int) -> None:
        self._done += nbytes
        self._progress(self._stage, self._done, self._total)

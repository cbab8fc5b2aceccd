"""One checkpoint on its way into a bundle: what every precision has in common."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import ortgpt
from ortgpt.interfaces import Floats, Ids
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
    PortableGraph,
    Precision,
    Probe,
    Provenance,
)
from ortgpt.probe import make_probe
from ortgpt_export.bundle_writer import BundleWriter
from ortgpt_export.checkpoint import Checkpoint, open_checkpoint
from ortgpt_export.config import GPT2Config, read_config
from ortgpt_export.graph import data_bytes, write_graph
from ortgpt_export.heads import cache_head_size
from ortgpt_export.preparation import check_range, prepare
from ortgpt_export.progress import Counter, Progress, Stage
from ortgpt_export.reference import forward
from ortgpt_export.schemes import Scheme
from ortgpt_export.tokenizer_file import TokenizerFile, read_tokenizer
from ortgpt_export.verify import measure_parity, numpy_reference, torch_reference

DescribeSource = Callable[[list[Path]], Provenance]
"""Is told what is read besides configuration, weights and tokenizer; takes the digest of all."""

SMALL_FILES_BYTES = 64 << 20  # room for graph, tokenizer and manifest


@dataclass(frozen=True)
class Job(ABC):
    """What has been read of a checkpoint; provenance goes into every manifest of it."""

    tokenizer: TokenizerFile
    provenance: Provenance
    progress: Progress

    @property
    @abstractmethod
    def architecture(self) -> Architecture:
        """The model's shape."""

    @abstractmethod
    def write(self, bundle: BundleWriter, scheme: Scheme, *, stage: Stage = "write") -> Manifest:
        """Write all files; afterwards the bundle's directory can be loaded. Returns its manifest, unverified.

        stage  as which progress is reported
        """

    def write_calibrated(self, bundle: BundleWriter, scheme: Scheme, reference: ortgpt.Model) -> Manifest:
        """The same in a precision other than fp32, with what can be learned from the fp32 model."""
        return self.write(bundle, scheme)

    @abstractmethod
    def parity(self, bundle: Path, verify: str, precision: Precision) -> Parity:
        """Compare a written bundle with "numpy" or "torch"."""

    def finish(
        self,
        bundle: BundleWriter,
        scheme: Scheme,
        probe: Probe,
        notes: tuple[str, ...],
        portable: PortableGraph | None = None,
    ) -> Manifest:
        """Add what is not the graph, and the manifest."""
        shape = self.architecture
        bundle.add(TOKENIZER_NAME, self.tokenizer.json)
        ids = {"bos_token_id": shape.bos_token_id, "eos_token_id": list(shape.eos_token_ids)}
        bundle.add(GENERATION_CONFIG_NAME, (json.dumps(ids, indent=2) + "\n").encode("utf-8"))
        manifest = Manifest(
            architecture=shape,
            dialect="fused" if portable is None else "portable",
            precision=scheme.precision,
            block_size=scheme.block_size,
            row_invariant=scheme.row_invariant,
            files=bundle.files,
            provenance=self.provenance,
            probe=probe,
            parity="skipped",
            notes=(*notes, *self.tokenizer.notes),
            portable=portable,
        )
        bundle.write_manifest(manifest)
        return manifest


@dataclass(frozen=True)
class GraphJob(Job):
    """A GPT-2 on its way into a fused graph."""

    directory: Path
    config: GPT2Config
    weights: Checkpoint

    @cached_property
    def architecture(self) -> Architecture:
        return describe(self.config, self.tokenizer.loaded.size)

    @cached_property
    def probe(self) -> Probe:
        """The known answer of the fp32 weights."""

        def logits_of(token_ids: Ids) -> Floats:
            return forward(self.weights, self.config, token_ids).logits

        return make_probe(logits_of, self.config.n_positions, self.tokenizer.loaded)

    def write(
        self,
        bundle: BundleWriter,
        scheme: Scheme,
        *,
        weights: Mapping[str, Floats] | None = None,
        wide: Mapping[str, Floats] | None = None,
        stage: Stage = "write",
    ) -> Manifest:
        """See Job.

        weights  what is stored; None: the checkpoint's
        wide     what the second graph stores, if the scheme has one; None: the same
        """
        bundle.reserve(
            data_bytes(self.config, self.weights.nbytes) + len(self.tokenizer.json) + SMALL_FILES_BYTES
        )
        stored = self.weights if weights is None else weights
        self._write_graphs(bundle, scheme, stored, stored if wide is None else wide, stage)
        return self.finish(bundle, scheme, self.probe, self.config.notes)

    def write_calibrated(self, bundle: BundleWriter, scheme: Scheme, reference: ortgpt.Model) -> Manifest:
        prepared = prepare(self.weights, self.config, scheme, reference, self.progress)
        manifest = self.write(bundle, prepared.scheme, weights=prepared.weights, wide=prepared.wide)
        if scheme.element_type == "float16":
            check_range(self.weights, self.config, reference, self.progress)
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
        is_torch = verify == "torch"
        reference = (
            torch_reference(self.directory) if is_torch else numpy_reference(self.weights, self.config)
        )
        on_step = partial(self.progress, "verify")
        return measure_parity(bundle, self.architecture, reference, verify, precision, on_step)


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


@contextmanager
def open_graph_job(
    directory: Path, describe_source: DescribeSource, progress: Progress
) -> Iterator[GraphJob]:
    """Read a GPT-2's configuration, tokenizer and weights, and only then its digests."""
    config = read_config(directory)
    tokenizer = read_tokenizer(directory, config.vocab_size)
    with open_checkpoint(directory, config) as weights:
        yield GraphJob(tokenizer, describe_source([]), progress, directory, config, weights)

"""A checkpoint of any family on its way into a graph of the portable dialect, by way of Optimum."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory

from ortgpt.bundle.graph_check import check_graph
from ortgpt.bundle.wire import read_model
from ortgpt.checks import shown
from ortgpt.errors import BundleError, CheckpointError, OptionError
from ortgpt.manifest import (
    GRAPH_NAME,
    TOKENIZER_NAME,
    WEIGHTS_NAME,
    Architecture,
    Manifest,
    Parity,
    Precision,
    Probe,
)
from ortgpt.probe import make_probe
from ortgpt_export.bundle_writer import BundleWriter
from ortgpt_export.causal_model import CausalConfig, read_causal_config, stage_checkpoint
from ortgpt_export.checkpoint import open_checkpoint
from ortgpt_export.config import read_config
from ortgpt_export.converted_tokenizer import convert_tokenizer, settings_files
from ortgpt_export.external_data import ALIGNMENT
from ortgpt_export.job import SMALL_FILES_BYTES, DescribeSource, Job
from ortgpt_export.optimum_trace import check_family, trace
from ortgpt_export.portable_graph import describe_ports, write_portable_graph
from ortgpt_export.progress import Counter, Progress, Stage
from ortgpt_export.schemes import SCHEMES, Scheme
from ortgpt_export.tokenizer_file import read_tokenizer
from ortgpt_export.traced_graph import TracedGraph
from ortgpt_export.verify import Reference, measure_parity, numpy_reference, torch_reference

TRACED_COPIES = 3  # of the weights on the disk: Optimum's, a second table, the bundle's
# What is folded into GPT-2's norms has no place in a graph of any family.
_PRECISIONS: tuple[Precision, ...] = ("fp32", "int8-dynamic")
PORTABLE_SCHEMES: dict[str, Scheme] = {
    name: replace(SCHEMES[name], row_invariant=False, moves_outliers=False) for name in _PRECISIONS
}


def choose_portable_scheme(
    precision: str, *, row_invariant: bool = False, fast_prefill: bool = False
) -> Scheme:
    """The scheme of a precision in the portable dialect. Raises OptionError for what is not to be had."""
    if precision not in PORTABLE_SCHEMES:
        names = " or ".join(PORTABLE_SCHEMES)
        raise OptionError("precision", f"must be {names} via optimum, got {shown(precision)}")
    if row_invariant:
        raise OptionError(
            "row_invariant", "is not to be had via optimum: a row computes with those beside it"
        )
    if fast_prefill:
        raise OptionError("fast_prefill", "is not to be had via optimum")
    return PORTABLE_SCHEMES[precision]


@dataclass(frozen=True)
class OptimumJob(Job):
    """directory: the checkpoint; staged: what transformers sees of it; traced: what Optimum made of that."""

    directory: Path
    staged: Path
    config: CausalConfig
    traced: TracedGraph

    @cached_property
    def architecture(self) -> Architecture:
        shape = self.traced.shape
        if shape.vocab_size != self.config.vocab_size:
            raise CheckpointError(
                f"config.json: vocab_size = {self.config.vocab_size}, but there are {shape.vocab_size} logits"
            )
        heads = self.config.heads
        return Architecture(
            model_type=self.config.model_type,
            layers=shape.layers,
            heads=heads,
            head_size=shape.head_size,
            cache_head_size=shape.head_size,
            width=shape.width,
            context=self.config.context,
            vocab_size=shape.vocab_size,
            tokenizer_size=self.tokenizer.loaded.size,
            bos_token_id=self.config.bos_token_id,
            eos_token_ids=self.config.eos_token_ids,
            kv_heads=None if shape.kv_heads == heads else shape.kv_heads,
        )

    @cached_property
    def _torch(self) -> Reference:
        return torch_reference(self.staged)

    @cached_property
    def probe(self) -> Probe:
        """The known answer of the checkpoint, as transformers gives it."""
        return make_probe(lambda ids: self._torch(ids)[0], self.config.context, self.tokenizer.loaded)

    def write(self, bundle: BundleWriter, scheme: Scheme, *, stage: Stage = "write") -> Manifest:
        nbytes = self.traced.nbytes
        bundle.reserve(
            nbytes + ALIGNMENT * len(self.traced.tensors) + len(self.tokenizer.json) + SMALL_FILES_BYTES
        )
        with bundle.file(WEIGHTS_NAME) as data_file:
            graph = write_portable_graph(
                self.traced,
                self.architecture,
                data_file,
                scheme=scheme,
                on_bytes=Counter(stage, nbytes, self.progress),
            )
        bundle.add(GRAPH_NAME, graph)
        manifest = self.finish(bundle, scheme, self.probe, self.config.notes, describe_ports(self.traced))
        self._check_graph(graph, manifest)
        return manifest

    def _check_graph(self, graph: bytes, manifest: Manifest) -> None:
        """Raise CheckpointError for a graph that the runtime would refuse."""
        try:
            sizes = {WEIGHTS_NAME: manifest.files[WEIGHTS_NAME].size}
            check_graph(read_model(graph, dialect=manifest.dialect), manifest, sizes)
        except BundleError as error:
            raise CheckpointError(
                f"Optimum's graph of this {self.config.model_type} can't be run by ortgpt: {error}"
            ) from None

    def parity(self, bundle: Path, verify: str, precision: Precision) -> Parity:
        on_step = partial(self.progress, "verify")
        if verify == "torch":
            return measure_parity(bundle, self.architecture, self._torch, verify, precision, on_step)
        config = read_config(self.directory)
        with open_checkpoint(self.directory, config) as weights:
            reference = numpy_reference(weights, config)
            return measure_parity(bundle, self.architecture, reference, verify, precision, on_step)


@contextmanager
def open_optimum_job(
    directory: Path,
    bundle: BundleWriter,
    describe_source: DescribeSource,
    progress: Progress,
    verify: str,
    verbose: bool,
) -> Iterator[OptimumJob]:
    """Check a checkpoint and have it traced; what that gives lies beside the bundle while the job is open."""
    with TemporaryDirectory(prefix="traced-", dir=bundle.directory) as name:
        staged, traced = Path(name) / "staged", Path(name) / "traced"
        staged.mkdir()
        nbytes = stage_checkpoint(directory, staged)
        check_family(staged)
        config = read_causal_config(staged, directory)
        if verify == "numpy" and config.model_type != "gpt2":
            raise OptionError(
                "verify", f"numpy knows GPT-2 only: of a {config.model_type} take torch or none"
            )
        # GPT-2's own is read as every export reads it.
        is_whole = config.model_type == "gpt2" or (directory / TOKENIZER_NAME).exists()
        if not is_whole:
            convert_tokenizer(directory, staged)
        tokenizer = read_tokenizer(directory if is_whole else staged, config.vocab_size)
        provenance = describe_source([] if is_whole else settings_files(directory))
        bundle.reserve(TRACED_COPIES * nbytes + SMALL_FILES_BYTES)
        progress("trace", 0, 1)
        graph = TracedGraph(trace(staged, traced, attention=config.attention, verbose=verbose))
        progress("trace", 1, 1)
        yield OptimumJob(tokenizer, provenance, progress, directory, staged, config, graph)

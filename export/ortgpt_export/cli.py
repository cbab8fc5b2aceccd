"""`ortgpt export`: mounted by the runtime's command line through the entry point `ortgpt.commands`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ortgpt.manifest import Manifest

if TYPE_CHECKING:
    from ortgpt_export.progress import Progress

STAGES = {
    "read": "reading",
    "trace": "tracing",
    "prepare": "preparing",
    "write": "writing",
    "calibrate": "calibrating",
    "compare": "comparing",
    "verify": "verifying",
}


class Precision(StrEnum):
    FP32, FP16, INT8, INT8_DYNAMIC, INT4 = "fp32", "fp16", "int8", "int8-dynamic", "int4"


class Via(StrEnum):
    GRAPH, OPTIMUM = "graph", "optimum"


class Verify(StrEnum):
    NONE, NUMPY, TORCH = "none", "numpy", "torch"


class Floor(StrEnum):
    V1_31, V1_32 = "1.31", "1.32"


def export(
    source: Annotated[str, typer.Argument(help="Checkpoint directory, or a hub id like gpt2 or org/name.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Where the bundle goes.")],
    precision: Annotated[
        Precision,
        typer.Option(help="Of the weights: see docs/precision.md; via optimum fp32 and int8-dynamic."),
    ] = Precision.FP32,
    row_invariant: Annotated[
        bool, typer.Option("--row-invariant", help="Quantise so that a text never depends on its batch.")
    ] = False,
    fast_prefill: Annotated[
        bool,
        typer.Option(
            "--fast-prefill", help="A second copy of the layers, for prompts and batches; int8 and int4."
        ),
    ] = False,
    via: Annotated[
        Via,
        typer.Option(
            help="graph: the fast one, GPT-2 only, without torch. optimum: other families too, by torch and "
            "Hugging Face Optimum."
        ),
    ] = Via.GRAPH,
    verify: Annotated[
        Verify | None,
        typer.Option(
            metavar="none|numpy|torch",
            help="What the bundle is compared with before it is written.",
            show_default="numpy, via optimum torch",
        ),
    ] = None,
    perplexity_text: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Text whose perplexity is measured, against fp32's."),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(metavar="R", help="Branch, tag or commit of a hub id.")
    ] = None,
    onnxruntime_floor: Annotated[
        Floor | None,
        typer.Option(
            metavar="1.31|1.32",
            help="Oldest onnxruntime to run it; 1.31 reads prompts of a batch one by one.",
            show_default="1.32, of fp16 and via optimum 1.31",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that is there.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No warnings, no progress, no last line.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error, and what Optimum says.")
    ] = False,
) -> None:
    """Turn a checkpoint into a bundle.

    ortgpt export models/storyteller -o models/storyteller-fp32

    ortgpt export openai-community/gpt2 -o models/gpt2 --revision main

    ortgpt export openai-community/gpt2 -o models/gpt2-int8 --precision int8

    ortgpt export openai-community/gpt2 -o models/gpt2-fast --precision int8 --fast-prefill

    ortgpt export ./checkpoint -o bundle --verify torch --force

    ortgpt export ./llama -o models/llama --via optimum
    """
    from ortgpt_export.exporter import export_checkpoint  # onnx and safetensors take their time

    started = time.perf_counter()
    with _progress_bars(quiet) as progress:
        manifest = export_checkpoint(
            source,
            output,
            precision=precision.value,
            row_invariant=row_invariant,
            fast_prefill=fast_prefill,
            via=via.value,
            verify=None if verify is None else verify.value,
            perplexity_text=perplexity_text,
            revision=revision,
            onnxruntime_floor=None if onnxruntime_floor is None else onnxruntime_floor.value,
            force=force,
            quiet=quiet,
            verbose=debug,
            progress=progress,
        )
    if not quiet:
        print(summary(output, manifest, time.perf_counter() - started), file=sys.stderr)


def summary(output: Path, manifest: Manifest, seconds: float) -> str:
    """One line: where the bundle is, how large, how close to the reference."""
    megabytes = sum(entry.size for entry in manifest.files.values()) / 1e6
    parity = "not verified"
    if manifest.quality is not None:
        lost, same = manifest.quality.kl_divergence, manifest.quality.top1_agreement
        parity = f"{lost:.5f} nats per token from fp32, {same:.1%} of its likeliest tokens"
    elif manifest.parity != "skipped":
        parity = (
            f"max logits difference {manifest.parity.max_abs_logits_difference:.1e} "
            f"against {manifest.parity.reference}"
        )
    kind = manifest.precision + (" with fast prefill" if manifest.fast_prefill else "")
    return f"{output}: {kind}, {megabytes:,.1f} MB, {parity}, {seconds:.1f} s"


@contextmanager
def _progress_bars(quiet: bool) -> Iterator[Progress]:
    """A bar per stage on stderr, each from its first report on."""
    if quiet:
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<10}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    tasks: dict[str, TaskID] = {}
    bars = Progress(*columns, console=Console(stderr=True), transient=not sys.stderr.isatty())

    def progress(stage: str, done: int, total: int) -> None:
        if not tasks:
            bars.start()  # not before: a download shows the hub's own bars
        if stage not in tasks:
            tasks[stage] = bars.add_task(STAGES[stage], total=total)
        bars.update(tasks[stage], completed=done)

    try:
        yield progress
    finally:
        if tasks:
            bars.stop()

"""`ortgpt adopt`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from ortgpt.cli.arguments import Debug, Quiet
from ortgpt.cli.interruptible import call_interruptibly
from ortgpt.manifest import Manifest


def adopt(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="What optimum-cli or another exporter wrote.")
    ],
    file: Annotated[
        str | None,
        typer.Option("--file", metavar="NAME", help="The graph, where there are several."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a manifest that is there.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make a bundle of a directory that another exporter wrote: check it, run it once, write manifest.json.

    optimum-cli export onnx --model Qwen/Qwen2.5-0.5B --task text-generation-with-past qwen

    ortgpt adopt qwen

    ortgpt adopt qwen --file model_quantized.onnx --force
    """

    def work() -> Manifest:
        from ortgpt.adoption.adopt import adopt

        return adopt(directory, file=file, force=force)

    started = time.perf_counter()
    manifest = call_interruptibly(work, "ortgpt-adopt")
    if not quiet:
        print(summary(directory, manifest, time.perf_counter() - started), file=sys.stderr)


def summary(directory: Path, manifest: Manifest, seconds: float) -> str:
    """One line: what it is, how large, who wrote it."""
    megabytes = sum(entry.size for entry in manifest.files.values()) / 1e6
    return (
        f"{directory}: {manifest.architecture.model_type}, {manifest.precision}, {megabytes:,.1f} MB, "
        f"{manifest.graph_name} by {manifest.provenance.exporter}, not verified, {seconds:.1f} s"
    )

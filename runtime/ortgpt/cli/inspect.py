"""`ortgpt inspect`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ortgpt.cli.arguments import AsJson, Debug, Quiet
from ortgpt.errors import BundleIntegrityError
from ortgpt.manifest import Manifest, PortableGraph

if TYPE_CHECKING:
    from ortgpt.bundle.bundle import Bundle


def inspect(
    bundle: Annotated[Path, typer.Argument(metavar="DIR", help="The bundle to look at.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Check digests, weights and the known answer, by running it.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse files that are hard links.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """What a bundle holds and where it comes from.

    ortgpt inspect models/storyteller-fp32

    ortgpt inspect models/storyteller-fp32 --verify --json
    """
    from ortgpt.bundle.bundle import open_bundle  # here: it loads numpy, which --help need not

    opened = open_bundle(bundle, verify=verify, strict=strict)
    if verify:
        _verify(opened)
    if as_json:
        document = json.loads(opened.manifest.to_json())
        print(json.dumps({"bundle": str(bundle), "verified": verify, "manifest": document}))
        return
    width = max(len(name) for name, _ in _rows(opened.manifest))
    for name, value in _rows(opened.manifest):
        print(f"{name:<{width}}  {value}")
    if not quiet:
        print(
            "verified" if verify else "sizes and graph checked; --verify checks digests too", file=sys.stderr
        )


def _verify(bundle: Bundle) -> None:
    from ortgpt.bundle.weights_check import find_bad_weights
    from ortgpt.loading import load

    bad = find_bad_weights(bundle)
    if bad:
        raise BundleIntegrityError("weights are damaged: " + "; ".join(bad[:8]))
    load(bundle.directory).close()


def _rows(manifest: Manifest) -> list[tuple[str, str]]:
    shape, parity = manifest.architecture, manifest.parity
    rows = [
        ("model", f"{shape.model_type}, {shape.layers} layers, {shape.heads} heads of {shape.head_size}"),
        ("width", str(shape.width)),
        ("context", str(shape.context)),
        ("vocabulary", f"{shape.vocab_size} ({shape.tokenizer_size} in the tokenizer)"),
        ("ends with", ", ".join(map(str, shape.eos_token_ids)) or "nothing"),
        ("dialect", manifest.dialect),
        *([] if manifest.portable is None else [("graph", _graph(manifest.portable))]),
        ("precision", manifest.precision + "".join(f", {trait}" for trait in _traits(manifest))),
        ("source", f"{manifest.provenance.source} ({manifest.provenance.source_sha256[:12]})"),
        ("exporter", manifest.provenance.exporter),
        ("onnxruntime", f">= {manifest.provenance.onnxruntime_floor}"),
    ]
    if parity == "skipped":
        rows.append(("parity", "skipped"))
    else:
        rows.append(
            (
                "parity",
                f"logits within {parity.max_abs_logits_difference:.1e} of {parity.reference}, "
                f"greedy agreement {parity.greedy_agreement:.0%}",
            )
        )
    rows += [
        (name, f"{entry.size:,} bytes, sha256 {entry.sha256[:12]}") for name, entry in manifest.files.items()
    ]
    return rows + [("note", note) for note in manifest.notes]


def _graph(graph: PortableGraph) -> str:
    """What a graph of the portable dialect takes and gives, where these differ."""
    return ", ".join(
        (
            "cache in pairs" if graph.cache == "pairs" else "cache stacked",
            "position ids" if graph.position_ids else "no position ids",
            "hidden states" if graph.hidden_states else "no hidden states",
        )
    )


def _traits(manifest: Manifest) -> list[str]:
    traits = {"row-invariant": manifest.row_invariant, "fast prefill": manifest.fast_prefill}
    return [name for name, is_so in traits.items() if is_so]

"""Which of a directory's graphs is the decoder."""

from __future__ import annotations

from collections.abc import Collection

from ortgpt.checks import shown
from ortgpt.errors import BundleError, OptionError

MERGED = "decoder_model_merged.onnx"
WITH_PAST = "decoder_with_past_model.onnx"
WITHOUT_PAST = "decoder_model.onnx"

EXPORT_LINE = "optimum-cli export onnx --model SOURCE --task text-generation-with-past DIR"


def choose_graph(names: Collection[str], wanted: str | None = None) -> str:
    """The graph's file among the directory's names. wanted: by the caller's word, if it is one.

    Raises OptionError for a `wanted` that is not there, BundleError when there is none, or more than one.
    """
    graphs = sorted(name for name in names if name.endswith(".onnx"))
    if not graphs:
        raise BundleError("it holds no .onnx file", hint=f"export one with: {EXPORT_LINE}")
    if wanted is not None and wanted not in graphs:
        raise OptionError("file", f"must be one of {', '.join(graphs)}, got {shown(wanted)}")
    if wanted is None and MERGED in graphs:  # it holds what the other two do
        graphs = [name for name in graphs if name not in (WITH_PAST, WITHOUT_PAST)]
    if wanted is None and len(graphs) > 1 and set(graphs) != {WITH_PAST, WITHOUT_PAST}:
        raise BundleError(f"it holds several graphs: {', '.join(graphs)}", hint="choose one with --file NAME")
    chosen = wanted or graphs[-1]
    if chosen in (WITH_PAST, WITHOUT_PAST):
        raise BundleError(
            f"{chosen} is one half of a decoder, and {MERGED} is not there",
            hint=f"export it as one graph: {EXPORT_LINE}",
        )
    return chosen

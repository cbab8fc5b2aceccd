"""`ortgpt score`."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ortgpt.bundled import BUNDLED_MODEL
from ortgpt.cli.arguments import (
    AsJson,
    Debug,
    ModelPath,
    NoFastPrefill,
    ProviderName,
    ProviderOption,
    Quiet,
    Threads,
)
from ortgpt.cli.loading import load_model
from ortgpt.cli.prompt_input import read_prompt_file, read_text_argument
from ortgpt.errors import OptionError

if TYPE_CHECKING:
    from ortgpt.results import Score


def score(
    context: typer.Context,
    model: ModelPath = BUNDLED_MODEL,
    text: Annotated[
        str | None, typer.Argument(help='The text to score; "-" or a pipe: from stdin.', show_default=False)
    ] = None,
    text_file: Annotated[
        Path | None, typer.Option(metavar="F", help="Score every line; a line each comes out.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(metavar="P", help="Score the text as its continuation.")
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="How far windows over long texts move.", show_default="half the context"
        ),
    ] = None,
    as_json: AsJson = False,
    provider: ProviderOption = ProviderName.AUTO,
    threads: Threads = None,
    no_fast_prefill: NoFastPrefill = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """How probable the model finds a text: log-probability in nats, and perplexity.

    ortgpt score "The king was glad." -m models/storyteller-fp32

    ortgpt score " was glad." --prompt "The king" -m DIR --json

    ortgpt score --text-file texts.txt -m DIR --json > scores.jsonl
    """
    if text is not None and text_file is not None:
        raise OptionError("text", "can come from one place only: an argument or --text-file")
    lines = None if text_file is None else read_prompt_file(text_file, "text_file", "text")
    single = read_text_argument(text, context, "text") if lines is None else ""
    with load_model(model, provider, threads, no_fast_prefill) as loaded:
        if lines is None:
            results = [loaded.score(single, prompt=prompt, stride=stride)]
        else:
            results = loaded.score_batch(lines, prompts=prompt, stride=stride)
    for result in results:
        if as_json:
            print(json.dumps(_document(model, result)))
        else:
            print(_line(result) if text_file else _table(result))


def _document(model: Path, result: Score) -> dict[str, Any]:
    document = {"model": str(model), **dataclasses.asdict(result)}
    if math.isnan(result.perplexity):  # nothing could be scored; JSON has no NaN
        document["perplexity"] = None
    return document


def _table(result: Score) -> str:
    return "\n".join(f"{name:<17}{value}" for name, value in _numbers(result).items())


def _line(result: Score) -> str:
    return "  ".join(f"{name} {value}" for name, value in _numbers(result).items())


def _numbers(result: Score) -> dict[str, str]:
    return {
        "tokens": str(len(result.token_ids)),
        "log-probability": f"{result.total:.4f}",
        "perplexity": f"{result.perplexity:.4f}",
    }

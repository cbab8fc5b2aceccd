"""`ortgpt score`."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Annotated

import typer

from ortgpt.cli.arguments import (
    AsJson,
    Debug,
    ModelPath,
    ProviderName,
    ProviderOption,
    Quiet,
    Threads,
)
from ortgpt.cli.loading import load_model
from ortgpt.cli.prompt_input import read_text_argument


def score(
    context: typer.Context,
    model: ModelPath,
    text: Annotated[
        str | None, typer.Argument(help='The text to score; "-" or a pipe: from stdin.', show_default=False)
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
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """How probable the model finds a text: log-probability in nats, and perplexity.

    ortgpt score "The king was glad." -m models/storyteller-fp32

    ortgpt score " was glad." --prompt "The king" -m DIR --json
    """
    text = read_text_argument(text, context, "text")
    with load_model(model, provider, threads) as loaded:
        result = loaded.score(text, prompt=prompt, stride=stride)
    if as_json:
        document = {"model": str(model), **dataclasses.asdict(result)}
        if math.isnan(result.perplexity):  # nothing could be scored; JSON has no NaN
            document["perplexity"] = None
        print(json.dumps(document))
    else:
        print(f"tokens           {len(result.token_ids)}")
        print(f"log-probability  {result.total:.4f}")
        print(f"perplexity       {result.perplexity:.4f}")

"""The engine on a FakeDecoder: everything between prompts and results, without a model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ortgpt.generation import Generation
from ortgpt.interfaces import Tokenizer
from ortgpt.manifest import Architecture
from ortgpt.options import Options
from ortgpt.prompts import Prompt
from ortgpt.request import Request
from ortgpt.results import Event, Result
from ortgpt.strategies import Strategy
from ortgpt.testing import ByteTokenizer, FakeDecoder

VOCAB = 257
CONTEXT = 60
SHAPE = Architecture(
    model_type="gpt2",
    layers=1,
    heads=1,
    head_size=8,
    cache_head_size=8,
    width=8,
    context=CONTEXT,
    vocab_size=VOCAB,
    tokenizer_size=VOCAB,
    bos_token_id=256,
    eos_token_ids=(256,),
)


def run_fake(
    prompts: Sequence[tuple[int, ...]],
    strategy: Strategy,
    *,
    decoder: FakeDecoder | None = None,
    tokenizer: Tokenizer | None = None,
    seed: int = 0,
    **options: Any,
) -> tuple[list[Result], list[tuple[int, Event]]]:
    """Results and events of prompts that run together; prompt i has the seed seed + i.

    Raises the first prompt's error, if any fails.
    """
    request = Request(
        [Prompt(None, prompt) for prompt in prompts],
        [seed + index for index in range(len(prompts))],
        strategy,
        Options(**options),
        time.perf_counter(),
    )

    def make_decoder(rows: int) -> FakeDecoder:
        return decoder or FakeDecoder(VOCAB, CONTEXT, rows)

    generation = Generation(request, make_decoder, tokenizer or ByteTokenizer(), SHAPE, 0.0)
    events = list(generation.events())
    for error in generation.errors.values():
        raise error
    return generation.results(), events

"""A known answer for the manifest: a sentence, its ids, and the id that the model finds likeliest next."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ortgpt.errors import BundleError
from ortgpt.interfaces import Floats, Ids, Tokenizer
from ortgpt.manifest import Probe

TEXT = "Once upon a time there was a king who had three daughters."
CLEAR_MARGIN = 1e-2  # logits; far above what two correct implementations differ by
MAX_TRIES = 4


def make_probe(logits_of: Callable[[Ids], Floats], context: int, tokenizer: Tokenizer) -> Probe:
    """The sentence, or the longest part of it that fits the context and has a clear answer.

    logits_of  gives what the model expects behind each of some tokens, (tokens, vocab)
    """
    best: tuple[float, Probe] | None = None
    tries = 0
    for end in range(len(TEXT), 0, -1):
        token_ids = tuple(tokenizer.encode_prompt(TEXT[:end]))
        if not 1 <= len(token_ids) <= context:
            continue
        logits = logits_of(np.array(token_ids))[-1, : tokenizer.size]
        argmax = int(logits.argmax())
        margin = float(logits[argmax] - np.delete(logits, argmax).max(initial=-np.inf))
        if best is None or margin > best[0]:
            best = margin, Probe(text=TEXT[:end], token_ids=token_ids, argmax=argmax)
        tries += 1
        if margin >= CLEAR_MARGIN or tries == MAX_TRIES:
            break
    if best is None:
        raise BundleError(f"the tokenizer finds no token in {TEXT!r}")
    return best[1]

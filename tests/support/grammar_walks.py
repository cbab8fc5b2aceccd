"""Random texts by the masks of a constraint, as a model with random logits would write them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ortgpt.constraints.grammar import GrammarConstraint
from ortgpt.interfaces import Floats, Tokenizer

ScoreText = Callable[[bytes], float]


def random_text(
    constraint: GrammarConstraint,
    tokenizer: Tokenizer,
    stop_id: int,
    *,
    seed: int,
    max_tokens: int = 400,
    hurry: int = 20,
) -> str | None:
    """The text of a walk that ended by itself; None where it was cut.

    From `hurry` tokens on the stop id is taken where it may come, and quotation marks, closing brackets and
    punctuation before all else, so that walks end.
    """
    rng = np.random.default_rng(seed)
    closing = _closing(tokenizer)
    generated: list[int] = []
    for step in range(max_tokens):
        ids = np.array(generated, np.int64)
        if constraint.is_complete(ids):
            return tokenizer.decode(generated)
        scores = rng.standard_normal(tokenizer.size).astype(np.float32)
        if step >= hurry:
            scores += closing
            scores[stop_id] += 100
        chosen = int(np.argmax(constraint.apply(ids, scores)))
        if chosen == stop_id:
            assert constraint.may_end(ids)
            return tokenizer.decode(generated)
        assert constraint.fits(ids, [chosen])
        generated.append(chosen)
    return None


def _closing(tokenizer: Tokenizer) -> Floats:
    """(size,): what makes ends likely."""
    bonus = {b'"': 30.0, b"}": 20.0, b"]": 20.0, b")": 20.0, b".": 20.0, b"/": 25.0, b" ": 10.0}
    return np.array([bonus.get(tokenizer.token_bytes(i), 0.0) for i in range(tokenizer.size)], np.float32)

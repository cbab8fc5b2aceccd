"""Greedy and sampled decoding: rows that never look at each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from ortgpt.errors import ConstraintError, NonFiniteLogitsError, OrtgptError
from ortgpt.interfaces import Decoder, Floats, Ids, Outputs, Processor, Step, Steps
from ortgpt.numerics import log_normaliser
from ortgpt.search.arrivals import extend_and_join
from ortgpt.search.history import History

Pick = Callable[[Ids, Floats], int]
"""(token_ids, processed scores (vocab,)) -> the chosen id. `copy.deepcopy` gives one in the same state."""


@dataclass(frozen=True)
class SampledRow:
    """One sequence: its tokens, the processors of its scores, and how its next token is chosen."""

    history: History
    process: Processor
    pick: Pick


def pick_best(token_ids: Ids, scores: Floats) -> int:
    """The highest score; of equal ones the lowest id."""
    return int(scores.argmax())


def sample_steps(decoder: Decoder, outputs: Outputs, rows: Sequence[SampledRow]) -> Steps[SampledRow]:
    """Choose a token for each row, then run the model on those that go on.

    decoder  holds the prompts; one row per entry of `rows`
    outputs  logits (rows, outputs, vocab) of the prompts' last tokens, at [:, -1]

    The model does not run again until the generator is resumed, so no pass is wasted on a last token.
    A row whose logits are not finite, or that has no token left, fails alone: see Step.errors.
    """
    while True:
        step = choose_tokens(rows, outputs)
        going = yield step
        if not len(going):
            return
        if len(going.rows) < decoder.num_rows:
            decoder.reorder(going.rows)
        rows = [*(rows[row] for row in going.rows), *going.new_rows]
        outputs = extend_and_join(decoder, step.token_ids[going.rows][:, None], going.arrivals)


def choose_tokens(rows: Sequence[SampledRow], outputs: Outputs, *, waiting: Collection[int] = ()) -> Step:
    """One token for each row but those that wait, from its last output."""
    token_ids, logprobs = [-1] * len(rows), [math.nan] * len(rows)
    errors: dict[int, OrtgptError] = {}
    for index, row in enumerate(rows):
        if index in waiting:
            continue
        raw, scores = outputs.last(index)
        normaliser = log_normaliser(raw)
        if not math.isfinite(normaliser) or (scores is not raw and not np.isfinite(scores.max())):
            errors[index] = NonFiniteLogitsError(row.history.num_new)
            continue
        history = row.history.ids
        try:
            token_id = row.pick(history, row.process(history, scores))
        except ConstraintError as error:
            errors[index] = error
            continue
        row.history.append(token_id)
        token_ids[index] = token_id
        logprobs[index] = float(raw[token_id]) - normaliser
    sources = np.array(range(len(rows)))
    return Step(np.array(token_ids), sources, np.array(logprobs), outputs.logits[:, -1], errors)

"""Contrastive search (Su 2022): probable tokens whose hidden state is unlike all before it.

Knows no text. One forward pass per token serves all candidates of all rows, and the chosen one's
is reused: it is the pass that the next step starts from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ortgpt.errors import ConstraintError, NonFiniteLogitsError, OrtgptError
from ortgpt.interfaces import Decoder, Floats, Ids, Outputs, Processor, Step, Steps
from ortgpt.numerics import best_ids, log_normaliser
from ortgpt.search.history import History
from ortgpt.strategies import ContrastiveSearch

# NumPy's OpenBLAS gives larger products to threads of its own. They go on spinning, and onnxruntime's next
# run, which wants the same processors, takes twice the time.
SINGLE_THREAD_PRODUCT = 2**18  # multiplications
LEAST_BLOCK = 16


@dataclass
class ContrastiveRow:
    """One sequence: its tokens, the processors of its scores, its normalised hidden states."""

    history: History
    process: Processor
    states: StateHistory


class StateHistory:
    """Unit-length hidden states of all tokens so far, in an array that grows in place."""

    def __init__(self, hidden: Floats) -> None:
        """hidden (length, n_embd): those of the prompt"""
        self._length = len(hidden)
        self._buffer = np.empty((2 * len(hidden) + 32, hidden.shape[1]), np.float32)
        self._buffer[: self._length] = to_unit_length(hidden)

    def append(self, unit_state: Floats) -> None:
        if self._length == len(self._buffer):
            self._buffer = np.concatenate([self._buffer, np.empty_like(self._buffer)])
        self._buffer[self._length] = unit_state
        self._length += 1

    def greatest_similarity(self, unit_states: Floats) -> Floats:
        """(candidates, n_embd) -> (candidates,): the greatest cosine with any earlier state."""
        greatest = np.full(len(unit_states), -np.inf, np.float32)
        size = max(LEAST_BLOCK, SINGLE_THREAD_PRODUCT // unit_states.size)
        for begin in range(0, self._length, size):
            block = self._buffer[begin : min(begin + size, self._length)]
            np.maximum(greatest, (unit_states @ block.T).max(axis=1), out=greatest)
        return greatest


def to_unit_length(states: Floats) -> Floats:
    """Rows of (n, n_embd) divided by their length; a zero row stays zero."""
    lengths = np.linalg.norm(states, axis=-1, keepdims=True)
    return np.asarray(states / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)


def contrastive_scores(probabilities: Floats, similarities: Floats, penalty_alpha: float) -> Floats:
    """(1 - alpha) * model confidence - alpha * degeneration penalty, for each candidate."""
    return (1 - penalty_alpha) * probabilities - penalty_alpha * similarities


def contrastive_steps(
    decoder: Decoder, outputs: Outputs, rows: Sequence[ContrastiveRow], strategy: ContrastiveSearch
) -> Steps[ContrastiveRow]:
    """Choose each row's token among its top_k candidates, by running the model on all of them.

    decoder  holds the prompts; one row per entry of `rows`, each with room for one token
    outputs  logits (rows, outputs, vocab) of the prompts' last tokens, at [:, -1]; not the decoder's buffers

    A row whose logits are not finite, or that has no token left, fails alone: see Step.errors.
    """
    current = outputs
    while True:
        found = [_candidates(row, *current.last(i), strategy.top_k) for i, row in enumerate(rows)]
        outputs = _run_candidates(decoder, [candidates.ids for candidates in found])
        assert outputs.hidden is not None
        picks = np.zeros(len(rows), np.int64)
        for index, (row, candidates) in enumerate(zip(rows, found, strict=True)):
            states = to_unit_length(outputs.hidden[index, : len(candidates.ids)])
            similarities = row.states.greatest_similarity(states)
            scores = contrastive_scores(candidates.probabilities, similarities, strategy.penalty_alpha)
            pick = picks[index] = int(np.where(candidates.is_allowed, scores, -np.inf).argmax())
            row.history.append(int(candidates.ids[pick]))
            row.states.append(states[pick])
        following = outputs.at(np.arange(len(rows)), picks)
        going = yield _step(found, picks, current.logits[:, -1])
        if not len(going):
            return
        _keep(decoder, picks)
        if len(going.rows) < len(rows):
            decoder.reorder(going.rows)
        rows = [*(rows[index] for index in going.rows), *going.new_rows]
        current = following.at(going.rows)
        if going.arrivals is not None:
            current = current.followed_by(going.arrivals.outputs)
            decoder.join(going.arrivals.decoder)


@dataclass(frozen=True)
class _Candidates:
    """A row's most probable tokens, best first. A row that failed has one that does not count."""

    ids: Ids  # (candidates,)
    probabilities: Floats  # (candidates,)
    logprobs: Floats  # (candidates,), raw
    is_allowed: NDArray[np.bool_]  # (candidates,): what is excluded only fills up
    error: OrtgptError | None = None


def _candidates(row: ContrastiveRow, raw: Floats, scores: Floats, top_k: int) -> _Candidates:
    """scores: what the processors see in place of the raw logits; both (vocab,)."""
    nothing = np.zeros(top_k, np.float32)
    normaliser = log_normaliser(raw)
    given = scores
    try:
        if not math.isfinite(normaliser) or (scores is not raw and not np.isfinite(scores.max())):
            raise NonFiniteLogitsError(row.history.num_new)
        scores = row.process(row.history.ids, scores)
    except (ConstraintError, NonFiniteLogitsError) as error:
        return _Candidates(np.zeros(top_k, np.int64), nothing, nothing, nothing == 0, error)
    best = best_ids(scores, min(top_k, scores.size))
    is_raw = scores is given and given is raw
    probabilities = np.exp(scores[best] - (normaliser if is_raw else log_normaliser(scores)))
    return _Candidates(best, probabilities, raw[best] - np.float32(normaliser), scores[best] > -np.inf)


def _run_candidates(decoder: Decoder, candidates: list[Ids]) -> Outputs:
    """One pass over every row's candidates: in one shared row each, or in a copied row per candidate.

    Returns logits (rows, candidates, vocab), the same of the guided scores, and hidden (rows, candidates,
    n_embd).
    """
    if decoder.capabilities.shared_rows:
        return decoder.extend(candidates, outputs="all", hidden=True, siblings=True)
    count = len(candidates[0])
    decoder.repeat(count)
    outputs = decoder.extend(np.concatenate(candidates)[:, None], hidden=True)
    assert outputs.hidden is not None
    split = (len(candidates), count, -1)
    guided = None if outputs.guided is None else outputs.guided.reshape(split)
    return Outputs(outputs.logits.reshape(split), outputs.hidden.reshape(split), guided)


def _keep(decoder: Decoder, picks: Ids) -> None:
    """Continue every row with its chosen candidate."""
    if decoder.capabilities.shared_rows:
        decoder.keep([[int(pick)] for pick in picks])
    else:
        decoder.reorder(np.arange(len(picks)) * (decoder.num_rows // len(picks)) + picks)


def _step(found: list[_Candidates], picks: Ids, raw: Floats) -> Step:
    token_ids = np.array([one.ids[pick] for one, pick in zip(found, picks, strict=True)], np.int64)
    logprobs = np.array([one.logprobs[pick] for one, pick in zip(found, picks, strict=True)], np.float64)
    errors = {index: one.error for index, one in enumerate(found) if one.error is not None}
    failed = list(errors)
    token_ids[failed], logprobs[failed] = -1, np.nan
    return Step(token_ids, np.arange(len(found)), logprobs, raw, errors)

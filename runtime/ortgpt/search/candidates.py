"""How beams go on: the best of all their continuations by one token. Knows no text and no rule of ending."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ortgpt.errors import ConstraintError
from ortgpt.interfaces import Floats, Ids, Processor
from ortgpt.numerics import bound_of_best, log_normaliser
from ortgpt.search.history import History

CLOSE = 1e-12  # float64's rounding of a sum, with room to spare


class Running(Protocol):
    """A beam, as far as its continuations go."""

    @property
    def score(self) -> float: ...

    @property
    def history(self) -> History: ...


@dataclass(frozen=True)
class Candidate:
    """A beam's continuation by one token."""

    beam: int
    token_id: int
    score: float


class BeamScores:
    """What a search's beams look like before the processors; its array is written over at every step."""

    def __init__(self) -> None:
        self._scores: Floats = np.empty((0, 0), np.float32)

    def read(self, logits: Floats, guided: Floats | None) -> tuple[NDArray[np.float64], Floats]:
        """Each beam's log-normaliser (running,), and what its processors see (running, vocab).

        That is its raw log-probabilities, or the guided scores, which are not normalised anew: in
        transformers guidance is a processor among others. Not finite where a beam's logits are not usable.
        """
        # The errors of many steps add up in a beam's score.
        normalisers = np.array([log_normaliser(row, np.float64) for row in logits])
        if guided is not None:
            usable = np.isfinite(guided.max(axis=-1))
            return np.where(usable, normalisers, np.nan), guided
        if self._scores.shape != logits.shape:
            self._scores = np.empty_like(logits)
        if np.isfinite(normalisers).all():
            # In float64: rounding a normaliser first would move its beam against the others.
            with np.errstate(over="ignore"):
                np.subtract(logits, normalisers[:, None], out=self._scores, casting="same_kind")
        return normalisers, self._scores


def rank_candidates(
    running: Sequence[Running],
    scores: Floats,
    process: Processor,
    count: int,
    rng: np.random.Generator | None = None,
    advances: Sequence[Ids] = (),
) -> list[Candidate]:
    """The best continuations of all beams by one token, or with `rng` drawn ones, in their order.

    scores (running, vocab): what the processors see. At most `count` are returned, and none that a
    processor has excluded. advances: for each beam ids that are returned as well, behind; not with rng.

    Raises ConstraintError when no beam has a token left.
    """
    found: list[_Continuations] = []
    error = None
    for index, (beam, row) in enumerate(zip(running, scores, strict=True)):
        noise = None if rng is None else rng.gumbel(size=row.size)
        try:
            processed = process(beam.history.ids, row)
        except ConstraintError as failed:
            error = failed
            continue
        best = _best_tokens(beam.score, processed, count, noise)
        if advances:
            best = np.union1d(best, advances[index])
        best = best[processed[best] > -np.inf]
        total = beam.score + processed[best].astype(np.float64)
        key = total if noise is None else total + noise[best]
        found.append(_Continuations(np.full(best.size, index), best, total, key))
    if error is not None and not any(one.total.size for one in found):
        raise error
    beams, ids, totals, keys = map(np.concatenate, zip(*found, strict=True))  # (candidates,) each
    order = np.lexsort((ids, beams, -keys))  # of equal ones the first
    behind = [place for place in order[count:] if ids[place] in advances[beams[place]]] if advances else []
    chosen = [*order[:count], *behind]
    return [Candidate(int(beams[i]), int(ids[i]), float(totals[i])) for i in chosen]


class _Continuations(NamedTuple):
    """A beam's best tokens, each array (tokens,). key: what they are ranked by, the total with its noise."""

    beam: NDArray[np.int64]
    token_id: NDArray[np.intp]
    total: NDArray[np.float64]
    key: NDArray[np.float64]


def _best_tokens(
    score: float, processed: Floats, count: int, noise: NDArray[np.float64] | None
) -> NDArray[np.intp]:
    """Ids of the `count` tokens that continue a beam best, and few others.

    noise (vocab,): those that it draws; None: nothing is drawn.
    """
    count = min(count, processed.size)
    if noise is not None:
        keys = score + processed.astype(np.float64) + noise
        # The best of scores with Gumbel noise are a draw without replacement, in its order.
        return np.argpartition(keys, processed.size - count)[processed.size - count :]
    bound = float(bound_of_best(processed, count))
    if bound == -np.inf:
        return np.flatnonzero(processed > -np.inf)
    # Added to the beam's score, scores that close become equal.
    return np.flatnonzero(processed >= bound - CLOSE * (abs(bound) + abs(score)))

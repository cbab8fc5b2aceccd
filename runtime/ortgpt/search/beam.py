"""Beam search: the most probable texts followed side by side.

`Beams` is the search of one prompt and knows no decoder; `beam_steps` runs several prompts' searches
on one decoder. Text comes in only as `TextState`, which says when a hypothesis has ended. The rules
are those of transformers' generate (4.57).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ortgpt.errors import ConstraintError, NonFiniteLogitsError, OrtgptError
from ortgpt.interfaces import Decoder, Floats, Ids, Outputs, Processor, TextState
from ortgpt.numerics import bound_of_best, log_normaliser
from ortgpt.search.banks import Banks, choose_from_banks
from ortgpt.search.history import History
from ortgpt.strategies import BeamSearch

T = TypeVar("T", bound=TextState)

CLOSE = 1e-12  # float64's rounding of a sum, with room to spare


@dataclass(frozen=True)
class Beam(Generic[T]):
    """A running hypothesis: the sum of its processed log-probabilities, its tokens, its text."""

    score: float
    history: History
    text: T


@dataclass(frozen=True)
class Hypothesis(Generic[T]):
    """A text that has ended; score: with the length penalty applied."""

    score: float
    text: T


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
        normalisers = np.array([log_normaliser(row) for row in logits])
        if guided is not None:
            usable = np.isfinite(guided.max(axis=-1))
            return np.where(usable, normalisers, np.nan), guided
        if self._scores.shape != logits.shape:
            self._scores = np.empty_like(logits)
        # In float64 row by row: rounding the normaliser first would move a beam against the others.
        np.subtract(logits, normalisers[:, None], out=self._scores, casting="same_kind")
        return normalisers, self._scores


def rank_candidates(
    running: Sequence[Beam[T]],
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
    ids, totals, keys = [], [], []  # of every beam's best tokens; of equal ones the first counts
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
        ids.append(index * row.size + best)
        totals.append(total)
        keys.append(total if noise is None else total + noise[best])
    if error is not None and not any(map(len, ids)):
        raise error
    places, total, key = map(np.concatenate, (ids, totals, keys))  # (candidates,)
    order = np.lexsort((places, -key))
    if advances:
        wanted = np.concatenate([beam * scores.shape[1] + own for beam, own in enumerate(advances)])
        behind = order[count:]
        order = np.concatenate([order[:count], behind[np.isin(places[behind], wanted)]])
    else:
        order = order[:count]
    beams, token_ids = np.divmod(places[order], scores.shape[1])
    found = zip(beams.tolist(), token_ids.tolist(), total[order].tolist(), strict=True)
    return [Candidate(*one) for one in found]


def _best_tokens(
    score: float, processed: Floats, count: int, noise: NDArray[np.float64] | None
) -> NDArray[np.intp]:
    """Ids of the `count` tokens that continue a beam best, and few others; with noise (vocab,) those it draws."""
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


class Search(Protocol[T]):
    """What `beam_steps` and the engine need of a prompt's search."""

    error: OrtgptError | None

    @property
    def running(self) -> Sequence[Beam[T]]: ...

    @property
    def finished(self) -> Sequence[Hypothesis[T]]: ...

    @property
    def is_done(self) -> bool: ...

    def advance(
        self, logits: Floats, guided: Floats | None = None, *, is_late: bool
    ) -> tuple[list[int], list[int]]: ...

    def penalised(self, score: float) -> float: ...


class Beams(Generic[T]):
    """The beam search of one prompt.

    running   what is followed, best first; at most num_beams
    finished  what has ended, best first; at most num_beams
    is_done   nothing better can come
    error     why the search failed, if it did
    """

    def __init__(
        self,
        strategy: BeamSearch,
        beam: Beam[T],
        process: Processor,
        *,
        num_stop_ids: int,
        max_tokens: int,
        rng: np.random.Generator,
        banks: Banks | None = None,
    ) -> None:
        """banks: how far a beam is with what it must hold, so that none is lost for its cost."""
        self.running = [beam]
        self.finished: list[Hypothesis[T]] = []
        self.is_done = False
        self.error: OrtgptError | None = None
        self._strategy, self._process, self._rng = strategy, process, rng
        self._banks = banks
        self._scores = BeamScores()
        # So many that num_beams go on even if every beam's best tokens are all its stops.
        self._num_candidates = max(2, 1 + num_stop_ids) * strategy.num_beams
        self._max_tokens = max_tokens
        self._length = 0  # generated tokens of every running beam

    def advance(
        self, logits: Floats, guided: Floats | None = None, *, is_late: bool
    ) -> tuple[list[int], list[int]]:
        """Take one step from raw logits, and with guidance its scores, (running, vocab).

        Returns, for each beam that now runs, the beam it continues and its new token.
        """
        normalisers, scores = self._scores.read(logits, guided)
        if not np.isfinite(normalisers).all():
            return self._fail(NonFiniteLogitsError(self._length))
        try:
            candidates = self._candidates(scores)
        except ConstraintError as error:
            return self._fail(error)
        if not candidates:
            return self._fail(ConstraintError(f"every beam has run out of tokens at step {self._length}"))
        self._length += 1
        going: list[tuple[Candidate, Beam[T]]] = []
        ended: list[Hypothesis[T]] = []
        for rank, candidate in enumerate(candidates):
            parent = self.running[candidate.beam]
            text = parent.text.copy()
            logprob = float(logits[candidate.beam, candidate.token_id] - normalisers[candidate.beam])
            text.feed(candidate.token_id, logprob, logits[candidate.beam], is_late=is_late)
            if text.finish_reason is None:
                going.append((candidate, Beam(candidate.score, parent.history, text)))
            elif rank < self._strategy.num_beams:  # those behind only stand by to keep the beam full
                ended.append(Hypothesis(self.penalised(candidate.score), text))
        going = self._chosen(sorted(going, key=lambda pair: -pair[0].score))
        self.running = [
            Beam(beam.score, beam.history.extended(candidate.token_id), beam.text)
            for candidate, beam in going
        ]
        self._finish(ended)
        return [candidate.beam for candidate, _ in going], [candidate.token_id for candidate, _ in going]

    def _fail(self, error: OrtgptError) -> tuple[list[int], list[int]]:
        self.error, self.is_done = error, True
        return [], []

    def _candidates(self, scores: Floats) -> list[Candidate]:
        rng = self._rng if self._strategy.sample else None
        advances: list[Ids] = []
        if self._banks is not None:
            advances = [self._banks.advances(_generated(beam.text)) for beam in self.running]
        return rank_candidates(self.running, scores, self._process, self._num_candidates, rng, advances)

    def _chosen(self, going: list[tuple[Candidate, Beam[T]]]) -> list[tuple[Candidate, Beam[T]]]:
        """Those that go on, best first, of all that could, best first."""
        count = self._strategy.num_beams
        if self._banks is None:
            return going[:count]
        progress = [self._banks.progress(_generated(beam.text)) for _, beam in going]
        chosen = choose_from_banks(going, progress, count)
        return sorted(chosen, key=lambda pair: -pair[0].score)

    def penalised(self, score: float, length: int | None = None) -> float:
        """A summed log-probability divided by length ** length_penalty; length: as it is now."""
        length = max(1, self._length) if length is None else length
        return float(score / length**self._strategy.length_penalty)

    def _finish(self, ended: list[Hypothesis[T]]) -> None:
        """Take in what ended, keep the best, and see whether anything better can come."""
        self.finished = sorted(self.finished + ended, key=_order)
        del self.finished[self._strategy.num_beams :]
        is_full = len(self.finished) == self._strategy.num_beams and self.finished[-1].text.is_met
        if not self.running or (is_full and self._strategy.early_stopping is True):
            self.is_done = True
        elif is_full:
            grows = self._strategy.early_stopping == "never" and self._strategy.length_penalty > 0
            length = self._max_tokens if grows else self._length
            self.is_done = self.penalised(self.running[0].score, length) <= self.finished[-1].score


def _order(one: Hypothesis[T]) -> tuple[bool, float]:
    """Best first, but what breaks its constraints behind all that holds to them."""
    return not one.text.is_met, -one.score


def _generated(text: TextState) -> Ids:
    return np.array(text.token_ids, np.int64)


def beam_steps(
    decoder: Decoder, outputs: Outputs, searches: Sequence[Search[T]]
) -> Generator[None, bool, None]:
    """Run the searches until all are done; yields after every step, is sent whether time is up.

    decoder  holds the prompts, one row per search
    outputs  logits (searches, outputs, vocab) of the prompts' last tokens, at [:, -1]
    """
    active = list(searches)
    is_late = yield
    while True:
        source_rows: list[int] = []
        token_ids: list[int] = []
        first = 0
        for search in active:
            num_rows = len(search.running)
            rows = slice(first, first + num_rows)
            guided = None if outputs.guided is None else outputs.guided[rows, -1]
            sources, tokens = search.advance(outputs.logits[rows, -1], guided, is_late=is_late)
            if not search.is_done:
                source_rows += [first + source for source in sources]
                token_ids += tokens
            first += num_rows
        active = [search for search in active if not search.is_done]
        is_late = yield
        if not active:
            return
        decoder.reorder(source_rows)
        outputs = decoder.extend(np.asarray(token_ids, np.int64)[:, None])

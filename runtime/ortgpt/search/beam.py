"""Beam search: the most probable texts followed side by side.

`Beams` is the search of one prompt and knows no decoder; `beam_steps` runs several prompts' searches
on one decoder. Text comes in only as `TextState`, which says when a hypothesis has ended. The rules
are those of transformers' generate (4.57).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

from ortgpt.errors import ConstraintError, NonFiniteLogitsError, OrtgptError
from ortgpt.interfaces import Arrivals, Decoder, Floats, Ids, Outputs, Processor, TextState
from ortgpt.search.arrivals import extend_and_join, fill_gaps
from ortgpt.search.banks import Banks, choose_from_banks
from ortgpt.search.candidates import BeamScores, Candidate, rank_candidates
from ortgpt.search.history import History
from ortgpt.strategies import BeamSearch

T = TypeVar("T", bound=TextState)


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
    decoder: Decoder, outputs: Outputs, searches: Sequence[Search[T]], is_late: Callable[[], bool]
) -> Generator[None, Arrivals[Search[T]] | None, None]:
    """Run the searches until all are done; yields after every step, is sent searches that join them.

    decoder  holds the prompts, one row per search
    outputs  logits (searches, outputs, vocab) of the prompts' last tokens, at [:, -1]
    is_late  whether time is up
    """
    active = list(searches)
    while True:
        late = is_late()
        moves: list[tuple[list[int], list[int]]] = []  # of each search: rows continued, new tokens
        first = 0
        for search in active:
            rows = slice(first, first + len(search.running))
            guided = None if outputs.guided is None else outputs.guided[rows, -1]
            sources, token_ids = search.advance(outputs.logits[rows, -1], guided, is_late=late)
            moves.append(([first + source for source in sources], token_ids))
            first = rows.stop
        going = fill_gaps([place for place, search in enumerate(active) if not search.is_done])
        arrivals = yield
        if not going and arrivals is None:
            return
        decoder.reorder([row for place in going for row in moves[place][0]])
        tokens = np.array([token_id for place in going for token_id in moves[place][1]], np.int64)
        outputs = extend_and_join(decoder, tokens[:, None], arrivals)
        active = [*(active[place] for place in going), *(arrivals.rows if arrivals is not None else ())]

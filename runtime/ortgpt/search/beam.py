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
from numpy.typing import NDArray

from ortgpt.errors import ConstraintError, NonFiniteLogitsError, OrtgptError
from ortgpt.interfaces import Arrivals, Decoder, Floats, Ids, Outputs, Processor, TextState
from ortgpt.numerics import log_softmax
from ortgpt.search.arrivals import extend_and_join, fill_gaps
from ortgpt.search.banks import Banks, choose_from_banks
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


@dataclass(frozen=True)
class Candidate:
    """A beam's continuation by one token."""

    beam: int
    token_id: int
    score: float


def beam_scores(logits: Floats, guided: Floats | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Raw log-probabilities, and what the processors see in their place, each (running, vocab).

    Guided scores are not normalised anew: in transformers guidance is a processor among others.
    """
    raw = log_softmax(logits)
    return raw, raw if guided is None else guided.astype(np.float64)


def is_usable(raw: NDArray[np.float64], scores: NDArray[np.float64]) -> bool:
    """Whether every beam has a best token by its own logits, and by the guided scores."""
    checked = (raw,) if scores is raw else (raw, scores)
    return all(np.isfinite(one.max(axis=-1)).all() for one in checked)


def rank_candidates(
    running: Sequence[Beam[T]],
    scores: NDArray[np.float64],
    process: Processor,
    count: int,
    rng: np.random.Generator | None = None,
    advances: Sequence[Ids] = (),
) -> list[Candidate]:
    """The best continuations of all beams by one token, or with `rng` drawn ones, in their order.

    scores (running, vocab): what the processors see. At most `count` are returned, and none that a
    processor has excluded. advances: for each beam ids that are returned as well, behind.

    Raises ConstraintError when no beam has a token left.
    """
    totals = _totals(running, scores, process)  # (running, vocab)
    # The best of scores with Gumbel noise are a draw without replacement, in its order.
    keys = totals.ravel() if rng is None else totals.ravel() + rng.gumbel(size=totals.size)
    count = min(count, keys.size)
    head = np.argpartition(keys, keys.size - count)[keys.size - count :]
    head = head[np.lexsort((head, -keys[head]))]  # of equal scores the first
    vocab_size = totals.shape[1]
    also = [beam * vocab_size + ids for beam, ids in enumerate(advances)]
    if also:
        behind = np.setdiff1d(np.concatenate(also), head)
        head = np.concatenate([head, behind[np.argsort(-totals.flat[behind], kind="stable")]])
    return [
        Candidate(int(index // vocab_size), int(index % vocab_size), float(totals.flat[index]))
        for index in head
        if totals.flat[index] > -np.inf
    ]


def _totals(
    running: Sequence[Beam[T]], scores: NDArray[np.float64], process: Processor
) -> NDArray[np.float64]:
    """Each beam's score with every token's (running, vocab); -inf for a beam that has no token left."""
    totals = np.full(scores.shape, -np.inf)
    error = None
    for index, (beam, row) in enumerate(zip(running, scores, strict=True)):
        try:
            totals[index] = beam.score + process(beam.history.ids, row.astype(np.float32)).astype(np.float64)
        except ConstraintError as failed:
            error = failed
    if error is not None and totals.max() == -np.inf:
        raise error
    return totals


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
        raw, scores = beam_scores(logits, guided)
        if not is_usable(raw, scores):
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
            logprob = float(raw[candidate.beam, candidate.token_id])
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

    def _candidates(self, scores: NDArray[np.float64]) -> list[Candidate]:
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

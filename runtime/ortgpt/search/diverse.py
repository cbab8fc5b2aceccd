"""Diverse beam search (Vijayakumar 2016): groups of beams that avoid each other's tokens.

The rules are those of transformers 4.49, the last release that has it. One is odd but part of its
results: a group that is done is padded with the first stop id and so counts as choosing it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from ortgpt.errors import ConstraintError, NonFiniteLogitsError, OrtgptError
from ortgpt.interfaces import Floats, Processor
from ortgpt.search.beam import Beam, Hypothesis, T
from ortgpt.search.candidates import BeamScores, Candidate, rank_candidates
from ortgpt.strategies import BeamSearch


class DiverseBeams(Generic[T]):
    """The search of one prompt by num_beam_groups groups, one after the other at every step.

    From a token's score the groups that come later subtract diversity_penalty for every beam of an
    earlier group that has just chosen it. Attributes as in `Beams`.
    """

    def __init__(
        self,
        strategy: BeamSearch,
        beam: Beam[T],
        process: Processor,
        *,
        stop_token_ids: Sequence[int],
        max_tokens: int,
    ) -> None:
        self.error: OrtgptError | None = None
        self._strategy, self._stop_token_ids = strategy, stop_token_ids
        self._groups = [
            _Group(strategy, beam, process, len(stop_token_ids), max_tokens)
            for _ in range(strategy.num_beam_groups)
        ]
        self._scores = BeamScores()
        self._is_first = True  # all groups still start from the prompt's one row

    @property
    def running(self) -> list[Beam[T]]:
        groups = self._groups[:1] if self._is_first else self._groups
        return [beam for group in groups for beam in group.running]

    @property
    def finished(self) -> list[Hypothesis[T]]:
        """Of all groups, best first; of equal ones the last group's, as in transformers."""
        found = [hypothesis for group in self._groups for hypothesis in group.finished]
        return sorted(found, key=lambda one: (one.text.is_met, one.score))[::-1]

    @property
    def is_done(self) -> bool:
        return self.error is not None or all(group.is_done for group in self._groups)

    def penalised(self, score: float) -> float:
        """A summed log-probability of a running beam with the length penalty applied."""
        return self._groups[0].penalised(score)

    def advance(
        self, logits: Floats, guided: Floats | None = None, *, is_late: bool
    ) -> tuple[list[int], list[int]]:
        """As `Beams.advance`: logits (running, vocab) to (beam continued, new token) of all that now run."""
        normalisers, scores = self._scores.read(logits, guided)
        if not np.isfinite(normalisers).all():
            self.error = NonFiniteLogitsError(self._groups[0].length)
            return [], []
        chosen: Counter[int] = Counter()  # by earlier groups, at this step
        source_rows: list[int] = []
        token_ids: list[int] = []
        first = 0
        for group in self._groups:
            if group.is_done:
                chosen.update(list(self._stop_token_ids[:1]) * group.size)
                continue
            rows = slice(first, first + len(group.running))
            first = 0 if self._is_first else rows.stop
            penalised = self._penalised(scores[rows], chosen)
            try:
                going = group.advance(logits[rows], normalisers[rows], penalised, is_late=is_late)
            except ConstraintError as error:
                self.error = error
                return [], []
            chosen.update(candidate.token_id for candidate in going)
            if not group.is_done:
                source_rows += [rows.start + candidate.beam for candidate in going]
                token_ids += [candidate.token_id for candidate in going]
        self._is_first = False
        return source_rows, token_ids

    def _penalised(self, scores: Floats, chosen: Counter[int]) -> Floats:
        """The scores (running, vocab) less the penalty for what earlier groups have chosen; a copy."""
        ids = np.fromiter(chosen.keys(), np.int64, len(chosen))
        counts = np.fromiter(chosen.values(), np.float64, len(chosen))
        result = scores.copy()
        result[:, ids] = scores[:, ids] - self._strategy.diversity_penalty * counts
        return result


class _Group(Generic[T]):
    """One group: a beam search of its own, with the scorer that transformers had before 4.50."""

    def __init__(
        self, strategy: BeamSearch, beam: Beam[T], process: Processor, num_stop_ids: int, max_tokens: int
    ) -> None:
        self.running = [beam]
        self.finished: list[Hypothesis[T]] = []
        self.is_done = False
        self.length = 0  # generated tokens of every running beam
        self._strategy, self._process, self._max_tokens = strategy, process, max_tokens
        self.size = strategy.num_beams // strategy.num_beam_groups
        self._num_candidates = max(2, 1 + num_stop_ids) * self.size

    def advance(
        self, logits: Floats, normalisers: NDArray[np.float64], scores: Floats, *, is_late: bool
    ) -> list[Candidate]:
        """One step; returns the candidates that the beams now running were."""
        candidates = rank_candidates(self.running, scores, self._process, self._num_candidates)
        if not candidates:
            raise ConstraintError(f"every beam has run out of tokens at step {self.length}")
        self.length += 1
        going: list[tuple[Candidate, Beam[T]]] = []
        for rank, candidate in enumerate(candidates):
            parent = self.running[candidate.beam]
            text = parent.text.copy()
            logprob = float(logits[candidate.beam, candidate.token_id] - normalisers[candidate.beam])
            text.feed(candidate.token_id, logprob, logits[candidate.beam], is_late=is_late)
            if text.finish_reason != "stop":  # at the limit all go on to the end together
                beam = Beam(candidate.score, parent.history.extended(candidate.token_id), text)
                going.append((candidate, beam))
            elif rank < self.size:
                self._add(Hypothesis(self.penalised(candidate.score), text))
            if len(going) == self.size:
                break
        self.running = [beam for _, beam in going]
        self._see_whether_done(candidates[0].score)
        return [candidate for candidate, _ in going]

    def penalised(self, score: float) -> float:
        return float(score / max(1, self.length) ** self._strategy.length_penalty)

    def _add(self, hypothesis: Hypothesis[T]) -> None:
        found = sorted([*self.finished, hypothesis], key=lambda one: (not one.text.is_met, -one.score))
        self.finished = found[: self.size]

    def _see_whether_done(self, best_score: float) -> None:
        """best_score: the best candidate's summed log-probability, whether it ended or not."""
        if len(self.finished) == self.size:
            grows = self._strategy.early_stopping == "never" and self._strategy.length_penalty > 0
            length = self._max_tokens if grows else self.length
            attainable = best_score / length**self._strategy.length_penalty
            self.is_done = self._strategy.early_stopping is True or self.finished[-1].score >= attainable
        if self.is_done:
            self.running = []
        elif all(beam.text.finish_reason is not None for beam in self.running):
            for beam in self.running:
                self._add(Hypothesis(self.penalised(beam.score), beam.text))
            self.is_done, self.running = True, []

"""Runs beam searches and shows of each only the text that none of its beams can take back."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np

from ortgpt.choices import ChoiceState
from ortgpt.errors import OrtgptError
from ortgpt.interfaces import Arrivals
from ortgpt.logits.pipeline import Pipeline, make_warpers
from ortgpt.request_checks import rows_per_prompt
from ortgpt.results import Event, FinishReason, ResultChoice
from ortgpt.run import Run, make_rng
from ortgpt.search.beam import Beam, Beams, Search, beam_steps
from ortgpt.search.diverse import DiverseBeams
from ortgpt.search.history import History
from ortgpt.strategies import BeamSearch


@dataclass
class Searched:
    """The search of a prompt, and how many characters and tokens of its best text have been shown."""

    search: Search[ChoiceState]
    num_characters: int = 0
    num_tokens: int = 0


class BeamRun(Run[Searched]):
    """One search per prompt; its choices are the best hypotheses."""

    @property
    def _strategy(self) -> BeamSearch:
        assert isinstance(self.request.strategy, BeamSearch)
        return self.request.strategy

    def make_task(self, index: int) -> Searched:
        return Searched(self._make_search(index))

    def events(self) -> Generator[tuple[int, Event], None, None]:
        schedule = self.schedule(range(len(self.prompts)))
        rows_each = rows_per_prompt(self._strategy, self.request.options)
        steps: Generator[None, Arrivals[Search[ChoiceState]] | None, None] | None = None
        running: list[tuple[int, Search[ChoiceState]]] = []  # the prompts whose searches are not done
        try:
            while True:
                part = schedule.admit(rows_each * len(running))
                arrivals = self._arrivals(part) if part else None
                running += [(index, self.task(index).search) for index in part]
                if not running:
                    return
                before = time.perf_counter()
                if steps is None:
                    assert arrivals is not None
                    begun = (arrivals.decoder, arrivals.outputs, arrivals.rows)
                    steps = beam_steps(*begun, lambda: self.is_late)
                    next(steps)
                else:
                    steps.send(arrivals)
                self.count(time.perf_counter() - before, [index for index, _ in running])
                for index, search in running:
                    events = self._show(index)
                    if search.is_done:
                        self.ended.append(index)
                    yield from ((index, event) for event in events)
                running = [(index, search) for index, search in running if not search.is_done]
        finally:
            if steps is not None:
                steps.close()

    def _arrivals(self, part: Sequence[int]) -> Arrivals[Search[ChoiceState]]:
        decoder, outputs = self.prefill(part)
        first = outputs.at(np.arange(len(part)))
        return Arrivals(decoder, first, [self.task(index).search for index in part])

    def choices(self, index: int) -> list[ResultChoice]:
        """The best hypotheses; the best running beams of a search that was cancelled."""
        search = self.task(index).search
        found = [(one.text, one.score) for one in search.finished]
        if not search.is_done:
            found = [(beam.text, search.penalised(beam.score)) for beam in search.running] + found
        best = found[: self._strategy.num_return_sequences]
        return [text.choice(index=rank, score=score) for rank, (text, score) in enumerate(best)]

    def error(self, index: int) -> OrtgptError | None:
        search = self.task(index).search
        if search.error is not None or not (search.is_done and search.finished):
            return search.error
        return search.finished[0].text.error

    @property
    def has_lone_rows(self) -> bool:
        return False

    def _make_search(self, index: int) -> Search[ChoiceState]:
        prompt, seed = self.prompts[index], self.request.seeds[index]
        max_tokens = self.max_tokens(prompt)
        # Drawn beams keep their distribution, and a group is too small to be divided further.
        uses_banks = not self._strategy.sample and self._strategy.num_beam_groups == 1
        constraint = self.make_constraint(prompt, max_tokens, uses_banks=uses_banks)
        beam = Beam(0.0, History(prompt.token_ids), self.make_choice(prompt, 0, max_tokens, constraint))
        process, rng = self.make_process(prompt, max_tokens, constraint), make_rng(seed, 0)
        if self._strategy.num_beam_groups > 1:
            return DiverseBeams(
                self._strategy,
                beam,
                process,
                stop_token_ids=self.stop_token_ids,
                max_tokens=max_tokens,
            )
        if self._strategy.sample:
            process = Pipeline((process, make_warpers(self._strategy.warpers, rng)))
        return Beams(
            self._strategy,
            beam,
            process,
            num_stop_ids=len(self.stop_token_ids),
            max_tokens=max_tokens,
            rng=rng,
            banks=constraint if uses_banks and constraint is not None and constraint.has_banks else None,
        )

    def _show(self, index: int) -> list[Event]:
        """Events of what has become certain; with several choices to return nothing is, until the end."""
        search = self.task(index).search
        if search.error is not None:
            return []
        if search.is_done:
            return [
                self._beyond_shown(index, one.index, one.text, one.token_ids, one.finish_reason)
                for one in self.choices(index)
            ]
        if self._strategy.num_return_sequences == 1:
            # A finished hypothesis behind the best one can't be returned any more.
            alive = [beam.text for beam in search.running] + [one.text for one in search.finished[:1]]
            text = alive[0].text[: _common_length([state.text for state in alive])]
            token_ids = tuple(alive[0].token_ids[: _common_length([state.token_ids for state in alive])])
            event = self._beyond_shown(index, 0, text, token_ids, None)
            if event.text or event.token_ids:
                return [event]
        return []

    def _beyond_shown(
        self, index: int, rank: int, text: str, token_ids: tuple[int, ...], reason: FinishReason | None
    ) -> Event:
        """The event that adds what has not been shown; only the best choice is shown before its end."""
        if rank > 0:
            return Event(rank, text, token_ids, None, reason)
        task = self.task(index)
        event = Event(0, text[task.num_characters :], token_ids[task.num_tokens :], None, reason)
        task.num_characters = max(task.num_characters, len(text))
        task.num_tokens = max(task.num_tokens, len(token_ids))
        return event


def _common_length(sequences: Sequence[str] | Sequence[list[int]]) -> int:
    """How many of the first items all sequences share."""
    # Between the least and the greatest lie all others, so what these two share all of them do.
    least, greatest = min(sequences), max(sequences)
    pairs = zip(least, greatest, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), len(least))

"""Runs beam searches and shows of each only the text that none of its beams can take back."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence

from ortgpt.choices import ChoiceState
from ortgpt.errors import OrtgptError
from ortgpt.logits.pipeline import Pipeline, make_warpers
from ortgpt.results import Event, FinishReason, ResultChoice
from ortgpt.run import Run, make_rng
from ortgpt.search.beam import Beam, Beams, Search, beam_steps
from ortgpt.search.diverse import DiverseBeams
from ortgpt.search.history import History
from ortgpt.strategies import BeamSearch


class BeamRun(Run):
    """One search per prompt; its choices are the best hypotheses."""

    def _prepare(self) -> None:
        assert isinstance(self.request.strategy, BeamSearch)
        self._strategy = self.request.strategy
        self._searches = [self._make_search(index) for index in range(len(self.prompts))]
        self._shown = [(0, 0) for _ in self.prompts]  # characters and tokens

    def events(self) -> Generator[tuple[int, Event], None, None]:
        outputs = self.prefill()
        steps = beam_steps(self.decoder, outputs, self._searches)
        try:
            next(steps)
            open_searches = set(range(len(self._searches)))
            while open_searches:
                before = time.perf_counter()
                steps.send(self.is_late)
                now = time.perf_counter()
                self.clock.decode += now - before
                self.clock.first_token = self.clock.first_token or now - self.request.started
                for index in sorted(open_searches):
                    yield from ((index, event) for event in self._show(index))
                    if self._searches[index].is_done:
                        open_searches.discard(index)
        finally:
            steps.close()

    def choices(self, index: int) -> list[ResultChoice]:
        """The best hypotheses; the best running beams of a search that was cancelled."""
        search = self._searches[index]
        found = [(one.text, one.score) for one in search.finished]
        if not search.is_done:
            found = [(beam.text, search.penalised(beam.score)) for beam in search.running] + found
        best = found[: self._strategy.num_return_sequences]
        return [text.choice(index=rank, score=score) for rank, (text, score) in enumerate(best)]

    def error(self, index: int) -> OrtgptError | None:
        search = self._searches[index]
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

    def _show(self, index: int) -> Iterator[Event]:
        """Events of what has become certain; with several choices to return nothing is, until the end."""
        search = self._searches[index]
        if search.error is not None:
            return
        if search.is_done:
            yield from self._show_end(index)
        elif self._strategy.num_return_sequences == 1:
            # A finished hypothesis behind the best one can't be returned any more.
            alive = [beam.text for beam in search.running] + [one.text for one in search.finished[:1]]
            text = alive[0].text[: _common_length([state.text for state in alive])]
            token_ids = tuple(alive[0].token_ids[: _common_length([state.token_ids for state in alive])])
            event = self._beyond_shown(index, 0, text, token_ids, None)
            if event.text or event.token_ids:
                yield event

    def _show_end(self, index: int) -> Iterator[Event]:
        for choice in self.choices(index):
            yield self._beyond_shown(index, choice.index, choice.text, choice.token_ids, choice.finish_reason)

    def _beyond_shown(
        self, index: int, rank: int, text: str, token_ids: tuple[int, ...], reason: FinishReason | None
    ) -> Event:
        """The event that adds what has not been shown; only the best choice is shown before its end."""
        text_before, ids_before = self._shown[index] if rank == 0 else (0, 0)
        if rank == 0:
            self._shown[index] = (max(text_before, len(text)), max(ids_before, len(token_ids)))
        return Event(rank, text[text_before:], token_ids[ids_before:], None, reason)


def _common_length(sequences: Sequence[str] | Sequence[list[int]]) -> int:
    """How many of the first items all sequences share."""
    # Between the least and the greatest lie all others, so what these two share all of them do.
    least, greatest = min(sequences), max(sequences)
    pairs = zip(least, greatest, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), len(least))

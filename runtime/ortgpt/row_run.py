"""Runs strategies whose sequences never look at each other: greedy, sampling, contrastive search."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ortgpt.choices import ChoiceState
from ortgpt.constraints.combined import AllOf
from ortgpt.errors import OrtgptError
from ortgpt.interfaces import Arrivals, Floats, Going, Ids, Step, Steps
from ortgpt.logits.drawing import draw
from ortgpt.logits.filter_chain import FilterChain
from ortgpt.logits.mirostat import Mirostat
from ortgpt.logits.pipeline import make_warpers
from ortgpt.options import NUM_DRAFT_TOKENS
from ortgpt.results import Event, ResultChoice
from ortgpt.run import Run, make_rng
from ortgpt.search.arrivals import fill_gaps
from ortgpt.search.contrastive import ContrastiveRow, StateHistory, contrastive_steps
from ortgpt.search.draft_budget import DraftBudget
from ortgpt.search.draft_decoder import DraftDecoder
from ortgpt.search.drafts import Drafter, PromptLookup
from ortgpt.search.history import History
from ortgpt.search.sample import Pick, pick_best, sample_steps
from ortgpt.search.speculative import DraftedRow, speculative_steps
from ortgpt.strategies import MIROSTAT_ETA, BeamSearch, ContrastiveSearch, Sampling, Strategy


@dataclass(frozen=True)
class Sequences:
    """What a prompt is continued by: n or best_of choices, each of at most `budget` tokens."""

    budget: int
    constraint: AllOf | None
    choices: list[ChoiceState]

    @property
    def is_done(self) -> bool:
        return all(choice.is_done for choice in self.choices)


class RowRun(Run[Sequences]):
    """One row and one choice per sequence, n or best_of of them per prompt."""

    def make_task(self, index: int) -> Sequences:
        prompt = self.prompts[index]
        budget = self.max_tokens(prompt)
        constraint = self.make_constraint(prompt, budget)
        choices = [
            self.make_choice(prompt, sequence, budget, constraint)
            for sequence in range(self.request.options.num_sequences)
        ]
        return Sequences(budget, constraint, choices)

    def choices(self, index: int) -> list[ResultChoice]:
        found = [choice.choice() for choice in self.task(index).choices]
        options = self.request.options
        if options.best_of is None:
            return found
        # Without a single token there is no score, in none of them.
        best = sorted(found, key=lambda one: -(one.score or 0.0))[: options.n]
        return [dataclasses.replace(one, index=rank) for rank, one in enumerate(best)]

    def error(self, index: int) -> OrtgptError | None:
        choices = self.task(index).choices
        return next((choice.error for choice in choices if choice.error is not None), None)

    @property
    def has_lone_rows(self) -> bool:
        return self.request.options.num_sequences == 1

    def events(self) -> Generator[tuple[int, Event], None, None]:
        waiting = [index for index, prompt in enumerate(self.prompts) if self.max_tokens(prompt) > 0]
        yield from self._end_without_tokens(waiting)
        schedule = self.schedule(waiting)
        rows_each = 2 if self.request.options.is_guided else 1
        steps: Steps[Any] | None = None
        running: list[tuple[int, ChoiceState]] = []  # of each row, the prompt and the sequence
        going: list[int] = []
        may_arrive = True
        try:
            while True:
                part = schedule.admit(rows_each * len(running)) if may_arrive else []
                arrivals = self._arrivals(part) if part else None
                running += [(index, choice) for index in part for choice in self.task(index).choices]
                if not running:
                    return
                before = time.perf_counter()
                if steps is None:
                    assert arrivals is not None
                    steps = self._steps(arrivals)
                    step = next(steps)
                else:
                    step = steps.send(Going(np.array(going, np.int64), arrivals))
                self.count(time.perf_counter() - before, {index for index, _ in running})
                yield from self._feed(step, running)
                going = fill_gaps([row for row, (_, choice) in enumerate(running) if not choice.is_done])
                running = [running[row] for row in going]
                may_arrive = step.ends_pass or not running
        finally:
            if steps is not None:
                steps.close()

    def _end_without_tokens(self, others: Sequence[int]) -> Generator[tuple[int, Event], None, None]:
        """Prompts that have no room for a token, or are to have none."""
        for index in sorted({*range(len(self.prompts))}.difference(others)):
            for choice in self.task(index).choices:
                event = choice.end("length")
                self._note_end(index)
                yield index, event

    def _feed(
        self, step: Step, running: list[tuple[int, ChoiceState]]
    ) -> Generator[tuple[int, Event], None, None]:
        """Give each sequence its token."""
        is_late = self.is_late
        for row, (index, choice) in enumerate(running):
            if row in step.errors:
                choice.error = step.errors[row]
                self._note_end(index)
            elif step.token_ids[row] >= 0:  # otherwise others have more guessed tokens
                token_id, logprob = int(step.token_ids[row]), float(step.logprobs[row])
                event = choice.feed(token_id, logprob, step.logits[row], is_late=is_late)
                if choice.is_done:
                    self._note_end(index)
                yield index, event

    def _note_end(self, index: int) -> None:
        if self.task(index).is_done:
            self.ended.append(index)

    def _arrivals(self, part: Sequence[int]) -> Arrivals[Any]:
        """Prefill each of these prompts once, then one decoder row per sequence."""
        strategy, n = self.request.strategy, self.request.options.num_sequences
        decoder, outputs = self.prefill(part, hidden=isinstance(strategy, ContrastiveSearch))
        sources = np.repeat(np.arange(len(part)), n)  # the prefill's row of each sequence
        first = outputs.at(sources)  # copies, before the next verb, which may reuse the buffer
        rows: list[Any]
        if isinstance(strategy, ContrastiveSearch):
            assert outputs.hidden is not None
            pairs = zip(part, outputs.hidden, strict=True)
            rows = [self._contrastive_row(index, hidden) for index, hidden in pairs for _ in range(n)]
        else:
            rows = [self._sampled_row(index, sequence) for index in part for sequence in range(n)]
        decoder.reorder(sources)
        return Arrivals(decoder, first, rows)

    def _steps(self, begun: Arrivals[Any]) -> Steps[Any]:
        """The strategy, from its first rows on."""
        strategy = self.request.strategy
        if isinstance(strategy, ContrastiveSearch):
            return contrastive_steps(begun.decoder, begun.outputs, begun.rows, strategy)
        if self.request.options.is_drafted:
            return self._speculative_steps(begun)
        return sample_steps(begun.decoder, begun.outputs, begun.rows)

    def _speculative_steps(self, begun: Arrivals[DraftedRow]) -> Steps[DraftedRow]:
        options, decoder = self.request.options, begun.decoder
        drafter: Drafter = PromptLookup(len(begun.rows))
        if options.draft is not None:
            drafter = DraftDecoder(options.draft, decoder.vocab_size)
        budget = DraftBudget(
            len(begun.rows),
            NUM_DRAFT_TOKENS if options.num_draft_tokens is None else options.num_draft_tokens,
            drafter_cost=self.request.draft_cost,
            position_cost=self.request.position_cost,
            ragged_widths=decoder.capabilities.ragged_widths,
        )
        return speculative_steps(decoder, begun.outputs, begun.rows, drafter, budget)

    def _sampled_row(self, index: int, sequence: int) -> DraftedRow:
        prompt, task = self.prompts[index], self.task(index)
        pick = make_pick(self.request.strategy, make_rng(self.request.seeds[index], sequence))
        process = self.make_process(prompt, task.budget, task.constraint)
        return DraftedRow(History(prompt.token_ids), process, pick, len(prompt.token_ids) + task.budget)

    def _contrastive_row(self, index: int, hidden: Floats) -> ContrastiveRow:
        """hidden (width, n_embd): the prefill's states of this prompt, padded behind."""
        prompt, task = self.prompts[index], self.task(index)
        states = StateHistory(hidden[: len(prompt.token_ids)])
        process = self.make_process(prompt, task.budget, task.constraint)
        return ContrastiveRow(History(prompt.token_ids), process, states)


def make_pick(strategy: Strategy, rng: np.random.Generator) -> Pick:
    """How a row's next token is chosen from its processed scores. What it remembers is the row's own."""
    if isinstance(strategy, BeamSearch) and strategy.sample:  # with a single beam
        strategy = strategy.warpers
    if not isinstance(strategy, Sampling) or strategy.is_greedy:
        return pick_best
    filters = make_warpers(strategy, rng)
    if strategy.mirostat_tau == 0:
        return Draw(filters, rng)
    eta = MIROSTAT_ETA if strategy.mirostat_eta is None else strategy.mirostat_eta
    return MirostatDraw(filters, rng, Mirostat(strategy.mirostat_tau, eta))


@dataclass
class Draw:
    """Draws from what the filters leave."""

    filters: FilterChain
    rng: np.random.Generator

    def __call__(self, token_ids: Ids, scores: Floats) -> int:
        left = self.filters.narrow(token_ids, scores)
        return left.token_id(draw(left.scores, self.rng))


@dataclass
class MirostatDraw:
    """Draws from what mirostat leaves, which learns from it."""

    filters: FilterChain
    rng: np.random.Generator
    mirostat: Mirostat

    def __call__(self, token_ids: Ids, scores: Floats) -> int:
        left = self.filters.narrow(token_ids, scores)
        left = left.only(self.mirostat.select(left.scores))
        index = draw(left.scores, self.rng)
        self.mirostat.learn(left.scores, index)
        return left.token_id(index)

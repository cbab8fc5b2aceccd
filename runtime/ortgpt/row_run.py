"""Runs strategies whose sequences never look at each other: greedy, sampling, contrastive search."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np

from ortgpt.choices import ChoiceState
from ortgpt.errors import OrtgptError
from ortgpt.interfaces import Floats, Ids, Outputs, Steps
from ortgpt.logits.drawing import draw
from ortgpt.logits.filter_chain import FilterChain
from ortgpt.logits.mirostat import Mirostat
from ortgpt.logits.pipeline import make_warpers
from ortgpt.options import NUM_DRAFT_TOKENS
from ortgpt.results import Event, ResultChoice
from ortgpt.run import Run, make_rng
from ortgpt.search.contrastive import ContrastiveRow, StateHistory, contrastive_steps
from ortgpt.search.draft_budget import DraftBudget
from ortgpt.search.draft_decoder import DraftDecoder
from ortgpt.search.drafts import Drafter, PromptLookup
from ortgpt.search.history import History
from ortgpt.search.sample import Pick, pick_best, sample_steps
from ortgpt.search.speculative import DraftedRow, speculative_steps
from ortgpt.strategies import MIROSTAT_ETA, BeamSearch, ContrastiveSearch, Sampling, Strategy


class RowRun(Run):
    """One row and one choice per sequence, n or best_of of them per prompt."""

    def _prepare(self) -> None:
        self._budgets = [self.max_tokens(prompt) for prompt in self.prompts]
        bounds = list(zip(self.prompts, self._budgets, strict=True))
        self._constraints = [self.make_constraint(prompt, budget) for prompt, budget in bounds]
        self._choices = [
            [
                self.make_choice(prompt, sequence, budget, constraint)
                for sequence in range(self.request.options.num_sequences)
            ]
            for (prompt, budget), constraint in zip(bounds, self._constraints, strict=True)
        ]

    def choices(self, index: int) -> list[ResultChoice]:
        found = [choice.choice() for choice in self._choices[index]]
        options = self.request.options
        if options.best_of is None:
            return found
        # Without a single token there is no score, in none of them.
        best = sorted(found, key=lambda one: -(one.score or 0.0))[: options.n]
        return [dataclasses.replace(one, index=rank) for rank, one in enumerate(best)]

    def error(self, index: int) -> OrtgptError | None:
        return next((choice.error for choice in self._choices[index] if choice.error is not None), None)

    @property
    def has_lone_rows(self) -> bool:
        return all(len(choices) == 1 for choices in self._choices)

    def events(self) -> Generator[tuple[int, Event], None, None]:
        rows = [row for row, (_, choice) in enumerate(self._everyone()) if choice.max_tokens > 0]
        steps = self._start(rows) if rows else None
        everyone = self._everyone()
        for index, choice in everyone:
            if choice.max_tokens == 0:
                yield index, choice.end("length")
        if steps is None:
            return
        running = [everyone[row] for row in rows]
        try:
            before = time.perf_counter()
            step = next(steps)
            self.clock.first_token = time.perf_counter() - self.request.started
            while True:
                self.clock.decode += time.perf_counter() - before
                is_late = self.is_late
                for row, (index, choice) in enumerate(running):
                    if row in step.errors:
                        choice.error = step.errors[row]
                        continue
                    if step.token_ids[row] < 0:
                        continue  # others have more guessed tokens
                    token_id, logprob = int(step.token_ids[row]), float(step.logprobs[row])
                    yield index, choice.feed(token_id, logprob, step.logits[row], is_late=is_late)
                going = [row for row, (_, choice) in enumerate(running) if not choice.is_done]
                if not going:
                    return
                running = [running[row] for row in going]
                before = time.perf_counter()
                step = steps.send(np.asarray(going))
        finally:
            steps.close()

    def _start(self, rows: list[int]) -> Steps:
        """Prefill every prompt once, then one decoder row per sequence; `rows` are those with room."""
        strategy, n = self.request.strategy, self.request.options.num_sequences
        outputs = self.prefill(hidden=isinstance(strategy, ContrastiveSearch))
        sources = np.asarray(rows, np.int64) // n  # the prompt of each sequence
        first = outputs.at(sources)  # copies, before the next verb, which may reuse the buffer
        if isinstance(strategy, ContrastiveSearch):
            assert outputs.hidden is not None
            contrastive = [self._contrastive_row(source, outputs.hidden[source]) for source in sources]
            self.decoder.reorder(sources)
            return contrastive_steps(self.decoder, first, contrastive, strategy)
        self.decoder.reorder(sources)
        sampled = [self._sampled_row(row // n, row % n) for row in rows]
        if self.request.options.is_drafted:
            return self._speculative_steps(first, sampled)
        return sample_steps(self.decoder, first, sampled)

    def _everyone(self) -> list[tuple[int, ChoiceState]]:
        """Prompt and state of every sequence, in the order of the rows."""
        return [(index, choice) for index, choices in enumerate(self._choices) for choice in choices]

    def _speculative_steps(self, first: Outputs, rows: Sequence[DraftedRow]) -> Steps:
        options = self.request.options
        drafter: Drafter = PromptLookup(len(rows))
        if options.draft is not None:
            drafter = DraftDecoder(options.draft, self.decoder.vocab_size)
        budget = DraftBudget(
            len(rows),
            NUM_DRAFT_TOKENS if options.num_draft_tokens is None else options.num_draft_tokens,
            drafter_cost=self.request.draft_cost,
            ragged_widths=self.decoder.capabilities.ragged_widths,
        )
        return speculative_steps(self.decoder, first, rows, drafter, budget)

    def _sampled_row(self, index: int, sequence: int) -> DraftedRow:
        prompt, seed = self.prompts[index], self.request.seeds[index]
        pick = make_pick(self.request.strategy, make_rng(seed, sequence))
        budget = self._budgets[index]
        process = self.make_process(prompt, budget, self._constraints[index])
        return DraftedRow(History(prompt.token_ids), process, pick, len(prompt.token_ids) + budget)

    def _contrastive_row(self, index: int, hidden: Floats) -> ContrastiveRow:
        """hidden (width, n_embd): the prefill's states of this prompt, padded behind."""
        prompt = self.prompts[index]
        states = StateHistory(hidden[: len(prompt.token_ids)])
        process = self.make_process(prompt, self._budgets[index], self._constraints[index])
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

"""Runs strategies whose sequences never look at each other: greedy, sampling, contrastive search."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Generator

import numpy as np

from ortgpt.choices import ChoiceState
from ortgpt.errors import OrtgptError
from ortgpt.interfaces import Decoder, Floats, Ids, Steps, Tokenizer
from ortgpt.logits.drawing import draw
from ortgpt.logits.mirostat import Mirostat
from ortgpt.logits.pipeline import make_warpers
from ortgpt.manifest import Architecture
from ortgpt.results import Event, ResultChoice
from ortgpt.run import Request, Run, make_rng
from ortgpt.search.contrastive import ContrastiveRow, StateHistory, contrastive_steps
from ortgpt.search.history import History
from ortgpt.search.sample import Pick, SampledRow, pick_best, sample_steps
from ortgpt.strategies import MIROSTAT_ETA, BeamSearch, ContrastiveSearch, Sampling, Strategy


class RowRun(Run):
    """One row and one choice per sequence, n or best_of of them per prompt."""

    def __init__(self, request: Request, decoder: Decoder, tokenizer: Tokenizer, shape: Architecture) -> None:
        super().__init__(request, decoder, tokenizer, shape)
        self._choices = self._make_choices()

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
        if self.request.options.token_healing:
            self._choices = self._make_choices()
        sources = np.asarray(rows, np.int64) // n  # the prompt of each sequence
        first = outputs.at(sources)  # copies, before the next verb, which may reuse the buffer
        if isinstance(strategy, ContrastiveSearch):
            assert outputs.hidden is not None
            contrastive = [self._contrastive_row(source, outputs.hidden[source]) for source in sources]
            self.decoder.reorder(sources)
            return contrastive_steps(self.decoder, first, contrastive, strategy)
        self.decoder.reorder(sources)
        return sample_steps(self.decoder, first, [self._sampled_row(row // n, row % n) for row in rows])

    def _make_choices(self) -> list[list[ChoiceState]]:
        """The sequences of each prompt; made anew where prompts have been healed."""
        sequences = range(self.request.options.num_sequences)
        return [
            [self.make_choice(prompt, sequence, self.max_tokens(prompt)) for sequence in sequences]
            for prompt in self.prompts
        ]

    def _everyone(self) -> list[tuple[int, ChoiceState]]:
        """Prompt and state of every sequence, in the order of the rows."""
        return [(index, choice) for index, choices in enumerate(self._choices) for choice in choices]

    def _sampled_row(self, index: int, sequence: int) -> SampledRow:
        prompt, seed = self.prompts[index], self.request.seeds[index]
        pick = make_pick(self.request.strategy, make_rng(seed, sequence))
        process = self.make_process(prompt, self._choices[index][sequence].max_tokens)
        return SampledRow(History(prompt.token_ids), process, pick)

    def _contrastive_row(self, index: int, hidden: Floats) -> ContrastiveRow:
        """hidden (width, n_embd): the prefill's states of this prompt, padded behind."""
        prompt = self.prompts[index]
        states = StateHistory(hidden[: len(prompt.token_ids)])
        process = self.make_process(prompt, self._choices[index][0].max_tokens)
        return ContrastiveRow(History(prompt.token_ids), process, states)


def make_pick(strategy: Strategy, rng: np.random.Generator) -> Pick:
    """How a row's next token is chosen from its processed scores. What it remembers is the row's own."""
    if isinstance(strategy, BeamSearch) and strategy.sample:  # with a single beam
        strategy = strategy.warpers
    if not isinstance(strategy, Sampling) or strategy.is_greedy:
        return pick_best
    warp = make_warpers(strategy, rng)
    if strategy.mirostat_tau == 0:
        return lambda token_ids, scores: draw(warp(token_ids, scores), rng)
    eta = MIROSTAT_ETA if strategy.mirostat_eta is None else strategy.mirostat_eta
    mirostat = Mirostat(strategy.mirostat_tau, eta)

    def pick(token_ids: Ids, scores: Floats) -> int:
        truncated = mirostat.truncate(warp(token_ids, scores))
        token_id = draw(truncated, rng)
        mirostat.learn(truncated, token_id)
        return token_id

    return pick

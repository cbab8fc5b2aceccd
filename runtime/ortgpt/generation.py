"""One run of the engine: prompts that share a batch, from token ids to events and results.

This is where text, logits, inference and search meet:

    prefill -> repeat for n -> search steps -> tokens to text -> events -> results
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np

from ortgpt.choices import ChoiceState, Limits
from ortgpt.errors import OrtgptError
from ortgpt.interfaces import Decoder, Floats, Ids, Steps, Tokenizer
from ortgpt.logits.drawing import draw
from ortgpt.logits.pipeline import make_processors, make_warpers
from ortgpt.manifest import Architecture
from ortgpt.options import Options
from ortgpt.prompts import Prompt
from ortgpt.results import Event, Result, Timings
from ortgpt.search.history import History
from ortgpt.search.sample import Pick, SampledRow, pick_best, sample_steps
from ortgpt.strategies import Sampling, Strategy


@dataclass(frozen=True)
class Request:
    """What the caller asked for. seeds: one per prompt."""

    prompts: Sequence[Prompt]
    seeds: Sequence[int]
    strategy: Strategy
    options: Options
    started: float  # time.perf_counter() when the call came in


@dataclass
class _Clock:
    """Seconds spent in the model and the search; the caller's own time between events is not ours."""

    first_token: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0


class Generation:
    """Runs a request once: iterate `events`, then ask for `results`."""

    def __init__(
        self, request: Request, decoder: Decoder, tokenizer: Tokenizer, shape: Architecture, load_s: float
    ) -> None:
        self._request, self._decoder, self._load_s = request, decoder, load_s
        self._tokenizer, self._shape = tokenizer, shape
        self._stop_token_ids = (
            shape.eos_token_ids if request.options.stop_token_ids is None else request.options.stop_token_ids
        )
        self._choices = [self._make_choices(prompt) for prompt in request.prompts]
        self._clock = _Clock()

    def events(self) -> Generator[tuple[int, Event], None, None]:
        """(prompt index, event), as the tokens come. Closing it ends the run and frees the cache.

        A choice that fails gets no more events; its error is in `errors`.
        """
        try:
            if self._request.options.max_new_tokens == 0:
                yield from self._end_all()
            else:
                yield from self._run()
        finally:
            self._decoder.release()

    @property
    def errors(self) -> dict[int, OrtgptError]:
        """The first error of each prompt that failed."""
        found: dict[int, OrtgptError] = {}
        for prompt, choices in enumerate(self._choices):
            for choice in choices:
                if choice.error is not None:
                    found.setdefault(prompt, choice.error)
        return found

    def results(self) -> list[Result]:
        """One result per prompt; choices that have not ended are "cancelled"."""
        return [self._result(index) for index in range(len(self._choices))]

    def _run(self) -> Generator[tuple[int, Event], None, None]:
        running = [(index, choice) for index, choices in enumerate(self._choices) for choice in choices]
        steps = self._start()
        try:
            before = time.perf_counter()
            step = next(steps)
            self._clock.first_token = time.perf_counter() - self._request.started
            while True:
                self._clock.decode += time.perf_counter() - before
                is_late = self._is_late()
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

    def _start(self) -> Steps:
        """Prefill every prompt once, then one row per sequence."""
        before = time.perf_counter()
        logits = self._decoder.extend([prompt.token_ids for prompt in self._request.prompts]).logits
        n = self._request.options.n
        if n > 1:
            logits = logits.repeat(n, axis=0)  # before the next verb, which may reuse the buffer
            self._decoder.repeat(n)
        self._clock.prefill = time.perf_counter() - before
        rows = [
            self._make_row(prompt, seed, sequence)
            for prompt, seed in zip(self._request.prompts, self._request.seeds, strict=True)
            for sequence in range(n)
        ]
        return sample_steps(self._decoder, logits, rows)

    def _make_row(self, prompt: Prompt, seed: int, sequence: int) -> SampledRow:
        process = make_processors(
            self._request.options,
            prompt_length=len(prompt.token_ids),
            stop_token_ids=self._stop_token_ids,
            bad_word_ids=bad_word_ids(self._request.options, self._tokenizer),
            vocab_size=self._shape.vocab_size,
            tokenizer_size=self._shape.tokenizer_size,
        )
        pick = make_pick(self._request.strategy, np.random.default_rng([seed, sequence]))
        return SampledRow(History(prompt.token_ids), process, pick)

    def _make_choices(self, prompt: Prompt) -> list[ChoiceState]:
        options = self._request.options
        # The last token is never fed back, so it needs no place in the context.
        room = self._shape.context - len(prompt.token_ids) + 1
        limits = Limits(
            max_tokens=min(options.max_new_tokens, room),
            min_tokens=options.min_new_tokens,
            stop_token_ids=frozenset(self._stop_token_ids),
            stop=tuple(options.stop),
        )
        prefix = ""
        if options.echo:
            prefix = self._tokenizer.decode(prompt.token_ids) if prompt.text is None else prompt.text
        return [
            ChoiceState(index, self._tokenizer, limits, prefix=prefix, num_top=options.logprobs)
            for index in range(options.n)
        ]

    def _end_all(self) -> Generator[tuple[int, Event], None, None]:
        for index, choices in enumerate(self._choices):
            for choice in choices:
                yield index, choice.end("length")

    def _is_late(self) -> bool:
        max_time = self._request.options.max_time
        return max_time is not None and time.perf_counter() - self._request.started >= max_time

    def _result(self, index: int) -> Result:
        prompt = self._request.prompts[index]
        choices = tuple(choice.choice() for choice in self._choices[index])
        generated = sum(len(choice.token_ids) for choice in choices)
        num_first = sum(bool(choice.token_ids) for choice in choices)  # these came with the prefill
        decode = self._clock.decode
        timings = Timings(
            load_s=self._load_s,
            ttft_s=self._clock.first_token,
            prefill_s=self._clock.prefill,
            decode_s=decode,
            prompt_tokens=len(prompt.token_ids),
            generated_tokens=generated,
            tokens_per_second=(generated - num_first) / decode if decode > 0 else 0.0,
        )
        return Result(prompt.text, prompt.token_ids, self._request.seeds[index], choices, timings)


def make_pick(strategy: Strategy, rng: np.random.Generator) -> Pick:
    """How a row's next token is chosen from its processed scores."""
    if not isinstance(strategy, Sampling) or strategy.temperature == 0:
        return pick_best
    warp = make_warpers(strategy)

    def pick(token_ids: Ids, scores: Floats) -> int:
        return draw(warp(token_ids, scores), rng)

    return pick


def bad_word_ids(options: Options, tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """Bad words as ids; a word is banned both as the text's first and after a space."""
    sequences: list[tuple[int, ...]] = []
    for word in options.bad_words:
        if isinstance(word, str):
            sequences += [tuple(tokenizer.encode(form)) for form in (word, " " + word.lstrip())]
        else:
            sequences.append(tuple(word))
    return list(dict.fromkeys(sequences))

"""What every kind of run shares: a request, a decoder, and how prompts become rows and choices."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Generator, Sequence
from functools import cached_property
from typing import Generic, TypeVar

import numpy as np

from ortgpt.choices import ChoiceState, Limits
from ortgpt.constraint_specs import MAX_WORD_LENGTH
from ortgpt.constraints.binding import ConstraintBinder, Sequel, leaves_out
from ortgpt.constraints.combined import AllOf
from ortgpt.errors import OptionError, OrtgptError
from ortgpt.inference.guided_decoder import GuidedDecoder
from ortgpt.interfaces import Decoder, Ids, Outputs, Processor, Tokenizer
from ortgpt.logits.pipeline import make_processors
from ortgpt.manifest import Architecture
from ortgpt.option_ids import bad_word_ids, breaker_ids, sequence_biases
from ortgpt.prompts import Prompt, read_prompt
from ortgpt.request import Clock, Request
from ortgpt.request_checks import rows_per_prompt
from ortgpt.results import Event, ResultChoice
from ortgpt.schedule import Schedule
from ortgpt.strategies import ContrastiveSearch
from ortgpt.token_healing import find_extensions, heal

T = TypeVar("T")

MakeDecoder = Callable[[int], Decoder]
"""Gives a decoder with so many rows, empty or holding beginnings of the prompts."""


class Run(ABC, Generic[T]):
    """Runs a request's prompts together, once. Prompts that wait begin when others have ended.

    What a prompt needs, and what becomes of it, is its task, of type T.

    prompts  those of the request, each healed once it has begun, where that is asked for
    clocks   one per prompt
    ended    the prompts that have ended, or failed, since somebody took the last from here
    """

    def __init__(
        self,
        request: Request,
        make_decoder: MakeDecoder,
        tokenizer: Tokenizer,
        shape: Architecture,
        binder: ConstraintBinder | None = None,
    ) -> None:
        """binder: the model's, for what its constraints share; None: one of its own."""
        self.request, self.tokenizer, self.shape = request, tokenizer, shape
        self._make_decoder = make_decoder
        self._decoders: list[Decoder] = []  # those that hold a cache; the first has all that have joined it
        self._binder = binder or ConstraintBinder(tokenizer, shape.vocab_size)
        self.prompts = list(request.prompts)
        self.clocks = [Clock() for _ in self.prompts]
        self.ended: deque[int] = deque()
        self._tasks: dict[int, T] = {}
        chosen = request.options.stop_token_ids
        self.stop_token_ids = tuple(shape.eos_token_ids if chosen is None else chosen)
        self._bad_word_ids = bad_word_ids(request.options, tokenizer)
        self._sequence_biases = sequence_biases(request.options, tokenizer)
        self._breaker_ids = breaker_ids(request.options, tokenizer)
        negative = request.options.negative_prompt
        self._negative = (
            None if negative is None else read_prompt(negative, tokenizer, shape, "negative_prompt")
        )
        # Before anything is run: what can't be asked for is refused here.
        for index in range(len(self.prompts)):
            self.task(index)
            if index >= request.max_rows:
                self.forget(index)  # it has to wait, and a task may hold much

    @abstractmethod
    def make_task(self, index: int) -> T:
        """The task of a prompt that has not begun."""

    def task(self, index: int) -> T:
        """A prompt's task; made when it is first asked for."""
        if index not in self._tasks:
            self._tasks[index] = self.make_task(index)
        return self._tasks[index]

    def forget(self, index: int) -> None:
        """Let a prompt's task go."""
        del self._tasks[index]

    @abstractmethod
    def events(self) -> Generator[tuple[int, Event], None, None]:
        """(prompt index, event), as the tokens come."""

    @abstractmethod
    def choices(self, index: int) -> list[ResultChoice]:
        """What has become of a prompt, best first."""

    @abstractmethod
    def error(self, index: int) -> OrtgptError | None:
        """Why a prompt failed, if it did."""

    @property
    @abstractmethod
    def has_lone_rows(self) -> bool:
        """Whether every prompt has one row throughout, which holds the tokens of its only sequence."""

    @property
    def is_late(self) -> bool:
        """Whether max_time has passed."""
        max_time = self.request.options.max_time
        return max_time is not None and time.perf_counter() - self.request.started >= max_time

    def schedule(self, waiting: Sequence[int]) -> Schedule:
        """These prompts, in line for the rows."""
        rows_each = rows_per_prompt(self.request.strategy, self.request.options)
        return Schedule(waiting, rows_each, self.request.max_rows)

    def prefill(self, part: Sequence[int], *, hidden: bool = False) -> tuple[Decoder, Outputs]:
        """Run these prompts, in a decoder of their own with a row for each.

        What a row holds already is not run again, but for the last token, whose logits are wanted, and with
        `hidden`, for the states. Afterwards the part's `prompts` are final.
        """
        before = time.perf_counter()
        options = self.request.options
        decoder = self._make_decoder(len(part))
        self._decoders.append(decoder)
        if options.token_healing:
            self._heal(part, decoder)
        prompts = [self.prompts[index] for index in part]
        rest = _not_held(decoder, [prompt.token_ids for prompt in prompts], hidden=hidden)
        if options.is_guided:
            negatives = [self._negative_ids(prompt) for prompt in prompts]
            decoder = GuidedDecoder(decoder, options.guidance_scale, negatives)
        outputs = decoder.extend(rest, hidden=hidden)
        seconds = time.perf_counter() - before
        for index in part:
            self.clocks[index].prefill = seconds
        return decoder, outputs

    def count(self, seconds: float, running: Collection[int]) -> None:
        """Put a step of the search to the account of the prompts that took part in it."""
        since = time.perf_counter() - self.request.started
        del self._decoders[1:]  # they have joined the first
        for index in running:
            clock = self.clocks[index]
            clock.first_token = clock.first_token or since
            clock.decode += seconds

    def release(self) -> None:
        """Free the caches."""
        for decoder in self._decoders:
            decoder.release()

    def _heal(self, part: Sequence[int], decoder: Decoder) -> None:
        """Choose the last tokens of these prompts anew, by the decoder's rows.

        A row then holds what comes before its last token, or nothing if that token stays: what a row
        computes must not depend on its neighbours.
        """
        prompts = [self.prompts[index] for index in part]
        last = {
            row: prompt.token_ids[-1]
            for row, prompt in enumerate(prompts)
            if len(prompt.token_ids) > 1 and self.max_tokens(prompt) > 0
        }
        extensions = {token_id: find_extensions(token_id, self.tokenizer) for token_id in {*last.values()}}
        healing = {row: found for row, one in last.items() if len(found := extensions[one]) > 1}
        if not healing:
            return
        heads = [p.token_ids[:-1] if row in healing else p.token_ids[:1] for row, p in enumerate(prompts)]
        outputs = decoder.extend(_not_held(decoder, heads))
        for row, found in healing.items():
            prompt, logits = prompts[row], outputs.logits[row, -1]
            healed = heal(prompt, self._admitted(prompt, found), logits, self.tokenizer)
            try:
                self.make_constraint(healed, self.max_tokens(healed))
            except OptionError:  # keywords would need more room than behind the prompt as it was
                continue
            if healed != prompt:
                self.prompts[part[row]] = healed
                self._tasks[part[row]] = self.make_task(part[row])
        decoder.trim([len(head) if row in healing else 0 for row, head in enumerate(heads)])

    def _admitted(self, prompt: Prompt, extensions: Ids) -> Ids:
        """Extensions that neither the constraints nor other options keep out; the old token always."""
        *head, old = prompt.token_ids
        before = prompt.end_of_text(self.tokenizer, MAX_WORD_LENGTH)
        admits = self._binder.healing_rule(self.request.options.constraints, before)
        length = len(self.tokenizer.token_bytes(old))
        kept = [
            one
            for one in extensions.tolist()
            if one == old
            or (leaves_out(self._excluded, head, (one,)) and admits(self.tokenizer.token_bytes(one)[length:]))
        ]
        return np.array(kept, np.int64)

    def max_tokens(self, prompt: Prompt) -> int:
        """Tokens that may be generated."""
        # The last token is never fed back, so that it needs no place in the context. But a contrastive
        # candidate is judged by running it.
        spare = 0 if isinstance(self.request.strategy, ContrastiveSearch) else 1
        longest = max(len(prompt.token_ids), len(self._negative_ids(prompt)))
        return min(self.request.options.max_new_tokens, self.shape.context - longest + spare)

    def _negative_ids(self, prompt: Prompt) -> tuple[int, ...]:
        """What guidance moves away from; without a negative prompt the prompt's last token alone."""
        return prompt.token_ids[-1:] if self._negative is None else self._negative.token_ids

    def make_constraint(self, prompt: Prompt, max_tokens: int, *, uses_banks: bool = False) -> AllOf | None:
        """What every sequence of a prompt must hold to. Raises OptionError for what can't be."""
        options = self.request.options
        if not options.constraints:
            return None
        bad_texts = tuple(word.strip() for word in options.bad_words if isinstance(word, str))
        sequel = Sequel(
            prompt_ids=prompt.token_ids,
            before=prompt.end_of_text(self.tokenizer, MAX_WORD_LENGTH),
            healed=prompt.healed_bytes,
            budget=max_tokens - (options.forced_eos_token_id is not None),
            stop_token_ids=self.stop_token_ids,
            excluded=tuple(self._excluded),
            bad_words=bad_texts,
            is_first_forced=options.forced_bos_token_id is not None,
            uses_banks=uses_banks,
        )
        return self._binder.bind(options.constraints, sequel)

    @cached_property
    def _excluded(self) -> set[tuple[int, ...]]:
        """Sequences of ids that other options keep out of the text, or that end it."""
        options = self.request.options
        alone = {
            *self.stop_token_ids,
            *options.suppress_tokens,
            *(token_id for token_id, bias in options.logit_bias.items() if bias == -math.inf),
        }
        barred = (ids for ids, bias in self._sequence_biases.items() if bias == -math.inf)
        return {*((token_id,) for token_id in alone), *self._bad_word_ids, *barred}

    def make_choice(
        self, prompt: Prompt, index: int, max_tokens: int, constraint: AllOf | None = None
    ) -> ChoiceState:
        options = self.request.options
        limits = Limits(
            max_tokens=max_tokens,
            min_tokens=options.min_new_tokens,
            stop_token_ids=frozenset(self.stop_token_ids),
            stop=tuple(options.stop),
        )
        return ChoiceState(
            index,
            self.tokenizer,
            limits,
            prefix=prompt.own_text(self.tokenizer) if options.echo else "",
            healed=prompt.healed_bytes,
            num_top=options.logprobs,
            constraint=constraint,
        )

    def make_process(self, prompt: Prompt, max_tokens: int, constraint: AllOf | None = None) -> Processor:
        """The processors that every strategy's scores go through."""
        return make_processors(
            self.request.options,
            prompt_length=len(prompt.token_ids),
            max_tokens=max_tokens,
            stop_token_ids=self.stop_token_ids,
            bad_word_ids=self._bad_word_ids,
            sequence_biases=self._sequence_biases,
            breakers=self._breaker_ids,
            vocab_size=self.shape.vocab_size,
            tokenizer_size=self.shape.tokenizer_size,
            constraint=constraint,
        )


def _not_held(
    decoder: Decoder, sequences: Sequence[tuple[int, ...]], *, hidden: bool = False
) -> list[Sequence[int]]:
    """What a decoder's rows do not hold of these ids: the last one at least, with `hidden` all.

    The rows are trimmed to what they hold.
    """
    lengths = decoder.lengths.tolist()
    held = [0 if hidden else min(n, len(ids) - 1) for n, ids in zip(lengths, sequences, strict=True)]
    if held != lengths:
        decoder.trim(held)
    return [ids[n:] for n, ids in zip(held, sequences, strict=True)]


def make_rng(seed: int, sequence: int) -> np.random.Generator:
    """Sequence j of a prompt draws from (seed, j)."""
    return np.random.default_rng([seed, sequence])

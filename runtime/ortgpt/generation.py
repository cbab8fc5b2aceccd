"""One use of the engine: prompts that share a batch, from token ids to events and results."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import Any

from ortgpt.beam_run import BeamRun
from ortgpt.constraints.binding import ConstraintBinder
from ortgpt.errors import OrtgptError
from ortgpt.interfaces import Tokenizer
from ortgpt.manifest import Architecture
from ortgpt.prompts import Prompt
from ortgpt.request import Request
from ortgpt.results import Event, Result, Timings
from ortgpt.row_run import RowRun
from ortgpt.run import MakeDecoder, Run
from ortgpt.strategies import BeamSearch


class Generation:
    """Runs a request once: iterate `events`, then ask for `results`; or iterate `outcomes`.

    make_decoder  gives decoders; called with the number of prompts that are read together
    at_end        takes a decoder back that is only lent: called at the end with the generation and with
                  whether it ran without an error. None: the decoders are released
    """

    def __init__(
        self,
        request: Request,
        make_decoder: MakeDecoder,
        tokenizer: Tokenizer,
        shape: Architecture,
        load_s: float,
        binder: ConstraintBinder | None = None,
        *,
        at_end: AtEnd | None = None,
    ) -> None:
        self.request, self._load_s, self._at_end = request, load_s, at_end
        self._run = make_run(request, make_decoder, tokenizer, shape, binder)

    def events(self) -> Generator[tuple[int, Event], None, None]:
        """(prompt index, event), as the tokens come. Closing it ends the run and frees the cache.

        A prompt that fails gets no more events; its error is in `errors`.
        """
        is_interrupted = True
        try:
            yield from self._run.events()
            is_interrupted = False
        except GeneratorExit:  # the reader has had enough
            is_interrupted = False
            raise
        finally:
            if self._at_end is None:
                self._run.release()
            else:
                self._at_end(self, not is_interrupted and not self.errors)

    def outcomes(self) -> Generator[tuple[int, Result | OrtgptError], None, None]:
        """(prompt index, result or error), each as soon as the prompt has ended; nothing of it is kept."""
        with contextlib.closing(self.events()) as events:
            for _ in events:
                yield from self._ended()
        yield from self._ended()

    def _ended(self) -> Generator[tuple[int, Result | OrtgptError], None, None]:
        while self._run.ended:
            index = self._run.ended.popleft()
            outcome = self._run.error(index) or self._result(index)
            self._run.forget(index)
            yield index, outcome

    @property
    def has_lone_rows(self) -> bool:
        """Whether every prompt has one row throughout, which holds the tokens of its only sequence."""
        return self._run.has_lone_rows

    @property
    def errors(self) -> dict[int, OrtgptError]:
        """The first error of each prompt that failed."""
        found = ((index, self._run.error(index)) for index in range(len(self.request.prompts)))
        return {index: error for index, error in found if error is not None}

    @property
    def prompts(self) -> list[Prompt]:
        """The prompts as they were run: healed, where that was asked for."""
        return self._run.prompts

    def results(self) -> list[Result]:
        """One result per prompt; choices that have not ended are "cancelled"."""
        return [self._result(index) for index in range(len(self.request.prompts))]

    def _result(self, index: int) -> Result:
        prompt, clock = self._run.prompts[index], self._run.clocks[index]
        choices = tuple(self._run.choices(index))
        generated = sum(len(choice.token_ids) for choice in choices)
        num_first = sum(bool(choice.token_ids) for choice in choices)  # these came with the prefill
        timings = Timings(
            load_s=self._load_s,
            ttft_s=clock.first_token,
            prefill_s=clock.prefill,
            decode_s=clock.decode,
            prompt_tokens=len(prompt.token_ids),
            generated_tokens=generated,
            tokens_per_second=(generated - num_first) / clock.decode if clock.decode > 0 else 0.0,
        )
        return Result(prompt.text, prompt.token_ids, self.request.seeds[index], choices, timings)


AtEnd = Callable[[Generation, bool], None]


def make_run(
    request: Request,
    make_decoder: MakeDecoder,
    tokenizer: Tokenizer,
    shape: Architecture,
    binder: ConstraintBinder | None = None,
) -> Run[Any]:
    """The kind of run that the strategy needs.

    A single beam is greedy or sampled decoding, as in transformers; without a token to generate the
    strategy makes no difference.
    """
    strategy = request.strategy
    if isinstance(strategy, BeamSearch) and strategy.num_beams > 1 and request.options.max_new_tokens > 0:
        return BeamRun(request, make_decoder, tokenizer, shape, binder)
    return RowRun(request, make_decoder, tokenizer, shape, binder)

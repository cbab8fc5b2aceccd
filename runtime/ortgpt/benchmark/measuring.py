"""The single measurements: decoding, first tokens, prefill, on a model that tells the time of its runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from ortgpt.benchmark.plan import Plan
from ortgpt.benchmark.resident import resident_bytes
from ortgpt.errors import OrtgptError
from ortgpt.options import OptionFields
from ortgpt.results import Event
from ortgpt.strategies import Sampling, Strategy

if TYPE_CHECKING:
    from ortgpt.generator import Model

Clock = Callable[[], float]

SAMPLING = Sampling(top_k=50, top_p=0.95)
SAMPLING_OPTIONS: OptionFields = {"repetition_penalty": 1.2}
CONTEXT_STEPS = 16  # at a context of so many tokens the last steps up to it are timed


@dataclass
class GraphTime:
    """Adds up the seconds of a model's runs: `ortgpt.load(..., on_run=graph_time.add)`."""

    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        self.seconds += seconds


@dataclass(frozen=True)
class Decoding:
    """A call that decoded `rows` sequences at once.

    first_s   from the call to the first token of every row
    steps     tokens per row after the first
    decode_s  that they took
    graph_s   of it, in the graph
    """

    rows: int
    first_s: float
    steps: int
    decode_s: float
    graph_s: float

    @property
    def step_s(self) -> float:
        return self.decode_s / self.steps

    @property
    def tokens_per_s(self) -> float:
        return self.rows * self.steps / self.decode_s

    @property
    def host_share(self) -> float:
        return 1 - self.graph_s / self.decode_s


class Measurer:
    """Measures one model. graph_time: what the model was loaded with as `on_run`."""

    def __init__(
        self, model: Model, graph_time: GraphTime, plan: Plan, *, clock: Clock = time.perf_counter
    ) -> None:
        self._model, self._graph_time, self._plan, self._clock = model, graph_time, plan, clock
        shape = model.manifest.architecture
        rng = np.random.default_rng(plan.seed)
        self._ids: list[int] = rng.integers(shape.tokenizer_size, size=shape.context).tolist()

    def decode(
        self,
        prompt_tokens: int,
        new_tokens: int,
        *,
        rows: int = 1,
        strategy: Strategy | None = None,
        at_end: Callable[[], None] = lambda: None,
        **options: Any,
    ) -> Decoding:
        """Continue a prompt in so many rows, new_tokens in each; at_end: called while the cache is there."""
        begin = self._clock()
        stream = self._model.stream(
            self._ids[:prompt_tokens],
            strategy,
            n=rows,
            max_new_tokens=new_tokens,
            stop_token_ids=[],
            seed=self._plan.seed,
            **options,
        )
        with stream:
            _read(stream, rows)  # an event for each row, and only then the next step
            first, graph_before = self._clock(), self._graph_time.seconds
            _read(stream, rows * (new_tokens - 1))
            end, graph_after = self._clock(), self._graph_time.seconds
            at_end()
        return Decoding(rows, first - begin, new_tokens - 1, end - first, graph_after - graph_before)

    def decode_up_to(self, context: int) -> Decoding:
        """One row, the last steps before it holds `context` tokens."""
        steps = min(CONTEXT_STEPS, context - 1)
        return self.decode(context - steps, steps + 1)

    def sample(self) -> Decoding:
        """One row drawn with the usual filters and a penalty."""
        plan = self._plan
        return self.decode(plan.prompt_tokens, plan.new_tokens, strategy=SAMPLING, **SAMPLING_OPTIONS)

    def first_token(self, prompt_tokens: int) -> float:
        """Seconds from the call to the first token."""
        begin = self._clock()
        with self._model.stream(self._ids[:prompt_tokens], max_new_tokens=1, stop_token_ids=[]) as stream:
            _read(stream, 1)
            return self._clock() - begin

    def prefill(self) -> float:
        """Seconds of the call that runs the long prompt on an empty decoder."""
        decoder = self._model.decoder()
        begin = self._clock()
        decoder.extend([self._ids[: self._plan.prefill_tokens]])
        seconds = self._clock() - begin
        decoder.release()
        return seconds

    def resident_while_running(self, context: int) -> int | None:
        """Bytes that the process holds when one row has come to `context` tokens."""
        prompt = min(self._plan.prompt_tokens, context - 1)
        found: list[int | None] = []
        self.decode(prompt, context - prompt + 1, at_end=lambda: found.append(resident_bytes()))
        return found[0]


def _read(events: Iterator[Event], count: int) -> None:
    """A token for each event."""
    if sum(1 for _ in islice(events, count)) < count:
        raise OrtgptError("the model stopped before it had written what was to be measured")

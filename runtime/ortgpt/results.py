"""What the verbs return: plain frozen data, `dataclasses.asdict` makes the JSON of the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class TokenLogprob:
    """A token's log-probability (nats) in the raw model distribution, before processors."""

    token: str
    id: int
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class ResultChoice:
    """One generated continuation.

    text         without the prompt (unless echo) and without special tokens
    token_ids    the generated ids, with the one that stopped it
    stop_reason  the stop id or stop string that ended it, or "max_time"
    score        mean raw log-probability of the generated tokens (beam search: the beam's score)
    logprobs     per token, where asked for
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    stop_reason: int | str | None = None
    score: float | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None


@dataclass(frozen=True)
class Timings:
    """Seconds and counts of one prompt.

    ttft_s     from the call to the first token; in a batch that includes the time that the prompt waited
    prefill_s  of the pass that read it, and whatever began with it
    decode_s   of the steps that it took part in, which it shares with what ran beside it
    """

    load_s: float
    ttft_s: float
    prefill_s: float
    decode_s: float
    prompt_tokens: int
    generated_tokens: int
    tokens_per_second: float


@dataclass(frozen=True)
class Result:
    """Everything that came of one prompt. `generate(prompt, seed=result.seed)` reproduces it."""

    prompt: str | None  # None when the prompt was given as ids
    prompt_token_ids: tuple[int, ...]
    seed: int
    choices: tuple[ResultChoice, ...]
    timings: Timings

    @property
    def text(self) -> str:
        return self.choices[0].text

    @property
    def token_ids(self) -> tuple[int, ...]:
        return self.choices[0].token_ids

    @property
    def finish_reason(self) -> FinishReason:
        return self.choices[0].finish_reason


@dataclass(frozen=True)
class Event:
    """A piece of a stream: text that will never be withdrawn.

    finish_reason is None until the choice's last event. Joined over a choice's events, text and
    token_ids are those of the collected result.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    logprob: float | None
    finish_reason: FinishReason | None = None


@dataclass(frozen=True)
class Score:
    """Log-probabilities (nats) of given tokens. logprobs[0] is None where nothing precedes it."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float | None, ...]
    total: float
    perplexity: float

"""What is measured, and how much of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ortgpt.checks import check_int, check_sequence
from ortgpt.errors import OrtgptError
from ortgpt.options import MAX_SEQUENCES

GROWTH_CONTEXTS = (64, 256, 512, 1000)
GROWTH_ROWS = (1, 2, 4, 8, 16, 32, 64)
MAX_ROUNDS = 10_000


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured. Equal plans give the same work on every machine.

    prompt_tokens   of the prompts that are continued
    new_tokens      generated behind each; the first of them comes with the prompt
    rows            how many sequences are decoded at once; one alone is always measured
    prefill_tokens  of the long prompt
    contexts        tokens of context at which decoding is measured besides
    rounds          each figure is taken so often
    seed            of the prompts' ids and of what is drawn
    """

    prompt_tokens: int = 32
    new_tokens: int = 64
    rows: tuple[int, ...] = (1, 2, 4, 8, 16)
    prefill_tokens: int = 512
    contexts: tuple[int, ...] = ()
    rounds: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        check_int("prompt_tokens", self.prompt_tokens, 1)
        check_int("new_tokens", self.new_tokens, 2)
        for index, rows in enumerate(check_sequence("rows", self.rows)):
            check_int(f"rows[{index}]", rows, 1, MAX_SEQUENCES)
        check_int("prefill_tokens", self.prefill_tokens, 1)
        for index, tokens in enumerate(check_sequence("contexts", self.contexts)):
            check_int(f"contexts[{index}]", tokens, 2)
        check_int("rounds", self.rounds, 1, MAX_ROUNDS)
        check_int("seed", self.seed, 0, 2**63 - 1)

    def fit(self, context: int) -> tuple[Plan, tuple[str, ...]]:
        """The plan as so much context allows it, with rows and contexts in order; and what was cut."""
        if context < 2:
            raise OrtgptError(f"a context of {context} token is too short to measure decoding")
        prompt = min(self.prompt_tokens, context - 1)
        fitted = dataclasses.replace(
            self,
            prompt_tokens=prompt,
            # The last token is never fed back, so that it needs no place.
            new_tokens=min(self.new_tokens, context - prompt + 1),
            prefill_tokens=min(self.prefill_tokens, context),
            rows=tuple(sorted({1, *self.rows})),
            contexts=tuple(sorted({min(tokens, context) for tokens in self.contexts})),
        )
        return fitted, tuple(_cuts(self, fitted, context))


def _cuts(asked: Plan, fitted: Plan, context: int) -> list[str]:
    pairs = [
        ("prompt_tokens", asked.prompt_tokens, fitted.prompt_tokens),
        ("new_tokens", asked.new_tokens, fitted.new_tokens),
        ("prefill_tokens", asked.prefill_tokens, fitted.prefill_tokens),
        *(("contexts", tokens, context) for tokens in asked.contexts if tokens > context),
    ]
    return [
        f"{name} {wanted} cut to {had}: the model's context has {context} tokens"
        for name, wanted, had in pairs
        if wanted != had
    ]

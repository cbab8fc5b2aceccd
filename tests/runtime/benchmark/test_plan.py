"""What may be asked for, and what a short context leaves of it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ortgpt.benchmark.plan import GROWTH_CONTEXTS, Plan
from ortgpt.errors import OptionError, OrtgptError


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("prompt_tokens", 0, "prompt_tokens must be at least 1, got 0"),
        ("new_tokens", 1, "new_tokens must be at least 2, got 1"),
        ("prefill_tokens", 0, "prefill_tokens must be at least 1, got 0"),
        ("rows", (1, 0), r"rows\[1\] must be between 1 and 128, got 0"),
        ("rows", (129,), r"rows\[0\] must be between 1 and 128, got 129"),
        ("rows", 8, "rows must be a list, got 8"),
        ("contexts", (1,), r"contexts\[0\] must be at least 2, got 1"),
        ("rounds", 0, "rounds must be between 1 and 10000, got 0"),
        ("rounds", True, "rounds must be an integer, got True"),
        ("seed", -1, "seed must be between 0"),
    ],
)
def test_what_can_not_be_measured_is_refused_by_name(option: str, value: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Plan(**{option: value})


def test_a_plan_that_fits_is_carried_out_as_it_stands() -> None:
    plan = Plan(contexts=GROWTH_CONTEXTS)
    assert plan.fit(1024) == (plan, ())


def test_rows_and_contexts_come_once_in_order_and_one_row_always() -> None:
    fitted, notes = Plan(rows=(8, 2, 8), contexts=(256, 64, 256)).fit(1024)
    assert (fitted.rows, fitted.contexts, notes) == ((1, 2, 8), (64, 256), ())


def test_a_short_context_cuts_what_it_does_not_hold_and_says_so() -> None:
    asked = Plan(prompt_tokens=40, new_tokens=64, prefill_tokens=512, contexts=(16, 64, 256))
    fitted, notes = asked.fit(48)
    # 40 + 9 - 1 tokens are run: the last one is not.
    assert fitted == dataclasses.replace(asked, new_tokens=9, prefill_tokens=48, contexts=(16, 48))
    assert notes == (
        "new_tokens 64 cut to 9: the model's context has 48 tokens",
        "prefill_tokens 512 cut to 48: the model's context has 48 tokens",
        "contexts 64 cut to 48: the model's context has 48 tokens",
        "contexts 256 cut to 48: the model's context has 48 tokens",
    )


@pytest.mark.parametrize("context", [2, 3, 31, 32, 33])
def test_a_cut_plan_leaves_a_token_to_time_and_fits(context: int) -> None:
    fitted, _ = Plan().fit(context)
    assert fitted.prompt_tokens >= 1
    assert fitted.new_tokens >= 2
    assert fitted.prompt_tokens + fitted.new_tokens - 1 <= context


def test_a_context_of_one_token_is_refused() -> None:
    with pytest.raises(OrtgptError, match="a context of 1 token is too short"):
        Plan().fit(1)

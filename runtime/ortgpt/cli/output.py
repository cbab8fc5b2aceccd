"""How `ortgpt generate` prints what it has: texts, JSON documents, the timing line."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ortgpt.errors import OrtgptError

if TYPE_CHECKING:
    from ortgpt.batches import Outcomes
    from ortgpt.results import Result


def show_in_order(
    outcomes: Outcomes, count: int, show: Callable[[Result], None], *, has_bar: bool
) -> list[Result]:
    """Show the results of `count` prompts in their order, each as soon as it and all before it are there.

    What is there when the run ends early is shown as well. Raises the first failed prompt's error at the end.
    """
    from ortgpt.batches import ProgressBar

    waiting: dict[int, Result | OrtgptError] = {}  # for those before them
    shown: list[Result] = []
    errors: list[OrtgptError] = []
    with contextlib.closing(outcomes), ProgressBar(has_bar) as bar:

        def take(outcome: Result | OrtgptError) -> None:
            if isinstance(outcome, OrtgptError):
                errors.append(outcome)
            else:
                bar.clear()
                show(outcome)
                shown.append(outcome)

        try:
            for done, (index, outcome) in enumerate(outcomes, start=1):
                waiting[index] = outcome
                while (following := len(shown) + len(errors)) in waiting:
                    take(waiting.pop(following))
                bar(done, count)
        except (OrtgptError, KeyboardInterrupt):
            for index in sorted(waiting):
                take(waiting[index])
            raise
    if errors:
        raise errors[0]
    return shown


def print_result(result: Result, model: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps(_document(model, result)))
    else:
        for choice in result.choices:
            print(choice.text)
    sys.stdout.flush()  # a full disk is to be noticed before the timing line says that all is done


def _document(model: str, result: Result) -> dict[str, Any]:
    data = dataclasses.asdict(result)
    data["timings"] = {key: round(value, 6) for key, value in data["timings"].items()}
    return {"model": model, **data}


def print_timings(results: list[Result], seconds: float | None = None) -> None:
    """seconds: that several prompts took together; None: one prompt, and its own count."""
    first = results[0].timings
    tokens = sum(result.timings.generated_tokens for result in results)
    speed = first.tokens_per_second if seconds is None else tokens / seconds
    soonest = min(result.timings.ttft_s for result in results)
    print(
        f"{tokens} tokens, {speed:.1f} tokens/s, first after {soonest:.3f} s, load {first.load_s:.2f} s",
        file=sys.stderr,
    )

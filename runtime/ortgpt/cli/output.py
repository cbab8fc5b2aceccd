"""How `ortgpt generate` prints what it has: texts, JSON documents, the timing line."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ortgpt.results import Result, Timings


def print_results(results: list[Result], model: str, as_json: bool) -> None:
    for result in results:
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


def print_timings(results: list[Result]) -> None:
    first: Timings = results[0].timings
    tokens = sum(result.timings.generated_tokens for result in results)
    # Prompts that ran together share their seconds.
    seconds = sum({result.timings.decode_s for result in results})
    counted = sum(result.timings.tokens_per_second * result.timings.decode_s for result in results)
    speed = counted / seconds if seconds else 0.0
    print(
        f"{tokens} tokens, {speed:.1f} tokens/s, first after {first.ttft_s:.3f} s, load {first.load_s:.2f} s",
        file=sys.stderr,
    )

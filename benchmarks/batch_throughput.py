"""Many prompts on few rows: rows that are refilled at once against groups that wait for their longest text.

    python benchmarks/batch_throughput.py models/storyteller-fp32

The same prompts and seeds, so the same texts, once as one `generate_batch` and once as a `generate_batch` for
every group of --rows prompts. A text ends where somebody first speaks: soon, late, or not at all.
Prints a table and, last, one line of JSON. On a machine that others use, the ratio of processor seconds with
--threads 1 says more than that of the clock's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import ortgpt
from ortgpt import Result

WHO = ("king", "fox", "old woman", "small boat", "miller", "crow", "wolf", "girl who lived by the sea")
BEGIN = ("The {}", "Once upon a time there was a {}", "In the wood, long ago, a {} said:", "A {} and a bear")
SAMPLING = ortgpt.Sampling(temperature=0.9, top_p=0.95)
STOP = " said"


def main() -> None:
    arguments = parse_arguments()
    stories = itertools.cycle(begin.format(who) for who in WHO for begin in BEGIN)
    prompts = list(itertools.islice(stories, arguments.prompts))
    spent: dict[str, list[tuple[float, float]]] = {"groups": [], "refilled": []}  # clock, processor
    with ortgpt.load(arguments.bundle, threads=arguments.threads) as model:
        ways: dict[str, Callable[[], list[Result]]] = {
            "groups": lambda: in_groups(model, prompts, arguments.rows, arguments.new_tokens),
            "refilled": lambda: run(model, prompts, 0, arguments.rows, arguments.new_tokens),
        }
        results: dict[str, list[Result]] = {}
        for number in range(arguments.rounds + 1):  # round 0 warms up
            for name, way in ways.items():
                clock, processor = time.perf_counter(), time.process_time()
                results[name] = way()
                if number:
                    spent[name].append((time.perf_counter() - clock, time.process_time() - processor))
                print(f"round {number}/{arguments.rounds}: {name}", file=sys.stderr, flush=True)
    texts = {name: [result.text for result in found] for name, found in results.items()}
    assert texts["groups"] == texts["refilled"]
    report([len(result.token_ids) for result in results["refilled"]], spent, arguments.rows)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("bundle", type=Path)
    for name, default, meaning in (
        ("prompts", 256, "how many there are"),
        ("rows", 32, "that run at once"),
        ("new-tokens", 300, "of a text, at most"),
        ("rounds", 3, "with both ways, one after the other"),
    ):
        parser.add_argument(
            f"--{name}", type=int, default=default, metavar="N", help=f"{meaning} (default {default})"
        )
    parser.add_argument("--threads", type=int, metavar="N", help="of the model (default: all)")
    return parser.parse_args()


def run(model: ortgpt.Model, prompts: list[str], seed: int, rows: int, new_tokens: int) -> list[Result]:
    options = {"seed": seed, "stop": STOP, "max_new_tokens": new_tokens}
    return model.generate_batch(prompts, SAMPLING, max_rows=rows, **options)


def in_groups(model: ortgpt.Model, prompts: list[str], rows: int, new_tokens: int) -> list[Result]:
    """A group begins when all texts of the one before have ended."""
    groups = ((begin, prompts[begin : begin + rows]) for begin in range(0, len(prompts), rows))
    return [result for begin, group in groups for result in run(model, group, begin, rows, new_tokens)]


def report(lengths: list[int], spent: dict[str, list[tuple[float, float]]], rows: int) -> None:
    """Tokens per second of both ways; a ratio is the median of the rounds' own."""
    tokens = sum(lengths)
    clock, processor = (
        [old[kind] / new[kind] for old, new in zip(spent["groups"], spent["refilled"], strict=True)]
        for kind in range(2)
    )
    spread = f"{min(lengths)} to {max(lengths)}, mean {statistics.mean(lengths):.0f}"
    print(f"{len(lengths)} prompts on {rows} rows, texts of {spread} tokens")
    speeds = {name: tokens / statistics.median(pair[0] for pair in pairs) for name, pairs in spent.items()}
    for name, speed in speeds.items():
        print(f"{name:28} {speed:10,.0f} tokens/s")
    print(f"{'ratio, by the clock':28} {statistics.median(clock):10.2f}")
    print(f"{'ratio, by processor seconds':28} {statistics.median(processor):10.2f}")
    found = {"prompts": len(lengths), "rows": rows, "tokens": tokens, "tokens_per_second": speeds}
    print(json.dumps({**found, "ratios": clock, "processor_ratios": processor}))


if __name__ == "__main__":
    main()

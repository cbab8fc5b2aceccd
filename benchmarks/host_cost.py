"""What the host costs between two runs of the model: search, processors, text, bound arrays.

python benchmarks/host_cost.py                     a tiny model with GPT-2's vocabulary
python benchmarks/host_cost.py --step-us 2500      and shares of a step that takes so long
python benchmarks/host_cost.py --layers 12 --width 768 --only beam    with the cache of GPT-2 small

Host cost of a step is what the thread works from the end of one run of the graph to the begin of the next,
in processor time: the same as on a clock, but for the time that other processes take away. A round's figure
is the median of its steps; the mean, which has the rare steps in it (a cache that grows), stands beside it.
A small model leaves the processor's caches warm; with a large one the host waits for memory as well.

The model has random weights and a head of its own whose logits are spread like a language model's: the best
token has a third of the probability, some hundreds have 95 %. With --flat all tokens are nearly alike, the
worst case of the filters.
Progress goes to stderr, the table to stdout, one JSON line last.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from decode_against_optimum import CACHE, keep
from engines import export_with_ortgpt
from measurement import say
from random_checkpoint import BYTES, Shape, make_checkpoint
from report import Spread, describe_machine, json_line, table
from workers import run_apart

import ortgpt
from ortgpt.inference.session import Session

PACKAGES = ("ortgpt", "onnxruntime", "numpy")
PEAKED = 4.5  # standard deviation of the logits; of so many normal ones the best then has about a third
FLAT = 0.16


@dataclass(frozen=True)
class Case:
    """A strategy with options, for so many prompts at once."""

    name: str
    strategy: Any = None
    options: dict[str, Any] = field(default_factory=dict)
    rows: int = 1


def main() -> None:
    arguments = parse_arguments()
    shape = Shape(
        layers=arguments.layers,
        heads=max(1, arguments.width // 64),
        width=arguments.width,
        vocab_size=arguments.vocab_size,
        context=1024,
        seed=0,
    )
    cases = [case for case in make_cases() if arguments.only in case.name]
    with ortgpt.load(prepare(shape, arguments.flat), threads=arguments.threads) as model:
        rounds = measure(model, cases, arguments)
    medians = {case.name: Spread.of([median for median, _ in rounds[case.name]]) for case in cases}
    means = {case.name: Spread.of([mean for _, mean in rounds[case.name]]) for case in cases}
    print(render(medians, means, arguments.step_us))
    about = {
        "benchmark": "host_cost",
        "shape": asdict(shape),
        "flat": arguments.flat,
        "prompt_tokens": arguments.prompt_tokens,
        "machine": describe_machine(PACKAGES),
    }
    print(json_line(about | {"step_us": arguments.step_us, "medians_us": medians, "means_us": means}))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default, meaning in (
        ("layers", 2, "of the random model"),
        ("width", 64, "of its hidden states"),
        ("vocab-size", 50257, f"its vocabulary, more than {BYTES}"),
        ("threads", 1, "of the model"),
        ("rounds", 9, "each takes every case once"),
        ("tokens", 64, "generated in each"),
        ("prompt-tokens", 32, "before them"),
    ):
        parser.add_argument(
            f"--{name}", type=int, default=default, metavar="N", help=f"{meaning} (default {default})"
        )
    parser.add_argument("--step-us", type=float, metavar="N", help="show shares of a step of N microseconds")
    parser.add_argument("--flat", action="store_true", help="logits that are nearly alike")
    parser.add_argument("--only", default="", metavar="WORDS", help="cases with these words in their names")
    return parser.parse_args()


def prepare(shape: Shape, flat: bool) -> Path:
    """The bundle, exported anew; its checkpoint is kept from run to run."""
    home = CACHE / f"{shape.name}-{'flat' if flat else 'peaked'}"
    # The last layer norm gives states of the length sqrt(width), whatever the weights before it.
    deviation = (FLAT if flat else PEAKED) / shape.width**0.5
    make = partial(make_checkpoint, shape=shape, head_deviation=deviation)
    keep(home / "checkpoint", make, "making the checkpoint")
    say("exporting")
    run_apart(export_with_ortgpt, home / "checkpoint", home / "ortgpt")
    return home / "ortgpt"


def make_cases() -> list[Case]:
    penalised = {"repetition_penalty": 1.2}
    filtered = ortgpt.Sampling(temperature=0.8, top_k=50, top_p=0.95)
    keywords = {"constraints": [ortgpt.Keywords(["dragon", "castle gate"])]}
    return [
        Case("greedy"),
        Case("sampling, no filter", ortgpt.Sampling()),
        Case("top-k 50, top-p 0.95, repetition penalty", filtered, penalised),
        Case("top-p 0.95", ortgpt.Sampling(top_p=0.95)),
        Case("min-p 0.05", ortgpt.Sampling(temperature=0.8, min_p=0.05)),
        Case("greedy, repetition and presence penalties", None, penalised | {"presence_penalty": 0.5}),
        Case("greedy, 5 logprobs", None, {"logprobs": 5}),
        Case("greedy, 8 rows", rows=8),
        Case("beam search, 5 beams", ortgpt.BeamSearch(num_beams=5)),
        Case("beam search, 5 beams, repetition penalty", ortgpt.BeamSearch(num_beams=5), penalised),
        Case("contrastive search, k 4", ortgpt.ContrastiveSearch(top_k=4)),
        Case("keywords", None, keywords),
    ]


def measure(
    model: ortgpt.Model, cases: list[Case], arguments: argparse.Namespace
) -> dict[str, list[tuple[float, float]]]:
    """By case, of every round the median and the mean of its steps, in microseconds."""
    figures: dict[str, list[tuple[float, float]]] = {case.name: [] for case in cases}
    vocab_size = model.manifest.architecture.vocab_size
    for number in range(arguments.rounds + 1):  # round 0 warms up
        say(f"round {number}/{arguments.rounds}" if number else "warming up")
        for case in cases:
            rng = np.random.default_rng(number)
            prompts = rng.integers(0, vocab_size - 1, (case.rows, arguments.prompt_tokens)).tolist()
            steps = host_seconds(model, case, prompts, arguments.tokens)
            if number:
                figures[case.name].append((1e6 * statistics.median(steps), 1e6 * statistics.fmean(steps)))
    return figures


def host_seconds(model: ortgpt.Model, case: Case, prompts: list[list[int]], tokens: int) -> list[float]:
    """Of every step, the time outside the graph."""
    options = {"max_new_tokens": tokens, "stop_token_ids": [], "seed": 1, **case.options}
    with timed_runs() as runs:
        model.generate_batch(prompts, case.strategy, **options)
    # The first run is the prompt's; what comes after the last is the end of the generation.
    return [begin - end for (_, end), (begin, _) in pairwise(runs)][1:]


@contextmanager
def timed_runs() -> Iterator[list[tuple[float, float]]]:
    """Begin and end of every run of a graph, while it is open, in the thread's processor seconds."""
    runs: list[tuple[float, float]] = []
    original = Session.run

    def run(session: Session, binding: Any) -> None:
        begin = time.thread_time()
        original(session, binding)
        runs.append((begin, time.thread_time()))

    Session.run = run  # type: ignore[method-assign]
    try:
        yield runs
    finally:
        Session.run = original  # type: ignore[method-assign]


def render(medians: dict[str, Spread], means: dict[str, Spread], step_us: float | None) -> str:
    head = ["host, microseconds per step", "median [lowest .. highest]", "mean [lowest .. highest]"]
    rows = [[name, str(median), str(means[name])] for name, median in medians.items()]
    if step_us is not None:
        head.append(f"of {step_us:g} us")
        for row, median in zip(rows, medians.values(), strict=True):
            row.append(f"{100 * median.median / step_us:.1f} %")
    return table([head, *rows])


if __name__ == "__main__":
    main()

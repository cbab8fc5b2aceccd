"""What each way to decode costs, as a multiple of greedy's time per token.

python benchmarks/strategy_cost.py                 GPT-2 small's shape with random weights, fp32
python benchmarks/strategy_cost.py --layers 2 --width 64 --rounds 2        a try-out

In every round greedy runs before and after each strategy, with the same prompt and number of tokens.
Progress goes to stderr, the table to stdout, one JSON line last. A missed target is no failure.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from decode_against_optimum import CACHE, keep
from engines import export_with_ortgpt
from measurement import QUIET, say
from random_checkpoint import BYTES, Shape, make_checkpoint
from report import Spread, Target, describe_machine, json_line, table
from workers import run_apart

import ortgpt
from ortgpt.benchmark.processors import OtherProcesses
from ortgpt.interfaces import Floats, Ids

STORYTELLER = Path(__file__).resolve().parents[1] / "models" / "storyteller"
PACKAGES = ("ortgpt", "onnxruntime", "numpy", "llguidance")
NEW_TOKENS = 48
LOOKUP_TOKENS = 128
PROMPT = "The queen gave the king a golden key and "


@dataclass(frozen=True)
class Script:
    """A processor that lets the model write a given text: the model works as always, the text is ours."""

    token_ids: tuple[int, ...]

    def __call__(self, token_ids: Ids, logits: Floats) -> Floats:
        scores = np.full_like(logits, -np.inf)
        scores[self.token_ids[len(token_ids)]] = 0
        return scores


@dataclass(frozen=True)
class Case:
    """A strategy or option with its prompt. target: the most that it may cost, in greedy's time per token."""

    name: str
    prompt: list[int]
    target: float
    strategy: Any = None
    options: dict[str, Any] = field(default_factory=dict)
    shared: dict[str, Any] = field(default_factory=dict)  # options that greedy gets as well
    new_tokens: int = NEW_TOKENS


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
    home = CACHE / shape.name
    keep(home / "checkpoint", partial(make_checkpoint, shape=shape), "making the checkpoint")
    say("exporting")
    run_apart(export_with_ortgpt, home / "checkpoint", home / "ortgpt")
    with ortgpt.load(home / "ortgpt", threads=arguments.threads) as model:
        cases = [case for case in make_cases(model, make_texts()) if arguments.only in case.name]
        ratios = measure(model, cases, arguments.rounds, arguments.attempts)
    spreads = {case.name: Spread.of(ratios[case.name]) for case in cases}
    judged = {case.name: Target("<=", case.target).judge(spreads[case.name].median) for case in cases}
    rows = [("times greedy's time per token", "median [lowest .. highest]", "target")]
    rows += [(name, str(spread), judged[name]["text"]) for name, spread in spreads.items()]
    print(table(rows))
    about = {"benchmark": "strategy_cost", "shape": asdict(shape), "machine": describe_machine(PACKAGES)}
    print(json_line(about | {"ratios": ratios, "judged": judged}))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default, meaning in (
        ("layers", 12, "of the random model"),
        ("width", 768, "of its hidden states"),
        ("vocab-size", 50257, f"its vocabulary, more than 4096 and {BYTES}"),
        ("threads", len(os.sched_getaffinity(0)), "of the model"),
        ("rounds", 7, "each takes every figure once"),
        ("attempts", 4, "at a measurement that other processes disturb; the least disturbed counts"),
    ):
        parser.add_argument(
            f"--{name}", type=int, default=default, metavar="N", help=f"{meaning} (default {default})"
        )
    parser.add_argument("--only", default="", metavar="WORDS", help="cases with these words in their names")
    return parser.parse_args()


def make_texts() -> list[int]:
    """Ids of a story that storyteller draws: what a real text's repeats are like."""
    say("writing a story")
    bundle = CACHE / "storyteller"
    run_apart(export_with_ortgpt, STORYTELLER, bundle)
    with ortgpt.load(bundle) as model:
        sampling = ortgpt.Sampling(temperature=0.9, top_p=0.95)
        result = model.generate("Once upon a time", sampling, max_new_tokens=400, seed=1, stop_token_ids=[])
    return [*result.prompt_token_ids, *result.token_ids]


def make_cases(model: ortgpt.Model, story: list[int]) -> list[Case]:
    rng = np.random.default_rng(0)
    short, long = (rng.integers(0, 4096, length).tolist() for length in (64 - NEW_TOKENS // 2, 488))
    text = model.tokenizer.encode(PROMPT)
    part = story[:LOOKUP_TOKENS]
    repeats = Script((*part, *part, *part))
    goes_on = Script(tuple(story))
    # Of a dozen ids in random order nearly every pair has come before, and what followed says nothing.
    misleads = Script((*part, *rng.choice(part[:12], 2 * LOOKUP_TOKENS).tolist()))
    contrastive = ortgpt.ContrastiveSearch(top_k=4)
    words = ortgpt.Keywords(["dragon", "castle gate"])
    prose = ortgpt.Regex("[A-Za-z ,.]+")
    schema = ortgpt.JSONSchema(
        {"type": "object", "properties": {"name": {"type": "string", "minLength": 200}}, "required": ["name"]}
    )
    lookup: dict[str, Any] = {"options": {"prompt_lookup": True}, "new_tokens": LOOKUP_TOKENS}
    return [
        Case("contrastive search, k 4, 64 tokens of context", short, 1.35, contrastive),
        Case("contrastive search, k 4, 512 tokens of context", long, 2.0, contrastive),
        Case("beam search, 5 beams", short, 2.2, ortgpt.BeamSearch(num_beams=5)),
        Case("keywords", text, 1.05, options={"constraints": [words]}),
        Case("regular expression", text, 1.15, options={"constraints": [prose]}),
        Case("JSON schema", text, 1.15, options={"constraints": [schema]}),
        Case("prompt lookup, text repeats its prompt", part, 0.5, shared={"processors": [repeats]}, **lookup),
        Case("prompt lookup, text misleads", part, 1.03, shared={"processors": [misleads]}, **lookup),
        Case("prompt lookup, text goes on", part, 1.03, shared={"processors": [goes_on]}, **lookup),
    ]


def measure(model: ortgpt.Model, cases: list[Case], rounds: int, attempts: int) -> dict[str, list[float]]:
    """By case, in every round its time per token over the mean of greedy's before and after."""
    ratios: dict[str, list[float]] = {case.name: [] for case in cases}
    for number in range(rounds + 1):  # round 0 warms up
        say(f"round {number}/{rounds}" if number else "warming up")
        for case in cases:
            greedy = partial(seconds_per_token, model, case, plain=True)
            own = partial(seconds_per_token, model, case)
            before, with_case, after = (undisturbed(run, attempts) for run in (greedy, own, greedy))
            if number:
                ratios[case.name].append(2 * with_case / (before + after))
    return ratios


def seconds_per_token(model: ortgpt.Model, case: Case, plain: bool = False) -> float:
    options = {"max_new_tokens": case.new_tokens, "stop_token_ids": [], **case.shared}
    if not plain:
        options |= case.options
    result = model.generate(case.prompt, None if plain else case.strategy, **options)
    assert len(result.token_ids) == case.new_tokens
    return result.timings.decode_s / (case.new_tokens - 1)


def undisturbed(run: Callable[[], float], attempts: int) -> float:
    """The run that other processes disturbed least; the first that they hardly did ends the attempts."""
    tried: list[tuple[float, float]] = []
    while len(tried) < attempts and (not tried or tried[-1][0] > QUIET):
        others, cpu = OtherProcesses(), os.times()
        seconds = run()
        now = os.times()
        tried.append((others.share(now.user + now.system - cpu.user - cpu.system), seconds))
    return min(tried)[1]


if __name__ == "__main__":
    main()

"""What is measured, and how: rounds in which one process works while the others wait."""

from __future__ import annotations

import contextlib
import random
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from engines import ENGINES, Prompts
from memory import MemoryProbe
from random_checkpoint import Shape
from workers import Reply, Worker

from ortgpt.benchmark.bandwidth import ReadBandwidth
from ortgpt.benchmark.processors import OtherProcesses

MEMORY_TOKENS = 128
BANDWIDTH = "bandwidth"
QUIET = 0.05  # part of the processors that others may have in an undisturbed measurement


@dataclass(frozen=True)
class Plan:
    """Which figures are taken how often; see the script's --help."""

    shape: Shape
    threads: int
    rounds: int
    prompt_tokens: int
    new_tokens: int
    batch_rows: int
    batch_tokens: int
    prefill_tokens: int
    load_rounds: int
    bandwidth_passes: int
    attempts: int

    def prompts(self, rows: int, length: int) -> Prompts:
        """The same random ids for every system and round."""
        rng = random.Random(self.shape.seed)
        return [[rng.randrange(self.shape.vocab_size - 1) for _ in range(length)] for _ in range(rows)]


@dataclass
class Samples:
    """What the rounds gave.

    figures  by figure and system, one entry per round; bandwidth: by "bandwidth" and kernel
    tokens   the last ids that each system generated, by kind of call
    others   the part of all processors that other processes had, per kept measurement
    """

    figures: dict[str, dict[str, list[float]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    tokens: dict[str, dict[str, Prompts]] = field(default_factory=lambda: defaultdict(dict))
    others: list[float] = field(default_factory=list)


def measure_loading(plan: Plan, directories: dict[str, Path], samples: Samples) -> None:
    """Seconds to import and to load, in fresh processes one after the other."""
    for number in range(plan.load_rounds):
        say(f"loading {number + 1}/{plan.load_rounds}")
        for system, directory in directories.items():
            with Worker(partial(ENGINES[system], directory, plan.threads)) as worker:
                for figure in ("import_s", "load_s"):
                    samples.figures[figure][system].append(worker.call(figure).value)


def measure_speed(plan: Plan, directories: dict[str, Path], samples: Samples) -> None:
    """Bandwidth and every system once per round, in turning order."""
    with contextlib.ExitStack() as stack:
        make_reader = partial(ReadBandwidth, plan.shape.bytes_per_token, plan.threads)
        workers = {BANDWIDTH: stack.enter_context(Worker(make_reader))}
        for system, directory in directories.items():
            workers[system] = stack.enter_context(Worker(partial(ENGINES[system], directory, plan.threads)))
        names = list(workers)
        for number in range(plan.rounds + 1):  # round 0 warms up
            say(f"round {number}/{plan.rounds}" if number else "warming up")
            kept = samples if number else Samples()
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                measure = measure_bandwidth if name == BANDWIDTH else partial(measure_system, system=name)
                measure(plan, worker=workers[name], samples=kept)


def measure_bandwidth(plan: Plan, worker: Worker, samples: Samples) -> None:
    """Bytes per second of every kernel once."""
    reply = call_undisturbed(plan, worker, samples, "measure", plan.bandwidth_passes)
    for kernel, value in reply.value.items():
        samples.figures[BANDWIDTH][kernel].append(value)


def measure_system(plan: Plan, worker: Worker, samples: Samples, system: str) -> None:
    """Tokens per second of every kind once.

    Decoding is timed as what a whole call takes longer than a call for the first token alone.
    """

    def seconds(rows: int, length: int, new_tokens: int) -> float:
        prompts = plan.prompts(rows, length)
        reply = call_undisturbed(plan, worker, samples, "generate", prompts, new_tokens)
        samples.tokens[f"{rows} x {length} + {new_tokens}"][system] = reply.value
        return reply.seconds

    def add(figure: str, value: float) -> None:
        samples.figures[figure][system].append(value)

    first, whole = (seconds(1, plan.prompt_tokens, count) for count in (1, plan.new_tokens))
    add("decode_1_row", (plan.new_tokens - 1) / (whole - first))
    add("whole_call", plan.new_tokens / whole)
    rows, count = plan.batch_rows, plan.batch_tokens
    first, whole = (seconds(rows, plan.prompt_tokens, count) for count in (1, count))
    add("decode_batch", rows * (count - 1) / (whole - first))
    add("prefill", plan.prefill_tokens / seconds(1, plan.prefill_tokens, 1))


def call_undisturbed(plan: Plan, worker: Worker, samples: Samples, method: str, *arguments: Any) -> Reply:
    """The call that other processes disturbed least; the first that they hardly did ends the attempts.

    Chosen by what others did, never by how fast the call was, so that no side is favoured.
    """
    tried: list[tuple[float, Reply]] = []
    while len(tried) < plan.attempts and (not tried or tried[-1][0] > QUIET):
        others = OtherProcesses()
        reply = worker.call(method, *arguments)
        tried.append((others.share(reply.cpu_s), reply))
    share, reply = min(tried, key=lambda attempt: attempt[0])
    samples.others.append(share)
    return reply


def measure_memory(plan: Plan, bundle: Path) -> dict[str, Any]:
    """MemoryProbe's stages of a fresh process that loads the bundle and generates 128 tokens."""
    say("memory of a fresh process")
    prompt = plan.prompts(1, plan.prompt_tokens)[0]
    with Worker(MemoryProbe) as worker:
        stages: dict[str, Any] = worker.call("stages", bundle, plan.threads, prompt, MEMORY_TOKENS).value
    return stages


def say(line: str) -> None:
    """Progress, for people."""
    print(line, file=sys.stderr, flush=True)

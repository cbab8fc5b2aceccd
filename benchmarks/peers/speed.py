"""Tokens per second of all systems, in rounds; every figure is taken of one system after the other."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from catalogue import CLASSES, System
from engines import Prompts
from measurement import Plan, Samples, call_undisturbed, measure_bandwidth, say
from remote import RemoteEngine
from workers import Worker

from ortgpt.benchmark.bandwidth import ReadBandwidth


@dataclass(frozen=True)
class PeerPlan(Plan):
    """beams, beam_tokens: of the beam search."""

    beams: int
    beam_tokens: int

    def fresh_prompts(self, key: str, rows: int, length: int) -> Prompts:
        """The same random ids for every system, others for every key: no system may remember a prompt."""
        rng = random.Random(f"{self.shape.seed} {key} {rows} {length}")
        return [[rng.randrange(self.shape.vocab_size - 1) for _ in range(length)] for _ in range(rows)]


Taken = Callable[[PeerPlan, RemoteEngine, Samples, str], float]


def decode_rate(
    plan: PeerPlan, worker: RemoteEngine, samples: Samples, key: str, *, rows: int, new: int
) -> float:
    """What a whole call takes longer than a call for the first token alone."""
    seconds = [
        _seconds(
            plan,
            worker,
            samples,
            "generate",
            plan.fresh_prompts(f"{key} {count}", rows, plan.prompt_tokens),
            count,
        )
        for count in (1, new)
    ]
    return rows * (new - 1) / (seconds[1] - seconds[0])


def prefill_rate(plan: PeerPlan, worker: RemoteEngine, samples: Samples, key: str) -> float:
    """The prompt over a call for one token."""
    prompts = plan.fresh_prompts(key, 1, plan.prefill_tokens)
    return plan.prefill_tokens / _seconds(plan, worker, samples, "generate", prompts, 1)


def beam_rate(plan: PeerPlan, worker: RemoteEngine, samples: Samples, key: str) -> float:
    """New tokens over the whole call."""
    (prompt,) = plan.fresh_prompts(key, 1, plan.prompt_tokens)
    return plan.beam_tokens / _seconds(plan, worker, samples, "beam", prompt, plan.beam_tokens, plan.beams)


def speed_figures(plan: PeerPlan) -> dict[str, Taken]:
    """How each figure is taken."""
    return {
        "decode_1_row": partial(decode_rate, rows=1, new=plan.new_tokens),
        "decode_batch": partial(decode_rate, rows=plan.batch_rows, new=plan.batch_tokens),
        "prefill": prefill_rate,
        "beam": beam_rate,
    }


def measure_speed(
    plan: PeerPlan,
    systems: Sequence[System],
    directories: dict[str, Path],
    figures: Sequence[str],
    samples: Samples,
) -> None:
    """Class by class: only one is in memory at a time. directories: by system."""
    for grade in CLASSES:
        members = [system for system in systems if system.grade == grade]
        if members:
            say(f"class {grade}")
            measure_class(plan, members, directories, figures, samples)


def measure_class(
    plan: PeerPlan,
    systems: Sequence[System],
    directories: dict[str, Path],
    figures: Sequence[str],
    samples: Samples,
) -> None:
    """In every round bandwidth, then figure after figure of one system after the other."""
    taken = speed_figures(plan)
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(_bandwidth_worker(plan)) if systems[0].grade == "fp32" else None
        workers = {}
        for system in systems:
            say(f"loading {system.name}")
            engine = RemoteEngine(system, directories[system.name], plan.threads)
            workers[system.name] = stack.enter_context(engine)
        for number in range(plan.rounds + 1):  # round 0 warms up
            say(f"round {number}/{plan.rounds}" if number else "warming up")
            kept = samples if number else Samples()
            if reader:
                measure_bandwidth(plan, reader, kept)
            for figure in figures:
                for system in in_turn(systems, number):
                    if figure != "beam" or system.beams:
                        value = taken[figure](plan, workers[system.name], kept, f"{number} {figure}")
                        kept.figures[figure][system.name].append(value)


def in_turn(systems: Sequence[System], number: int) -> list[System]:
    """Who begins changes with the round."""
    turn = number % len(systems)
    return [*systems[turn:], *systems[:turn]]


def _seconds(
    plan: PeerPlan, worker: RemoteEngine, samples: Samples, method: str, *arguments: object
) -> float:
    return call_undisturbed(plan, worker, samples, method, *arguments).seconds


def _bandwidth_worker(plan: PeerPlan) -> Worker:
    return Worker(partial(ReadBandwidth, plan.shape.bytes_per_token, plan.threads))

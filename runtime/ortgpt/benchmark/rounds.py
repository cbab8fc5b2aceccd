"""Rounds in which every kind of measurement has its turn, so that a disturbance meets all of them."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from ortgpt.benchmark.bandwidth import ReadBandwidth
from ortgpt.benchmark.measuring import Decoding, Measurer
from ortgpt.benchmark.plan import Plan
from ortgpt.benchmark.processors import OtherProcesses

BANDWIDTH_PASSES = 5


@dataclass
class Samples:
    """What the rounds gave: one entry per round.

    decoding   by rows
    contexts   by tokens of context
    read       bytes per second, by kernel
    others     the part of all processors that other processes had; empty where that is not known
    """

    decoding: dict[int, list[Decoding]] = field(default_factory=lambda: defaultdict(list))
    sampling: list[Decoding] = field(default_factory=list)
    long_first_s: list[float] = field(default_factory=list)
    prefill_s: list[float] = field(default_factory=list)
    contexts: dict[int, list[Decoding]] = field(default_factory=lambda: defaultdict(list))
    read: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    others: list[float] = field(default_factory=list)


Case = Callable[[Samples], None]
"""Takes one measurement and notes what came out."""


def model_cases(measurer: Measurer, plan: Plan) -> list[Case]:
    """All that is measured of the model."""

    def decode(samples: Samples, rows: int) -> None:
        samples.decoding[rows].append(measurer.decode(plan.prompt_tokens, plan.new_tokens, rows=rows))

    def decode_up_to(samples: Samples, context: int) -> None:
        samples.contexts[context].append(measurer.decode_up_to(context))

    return [
        *(partial(decode, rows=rows) for rows in plan.rows),
        lambda samples: samples.sampling.append(measurer.sample()),
        lambda samples: samples.long_first_s.append(measurer.first_token(plan.prefill_tokens)),
        lambda samples: samples.prefill_s.append(measurer.prefill()),
        *(partial(decode_up_to, context=context) for context in plan.contexts),
    ]


def bandwidth_case(reader: ReadBandwidth) -> Case:
    """The machine's part."""

    def read(samples: Samples) -> None:
        for kernel, speed in reader.measure(BANDWIDTH_PASSES).items():
            samples.read[kernel].append(speed)

    return read


def take_rounds(cases: list[Case], rounds: int, on_progress: Callable[[str], None]) -> Samples:
    """Every case once per round; the one that begins changes."""
    samples = Samples()
    for number in range(rounds):
        on_progress(f"round {number + 1}/{rounds}")
        others, own = OtherProcesses(), time.process_time()
        turn = number % len(cases)
        for case in cases[turn:] + cases[:turn]:
            case(samples)
        share = others.share(time.process_time() - own)
        if share is not None:
            samples.others.append(share)
    return samples

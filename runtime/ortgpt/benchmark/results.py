"""What comes out: plain frozen data, `dataclasses.asdict` makes the JSON of the command line.

Names end in their unit: _s seconds, _bytes bytes, _per_s a second. Shares are parts of 1.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from ortgpt.benchmark.plan import Plan


@dataclass(frozen=True)
class Figure:
    """A quantity that was taken once per round."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        taken = list(values)
        return cls(statistics.median(taken), min(taken), max(taken))


@dataclass(frozen=True)
class RowsSpeed:
    """Decoding so many rows at once. tokens_per_s: of all rows together; step_s: one token for each."""

    rows: int
    tokens_per_s: Figure
    step_s: Figure


@dataclass(frozen=True)
class ContextSpeed:
    """Decoding one row that comes to so many tokens of context. step_s: per token."""

    context: int
    step_s: Figure


@dataclass(frozen=True)
class HostShare:
    """The part of the time of decoding one row that is not spent in the graph."""

    greedy: Figure
    sampling: Figure


@dataclass(frozen=True)
class Bandwidth:
    """How fast memory is read, and how near to that a decode step of one row takes the weights.

    kernel        the NumPy reduction that read_bytes_per_s is of: the fastest one
    step_bytes    of weights that a step reads
    share         step_bytes / step_s / read_bytes_per_s; above 1 where weights stay in the processor's cache
    """

    read_bytes_per_s: Figure
    kernel: str
    step_bytes: int
    share: Figure


@dataclass(frozen=True)
class Resident:
    """Memory that the process held, and its multiple of the bundle's size; None: the system does not tell."""

    held_bytes: int | None
    of_bundle: float | None


@dataclass(frozen=True)
class Memory:
    """Of the whole process, interpreter and libraries included.

    bundle_bytes    size of the bundle's files
    loaded          once the model was loaded
    running         at the end of one row of running_tokens tokens, with its cache
    peak            the most until then
    measuring_peak  the most until each measurement had been taken once, the most rows included
    """

    bundle_bytes: int
    loaded: Resident
    running_tokens: int
    running: Resident
    peak: Resident
    measuring_peak: Resident


@dataclass(frozen=True)
class Report:
    """How fast a bundle is on this machine.

    plan               as it was carried out; notes says what the model's context has cut
    load_s             of `ortgpt.load`, digests included, once
    ttft_s             from the call to the first token of a prompt of plan.prompt_tokens, one row
    tpot_s             per further token, one row
    long_ttft_s        as ttft_s, of plan.prefill_tokens
    prefill_per_s      tokens of the long prompt per second of the call that runs them
    other_processes    the part of all processors that others used during a round; None: not known
    """

    precision: str
    provider: str
    threads: int
    plan: Plan
    load_s: float
    ttft_s: Figure
    tpot_s: Figure
    long_ttft_s: Figure
    prefill_per_s: Figure
    decode: tuple[RowsSpeed, ...]
    contexts: tuple[ContextSpeed, ...]
    host_share: HostShare
    bandwidth: Bandwidth
    memory: Memory
    other_processes: Figure | None
    notes: tuple[str, ...]

"""From samples to figures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from ortgpt.benchmark.measuring import Decoding
from ortgpt.benchmark.results import Bandwidth, ContextSpeed, Figure, HostShare, Resident, RowsSpeed
from ortgpt.benchmark.rounds import Samples


def decode_speeds(samples: Samples) -> tuple[RowsSpeed, ...]:
    """In the order of the rows."""
    return tuple(
        RowsSpeed(rows, Figure.of(one.tokens_per_s for one in taken), step_figure(taken))
        for rows, taken in sorted(samples.decoding.items())
    )


def context_speeds(samples: Samples) -> tuple[ContextSpeed, ...]:
    """In the order of the contexts."""
    return tuple(
        ContextSpeed(tokens, step_figure(taken)) for tokens, taken in sorted(samples.contexts.items())
    )


def step_figure(taken: Sequence[Decoding]) -> Figure:
    return Figure.of(one.step_s for one in taken)


def host_share(samples: Samples) -> HostShare:
    greedy, sampling = samples.decoding[1], samples.sampling
    return HostShare(*(Figure.of(one.host_share for one in taken) for taken in (greedy, sampling)))


def bandwidth(samples: Samples, step_bytes: int) -> Bandwidth:
    """The share is that of each round: a machine that is slow for a while is slow for both sides."""
    kernel = max(samples.read, key=lambda name: statistics.median(samples.read[name]))
    fastest = samples.read[kernel]
    shares = [step_bytes / one.step_s / read for one, read in zip(samples.decoding[1], fastest, strict=True)]
    return Bandwidth(Figure.of(fastest), kernel, step_bytes, Figure.of(shares))


def resident(held: int | None, bundle_bytes: int) -> Resident:
    return Resident(held, None if held is None else held / bundle_bytes)

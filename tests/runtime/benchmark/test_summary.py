"""From samples to figures, by hand."""

from __future__ import annotations

import pytest

from ortgpt.benchmark import summary
from ortgpt.benchmark.measuring import Decoding
from ortgpt.benchmark.results import ContextSpeed, Figure, Resident, RowsSpeed
from ortgpt.benchmark.rounds import Samples


def decoding(rows: int, decode_s: float, graph_s: float = 0.0) -> Decoding:
    return Decoding(rows, first_s=9.0, steps=10, decode_s=decode_s, graph_s=graph_s)


def test_a_figure_is_the_median_the_lowest_and_the_highest() -> None:
    assert Figure.of([5.0, 1.0, 2.0]) == Figure(2.0, 1.0, 5.0)
    assert Figure.of(value for value in (4.0, 2.0)) == Figure(3.0, 2.0, 4.0)


def test_tokens_per_second_are_those_of_all_rows() -> None:
    samples = Samples()
    samples.decoding[4] += [decoding(4, 2.0), decoding(4, 4.0), decoding(4, 5.0)]
    samples.decoding[1] += [decoding(1, 1.0)]
    assert summary.decode_speeds(samples) == (
        RowsSpeed(1, Figure(10.0, 10.0, 10.0), Figure(0.1, 0.1, 0.1)),
        RowsSpeed(4, Figure(10.0, 8.0, 20.0), Figure(0.4, 0.2, 0.5)),
    )


def test_contexts_come_in_order() -> None:
    samples = Samples()
    samples.contexts[64] += [decoding(1, 2.0)]
    samples.contexts[16] += [decoding(1, 1.0)]
    assert summary.context_speeds(samples) == (
        ContextSpeed(16, Figure(0.1, 0.1, 0.1)),
        ContextSpeed(64, Figure(0.2, 0.2, 0.2)),
    )


def test_the_host_has_what_the_graph_has_not() -> None:
    samples = Samples()
    samples.decoding[1] += [decoding(1, 2.0, 1.5), decoding(1, 4.0, 2.0)]
    samples.decoding[2] += [decoding(2, 2.0, 0.0)]
    samples.sampling += [decoding(1, 10.0, 1.0)]
    found = summary.host_share(samples)
    assert found.greedy == Figure(0.375, 0.25, 0.5)
    assert found.sampling == Figure(0.9, 0.9, 0.9)


def test_the_share_of_memory_reads_is_that_of_each_round_with_the_faster_kernel() -> None:
    samples = Samples()
    samples.decoding[1] += [decoding(1, 1.0), decoding(1, 2.0), decoding(1, 5.0)]  # steps of 0.1, 0.2, 0.5 s
    samples.read["a"] += [50_000.0, 10_000.0, 20_000.0]
    samples.read["b"] += [40_000.0, 40_000.0, 10_000.0]
    found = summary.bandwidth(samples, step_bytes=2000)
    assert (found.kernel, found.step_bytes) == ("b", 2000)
    assert found.read_bytes_per_s == Figure(40_000.0, 10_000.0, 40_000.0)
    # 2000 bytes a step are 20,000, 10,000 and 4,000 a second.
    assert [found.share.median, found.share.lowest, found.share.highest] == pytest.approx([0.4, 0.25, 0.5])


def test_memory_is_a_multiple_of_the_bundle_where_it_is_known() -> None:
    assert summary.resident(300, 200) == Resident(300, 1.5)
    assert summary.resident(None, 200) == Resident(None, None)

"""The table of `ortgpt bench`."""

from __future__ import annotations

import dataclasses

import pytest

from ortgpt.benchmark.plan import Plan
from ortgpt.benchmark.results import (
    Bandwidth,
    ContextSpeed,
    Figure,
    HostShare,
    Memory,
    Report,
    Resident,
    RowsSpeed,
)
from ortgpt.cli.bench_table import number, render

TEN = Figure(0.010, 0.009, 0.0125)
REPORT = Report(
    precision="int8",
    provider="cpu",
    threads=2,
    plan=Plan(),
    load_s=0.456,
    ttft_s=TEN,
    tpot_s=Figure(0.004, 0.0035, 0.0041),
    long_ttft_s=Figure(0.25, 0.2, 0.3),
    prefill_per_s=Figure(2560.0, 2000.0, 3000.0),
    decode=(
        RowsSpeed(1, Figure(250.0, 240.0, 260.0), TEN),
        RowsSpeed(64, Figure(12345.6, 10000.0, 23456.7), TEN),
    ),
    contexts=(),
    host_share=HostShare(Figure(0.012, 0.01, 0.02), Figure(0.04, 0.03, 0.05)),
    bandwidth=Bandwidth(Figure(40e9, 39e9, 41e9), "max", 124_000_000, Figure(0.775, 0.75, 0.8)),
    memory=Memory(
        136_000_000,
        Resident(200_000_000, 200 / 136),
        128,
        Resident(272_000_000, 2.0),
        Resident(280_000_000, 2.06),
        Resident(None, None),
    ),
    other_processes=Figure(0.01, 0.0, 0.02),
    notes=(),
)

TABLE = """\
models/gpt2-int8
int8, cpu, 2 threads; median [lowest .. highest] of 5 rounds

load                              0.46 s
first token, prompt of 32        10.0 ms  [9.00 .. 12.5]
first token, prompt of 512        250 ms  [200 .. 300]
each further token               4.00 ms  [3.50 .. 4.10]
prefill, prompt of 512       2,560 tok/s  [2,000 .. 3,000]

decode, 1 row                  250 tok/s  [240 .. 260]            10.0 ms/step
decode, 64 rows             12,346 tok/s  [10,000 .. 23,457]      10.0 ms/step

memory reads                   40.0 GB/s  [39.0 .. 41.0]
weights per step                  124 MB
share of memory reads             77.5 %  [75.0 .. 80.0]
host share, greedy                1.20 %  [1.00 .. 2.00]
host share, sampling              4.00 %  [3.00 .. 5.00]

bundle                            136 MB
resident, loaded                  200 MB  1.47 x bundle
resident, 128 tokens              272 MB  2.00 x bundle
peak until then                   280 MB  2.06 x bundle
peak of all                    not known"""


def test_the_table_shows_every_figure_at_80_columns() -> None:
    assert render("models/gpt2-int8", REPORT) == TABLE
    assert max(map(len, TABLE.split("\n"))) <= 80


def test_growth_has_a_section_of_its_own() -> None:
    grown = dataclasses.replace(REPORT, contexts=(ContextSpeed(64, TEN), ContextSpeed(1000, TEN)))
    section = render("m", grown).split("\n\n")[3]
    assert section.split("\n") == [
        "a token at 64 of context         10.0 ms  [9.00 .. 12.5]",
        "a token at 1000 of context       10.0 ms  [9.00 .. 12.5]",
    ]


@pytest.mark.parametrize(
    ("others", "remark"),
    [
        (
            Figure(0.051, 0.0, 0.6),
            "other processes took 5% of the processors: measure again on a quiet machine",
        ),
        (Figure(0.05, 0.0, 0.6), None),
        (None, None),
    ],
)
def test_a_busy_machine_is_remarked(others, remark) -> None:
    shown = render("models/gpt2-int8", dataclasses.replace(REPORT, other_processes=others))
    assert shown == TABLE + (f"\n\n{remark}" if remark else "")


def test_what_was_cut_is_told() -> None:
    shown = render(
        "m", dataclasses.replace(REPORT, notes=("one thing", "another"), threads=1, plan=Plan(rounds=1))
    )
    assert shown.endswith("\n\none thing\nanother")
    assert "cpu, 1 thread; median [lowest .. highest] of 1 round\n" in shown


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.00"), (1.234, "1.23"), (12.34, "12.3"), (-0.5, "-0.50"), (123.4, "123"), (12345.6, "12,346")],
)
def test_a_number_has_three_digits_or_all_before_the_point(value: float, text: str) -> None:
    assert number(value) == text

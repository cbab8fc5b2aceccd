"""`ortgpt bench`."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ortgpt.benchmark.plan import GROWTH_CONTEXTS, GROWTH_ROWS, Plan
from ortgpt.checks import shown
from ortgpt.cli.arguments import AsJson, Debug, NoFastPrefill, ProviderName, ProviderOption, Quiet, Threads
from ortgpt.cli.bench_table import render
from ortgpt.cli.interruptible import call_interruptibly
from ortgpt.cli.loading import load_model
from ortgpt.errors import OptionError

if TYPE_CHECKING:
    from ortgpt.benchmark.results import Report


def bench(
    bundle: Annotated[Path, typer.Argument(metavar="DIR", help="The bundle to measure.")],
    rows: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N",
            help="Sequences decoded at once (repeatable, or a,b,c); 1 always is.",
            show_default=",".join(map(str, Plan.rows)),
        ),
    ] = None,
    prompt_tokens: Annotated[
        int, typer.Option(metavar="N", help="Tokens of the prompts that are continued.")
    ] = Plan.prompt_tokens,
    new_tokens: Annotated[
        int, typer.Option(metavar="N", help="Tokens generated behind each, the first one included.")
    ] = Plan.new_tokens,
    prefill_tokens: Annotated[
        int, typer.Option(metavar="N", help="Tokens of the long prompt.")
    ] = Plan.prefill_tokens,
    rounds: Annotated[
        int, typer.Option(metavar="N", help="Every figure is the median of so many.")
    ] = Plan.rounds,
    growth: Annotated[
        bool, typer.Option("--growth", help="Also at contexts up to 1000 tokens, and with up to 64 rows.")
    ] = False,
    as_json: AsJson = False,
    provider: ProviderOption = ProviderName.AUTO,
    threads: Threads = None,
    no_fast_prefill: NoFastPrefill = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """How fast a bundle is on this machine, with random prompts of one seed.
    The first token is timed from the call on, the further ones after it, with one row. Prefill: the long
    prompt's tokens over the time of the call that runs them. Decode: all rows' tokens after the first, over
    their time. Share of memory reads: bytes of weights per step, times steps per second, over what NumPy
    reads per second. Host share: the part of decoding one row that is not spent in the graph. Memory is
    that of the whole process.

    ortgpt bench models/storyteller-fp32

    ortgpt bench DIR --rows 1 --rows 8 --rounds 9 --threads 2

    ortgpt bench DIR --growth --json > figures.json
    """
    chosen = Plan.rows if rows is None else _read_rows(rows)
    plan = Plan(
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        rows=(*chosen, *GROWTH_ROWS) if growth else chosen,
        prefill_tokens=prefill_tokens,
        contexts=GROWTH_CONTEXTS if growth else (),
        rounds=rounds,
    )
    report = _measure(bundle, provider, threads, no_fast_prefill, plan, quiet)
    if as_json:
        print(json.dumps({"model": str(bundle), **dataclasses.asdict(report)}))
    else:
        print(render(str(bundle), report))


def _measure(
    bundle: Path,
    provider: ProviderName,
    threads: int | None,
    no_fast_prefill: bool,
    plan: Plan,
    quiet: bool,
) -> Report:
    from ortgpt.benchmark.conduct import measure_model  # here: numpy, which --help need not load
    from ortgpt.benchmark.measuring import GraphTime

    def say(line: str) -> None:
        if not quiet:
            print(line, file=sys.stderr, flush=True)

    say("loading")
    graph_time = GraphTime()
    with load_model(bundle, provider, threads, no_fast_prefill, on_run=graph_time.add) as model:
        return call_interruptibly(
            lambda: measure_model(model, graph_time, plan, on_progress=say), "ortgpt-bench"
        )


def _read_rows(values: list[str]) -> tuple[int, ...]:
    """Numbers from "1,8", from repeated flags, or both."""
    try:
        return tuple(int(part) for value in values for part in value.split(","))
    except ValueError:  # also for more digits than Python converts
        raise OptionError("rows", f"must be numbers like 1,8, got {shown(','.join(values))}") from None

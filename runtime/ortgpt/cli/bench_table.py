"""How `ortgpt bench` prints its report for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ortgpt.benchmark.results import Figure, Report, Resident

BUSY = 0.05  # from here on other processes spoil the figures


class Line(NamedTuple):
    """A name, what was found, and the lowest and highest of it or a remark."""

    name: str
    value: str = ""
    beside: str = ""


def render(model: str, report: Report) -> str:
    """The table, without colours and at most 80 columns wide but for long paths."""
    head = (
        f"{model}\n{report.precision}, {report.provider}, {_count(report.threads, 'thread')}; "
        f"median [lowest .. highest] of {_count(report.plan.rounds, 'round')}"
    )
    sections = [_latency(report), _decoding(report), _machine(report), _memory(report)]
    if report.contexts:
        sections.insert(2, _contexts(report))
    lines = [[*section] for section in sections]
    names = max(len(line.name) for section in lines for line in section)
    values = max(len(line.value) for section in lines for line in section)
    tables = [
        "\n".join(f"{name:<{names}}  {value:>{values}}  {beside}".rstrip() for name, value, beside in section)
        for section in lines
    ]
    return "\n\n".join([head, *tables, *_remarks(report)])


def _latency(report: Report) -> Iterator[Line]:
    plan = report.plan
    yield Line("load", f"{report.load_s:.2f} s")
    yield _milliseconds(f"first token, prompt of {plan.prompt_tokens}", report.ttft_s)
    yield _milliseconds(f"first token, prompt of {plan.prefill_tokens}", report.long_ttft_s)
    yield _milliseconds("each further token", report.tpot_s)
    yield _line(f"prefill, prompt of {plan.prefill_tokens}", report.prefill_per_s, 1, "tok/s")


def _decoding(report: Report) -> Iterator[Line]:
    for speed in report.decode:
        line = _line(f"decode, {_count(speed.rows, 'row')}", speed.tokens_per_s, 1, "tok/s")
        yield line._replace(beside=f"{line.beside:<22}  {number(1000 * speed.step_s.median)} ms/step")


def _contexts(report: Report) -> Iterator[Line]:
    for speed in report.contexts:
        yield _milliseconds(f"a token at {speed.context} of context", speed.step_s)


def _machine(report: Report) -> Iterator[Line]:
    found = report.bandwidth
    yield _line("memory reads", found.read_bytes_per_s, 1e-9, "GB/s")
    yield Line("weights per step", f"{number(found.step_bytes / 1e6)} MB")
    yield _line("share of memory reads", found.share, 100, "%")
    yield _line("host share, greedy", report.host_share.greedy, 100, "%")
    yield _line("host share, sampling", report.host_share.sampling, 100, "%")


def _memory(report: Report) -> Iterator[Line]:
    memory = report.memory
    yield Line("bundle", f"{number(memory.bundle_bytes / 1e6)} MB")
    yield _resident("resident, loaded", memory.loaded)
    yield _resident(f"resident, {memory.running_tokens} tokens", memory.running)
    yield _resident("peak until then", memory.peak)
    yield _resident("peak of all", memory.measuring_peak)


def _remarks(report: Report) -> Iterator[str]:
    if report.notes:
        yield "\n".join(report.notes)
    others = report.other_processes
    if others is not None and others.median > BUSY:
        yield f"other processes took {others.median:.0%} of the processors: measure again on a quiet machine"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")


def _milliseconds(name: str, figure: Figure) -> Line:
    return _line(name, figure, 1000, "ms")


def _line(name: str, figure: Figure, factor: float, unit: str) -> Line:
    median, lowest, highest = (
        number(factor * value) for value in (figure.median, figure.lowest, figure.highest)
    )
    return Line(name, f"{median} {unit}", f"[{lowest} .. {highest}]")


def _resident(name: str, held: Resident) -> Line:
    if held.held_bytes is None or held.of_bundle is None:
        return Line(name, "not known")
    return Line(name, f"{number(held.held_bytes / 1e6)} MB", f"{held.of_bundle:.2f} x bundle")


def number(value: float) -> str:
    """Three digits at least, and no more behind the point than that takes."""
    size = abs(value)
    places = 0 if size >= 100 else 1 if size >= 10 else 2
    return f"{value:,.{places}f}"

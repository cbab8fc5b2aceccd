"""The whole of it on a real model, small."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import ortgpt
from ortgpt.benchmark import conduct
from ortgpt.benchmark.conduct import measure_model
from ortgpt.benchmark.measuring import GraphTime
from ortgpt.benchmark.plan import Plan
from ortgpt.benchmark.results import Figure
from ortgpt.errors import OrtgptError, ProviderError
from ortgpt.inference import memory

PLAN = Plan(prompt_tokens=6, new_tokens=4, rows=(3,), prefill_tokens=600, contexts=(24, 1000), rounds=2)


@pytest.fixture(scope="module")
def timed(storyteller_bundle: Path) -> Iterator[tuple[ortgpt.Model, GraphTime]]:
    graph_time = GraphTime()
    with ortgpt.load(storyteller_bundle, threads=1, on_run=graph_time.add) as model:
        yield model, graph_time


def figures(value: object) -> Iterator[Figure]:
    if isinstance(value, Figure):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from figures(part)
    elif dataclasses.is_dataclass(value):
        for entry in dataclasses.fields(value):
            yield from figures(getattr(value, entry.name))


def test_a_report_has_all_figures_and_what_was_cut(timed) -> None:
    model, graph_time = timed
    said: list[str] = []
    report = measure_model(model, graph_time, PLAN, on_progress=said.append)
    assert said == ["memory", "warming up", "round 1/2", "round 2/2"]
    assert (report.precision, report.provider, report.threads) == ("fp32", "cpu", 1)
    assert report.load_s == model.load_s > 0
    context = model.manifest.architecture.context
    assert report.plan == dataclasses.replace(
        PLAN, rows=(1, 3), prefill_tokens=context, contexts=(24, context)
    )
    assert report.notes == (
        f"prefill_tokens 600 cut to {context}: the model's context has {context} tokens",
        f"contexts 1000 cut to {context}: the model's context has {context} tokens",
    )
    assert [speed.rows for speed in report.decode] == [1, 3]
    assert [speed.context for speed in report.contexts] == [24, context]
    taken = list(figures(report))
    assert len(taken) == 4 + 2 * 2 + 2 + 2 + 2 + (report.other_processes is not None)
    assert all(one.lowest <= one.median <= one.highest for one in taken)
    assert report.tpot_s == report.decode[0].step_s
    for share in (report.host_share.greedy, report.host_share.sampling):
        assert 0 < share.lowest <= share.highest < 1


def test_a_reports_memory_is_that_of_the_process_beside_the_bundles(timed) -> None:
    model, graph_time = timed
    found = measure_model(model, graph_time, dataclasses.replace(PLAN, rounds=1)).memory
    assert found.bundle_bytes == sum((model.path / name).stat().st_size for name in model.manifest.files)
    assert found.running_tokens == 128
    sizes = [found.loaded, found.running, found.peak, found.measuring_peak]
    assert all(one.of_bundle == one.held_bytes / found.bundle_bytes for one in sizes)
    assert found.peak.held_bytes <= found.measuring_peak.held_bytes


def test_the_array_that_is_read_is_in_no_figure_of_memory(timed, monkeypatch) -> None:
    order: list[str] = []

    class Reader(conduct.ReadBandwidth):
        def __init__(self, *given: object, **options: object) -> None:
            order.append("array")
            super().__init__(*given, **options)

    monkeypatch.setattr(conduct, "ReadBandwidth", Reader)
    monkeypatch.setattr(conduct, "peak_bytes", lambda: order.append("peak") or 1)
    monkeypatch.setattr(conduct, "resident_bytes", lambda: order.append("resident") or 1)
    measure_model(*timed, dataclasses.replace(PLAN, rounds=1))
    assert order == ["resident", "peak", "peak", "array"]


def test_the_array_is_cut_among_the_models_threads(storyteller_bundle, monkeypatch) -> None:
    made: list[tuple[object, ...]] = []

    class Reader(conduct.ReadBandwidth):
        def __init__(self, *given: object, **options: object) -> None:
            made.append(given)
            super().__init__(1 << 16, 1)

    monkeypatch.setattr(conduct, "ReadBandwidth", Reader)
    graph_time = GraphTime()
    with ortgpt.load(storyteller_bundle, threads=2, on_run=graph_time.add) as model:
        measure_model(model, graph_time, dataclasses.replace(PLAN, rounds=1, contexts=()))
    assert made == [(conduct.READ_BYTES, 2)]


def test_a_model_of_few_tokens_is_measured_with_what_it_holds(make_bundle) -> None:
    graph_time = GraphTime()
    with ortgpt.load(make_bundle(n_positions=20), threads=1, on_run=graph_time.add) as model:
        report = measure_model(model, graph_time, Plan(rounds=1, rows=(2,)))
    assert report.memory.running_tokens == 20
    assert (report.plan.prompt_tokens, report.plan.new_tokens, report.plan.prefill_tokens) == (19, 2, 20)
    assert json.dumps(dataclasses.asdict(report), allow_nan=False)


def test_without_room_for_the_array_nothing_is_measured(timed, monkeypatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    said: list[str] = []
    with pytest.raises(ProviderError, match=r"memory is read needs 537 MB, 0 MB are available"):
        measure_model(*timed, PLAN, on_progress=said.append)
    assert said == []


def test_a_model_that_fails_is_an_error_of_the_family(timed, storyteller_bundle) -> None:
    closed = ortgpt.load(storyteller_bundle, threads=1)
    closed.close()
    with pytest.raises(OrtgptError, match="closed"):
        measure_model(closed, GraphTime(), PLAN)

"""The whole of it: memory first, a round to warm up, then the rounds that count."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ortgpt.benchmark import summary
from ortgpt.benchmark.bandwidth import ReadBandwidth
from ortgpt.benchmark.measuring import Clock, GraphTime, Measurer
from ortgpt.benchmark.plan import Plan
from ortgpt.benchmark.resident import peak_bytes, resident_bytes
from ortgpt.benchmark.results import Figure, Memory, Report
from ortgpt.benchmark.rounds import Samples, bandwidth_case, model_cases, take_rounds
from ortgpt.bundle.bundle import open_bundle
from ortgpt.bundle.step_bytes import count_step_bytes
from ortgpt.inference.memory import check_memory

if TYPE_CHECKING:
    from ortgpt.generator import Model

MEMORY_CONTEXT = 128  # tokens
READ_BYTES = 512 << 20  # far more than a processor's caches hold


def measure_model(
    model: Model,
    graph_time: GraphTime,
    plan: Plan,
    *,
    on_progress: Callable[[str], None] = lambda line: None,
    clock: Clock = time.perf_counter,
) -> Report:
    """Measure a model that has just been loaded, with `on_run=graph_time.add`; nothing else should run.

    on_progress  is told in a few words what is done next

    Raises OrtgptError where the model's context is too short, ProviderError where memory is.
    """
    loaded = resident_bytes()
    check_memory(READ_BYTES, "measuring how fast memory is read", "free some memory or raise the limit")
    plan, notes = plan.fit(model.manifest.architecture.context)
    step_bytes = count_step_bytes(open_bundle(model.path, verify=False).read_graph())
    measurer = Measurer(model, graph_time, plan, clock=clock)
    on_progress("memory")
    context = min(MEMORY_CONTEXT, model.manifest.architecture.context)
    running, peak = measurer.resident_while_running(context), peak_bytes()
    on_progress("warming up")
    cases = model_cases(measurer, plan)
    for case in cases:
        case(Samples())
    measuring_peak = peak_bytes()  # before the array comes, which belongs to no model
    with ReadBandwidth(READ_BYTES, model.threads, clock=clock) as reader:
        reader.measure(1)
        samples = take_rounds([*cases, bandwidth_case(reader)], plan.rounds, on_progress)
    size = sum(entry.size for entry in model.manifest.files.values())
    memory = Memory(
        bundle_bytes=size,
        loaded=summary.resident(loaded, size),
        running_tokens=context,
        running=summary.resident(running, size),
        peak=summary.resident(peak, size),
        measuring_peak=summary.resident(measuring_peak, size),
    )
    return _report(model, plan, notes, samples, step_bytes, memory)


def _report(
    model: Model, plan: Plan, notes: tuple[str, ...], samples: Samples, step_bytes: int, memory: Memory
) -> Report:
    alone = samples.decoding[1]
    return Report(
        precision=model.manifest.precision,
        provider=model.provider,
        threads=model.threads,
        plan=plan,
        load_s=model.load_s,
        ttft_s=Figure.of(one.first_s for one in alone),
        tpot_s=summary.step_figure(alone),
        long_ttft_s=Figure.of(samples.long_first_s),
        prefill_per_s=Figure.of(plan.prefill_tokens / seconds for seconds in samples.prefill_s),
        decode=summary.decode_speeds(samples),
        contexts=summary.context_speeds(samples),
        host_share=summary.host_share(samples),
        bandwidth=summary.bandwidth(samples, step_bytes),
        memory=memory,
        other_processes=Figure.of(samples.others) if samples.others else None,
        notes=notes,
    )

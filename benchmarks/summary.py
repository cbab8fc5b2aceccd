"""From samples to figures: medians with spread, ratios paired by round, targets; and their table."""

from __future__ import annotations

import statistics
from typing import Any

from measurement import BANDWIDTH, MEMORY_TOKENS, QUIET, Plan, Samples
from memory import explain
from report import Spread, Target, paired, table

LABELS = {
    "decode_1_row": "decode, 1 row, tokens/s",
    "whole_call": "whole call, 1 row, tokens/s",
    "decode_batch": "decode, batch, tokens/s",
    "prefill": "prefill, tokens/s",
    "load_s": "load, s",
    "import_s": "import, s",
}
LOWER_IS_BETTER = ("load_s", "import_s")
# From the first issue; the figures are judged, the run never fails.
TARGETS = {
    "decode_ratio": Target(">=", 1.8),
    "bandwidth_share": Target(">=", 0.85),
    "peak_memory": Target("<=", 2.3),
}


def summarise(
    plan: Plan, systems: list[str], samples: Samples, stages: dict[str, Any], file_bytes: int
) -> dict[str, Any]:
    """The document that the JSON line holds. systems: ours first. file_bytes: size of our weight file."""
    figures = {name: summarise_figure(name, systems, samples) for name in LABELS}
    bandwidth = summarise_bandwidth(plan, samples)
    memory = summarise_memory(plan, stages, file_bytes)
    reached = {"bandwidth_share": bandwidth["share"].median, "peak_memory": memory["peak_of_file"]}
    if len(systems) > 1:
        reached["decode_ratio"] = figures["decode_1_row"]["ratio"].median
    return {
        "figures": figures,
        "same_tokens": same_tokens(systems, samples),
        "bandwidth": bandwidth,
        "memory": memory,
        "targets": {name: TARGETS[name].judge(value) for name, value in reached.items()},
        "busy_with_others": Spread.of(samples.others),
    }


def summarise_figure(name: str, systems: list[str], samples: Samples) -> dict[str, Spread]:
    """One spread per system, and "ratio": how many times better ours is."""
    taken = samples.figures[name]
    found = {system: Spread.of(taken[system]) for system in systems}
    if len(systems) > 1:
        ours, theirs = (taken[system] for system in systems)
        found["ratio"] = paired(theirs, ours) if name in LOWER_IS_BETTER else paired(ours, theirs)
    return found


def summarise_bandwidth(plan: Plan, samples: Samples) -> dict[str, Any]:
    """What the memory gives, and the share of it that a 1-row decode takes weights at."""
    taken = samples.figures[BANDWIDTH]
    fastest = max(taken, key=lambda kernel: statistics.median(taken[kernel]))
    needed = [rate * plan.shape.bytes_per_token for rate in samples.figures["decode_1_row"]["ortgpt"]]
    return {
        "bytes_per_s": {kernel: Spread.of(values) for kernel, values in taken.items()},
        "fastest": fastest,
        "bytes_per_token": plan.shape.bytes_per_token,
        "share": paired(needed, taken[fastest]),
    }


def summarise_memory(plan: Plan, stages: dict[str, Any], file_bytes: int) -> dict[str, Any]:
    shape = plan.shape
    return {
        "weight_file_bytes": file_bytes,
        "peak_of_file": stages["generated"]["peak"] / file_bytes,
        "loaded_of_file": stages["loaded"]["resident"] / file_bytes,
        "stages": stages,
        "parts": explain(
            stages, matrices=shape.matrix_bytes, table=shape.table_bytes, weights=shape.weight_bytes
        ),
    }


def same_tokens(systems: list[str], samples: Samples) -> float | None:
    """The part of all generated tokens that the systems agree on; None with one system."""
    if len(systems) < 2:
        return None
    agreed: list[bool] = [
        ours == theirs
        for found in samples.tokens.values()
        for rows in zip(*(found[system] for system in systems), strict=True)
        for ours, theirs in zip(*rows, strict=True)
    ]
    return sum(agreed) / len(agreed)


def render(plan: Plan, systems: list[str], summary: dict[str, Any]) -> str:
    """All of it for people."""
    parts = [
        f"GPT-2 {plan.shape.name}, fp32, {plan.threads} threads, median [low .. high] of {plan.rounds}\n"
        f"prompt {plan.prompt_tokens} tokens + {plan.new_tokens} new; batch {plan.batch_rows} rows x "
        f"{plan.batch_tokens} new; prefill {plan.prefill_tokens}",
        render_figures(systems, summary),
        render_bandwidth(summary),
        render_memory(summary),
    ]
    if summary["same_tokens"] is not None:
        parts.append(f"tokens on which the systems agree: {summary['same_tokens']:.1%}")
    others = summary["busy_with_others"]
    warning = "; figures of a busy machine mean little" if others.median > QUIET else ""
    parts.append(
        f"processors busy with other processes: {others.median:.0%}, up to {others.high:.0%}{warning}"
    )
    return "\n\n".join(parts)


def render_figures(systems: list[str], summary: dict[str, Any]) -> str:
    compared = len(systems) > 1
    rows = [["", *systems, *(["times better", "target"] if compared else [])]]
    for name, label in LABELS.items():
        found = summary["figures"][name]
        row = [label, *(str(spread) for spread in found.values())]
        if compared:
            row.append(summary["targets"]["decode_ratio"]["text"] if name == "decode_1_row" else "")
        rows.append(row)
    return table(rows)


def render_bandwidth(summary: dict[str, Any]) -> str:
    found = summary["bandwidth"]
    rows = [["memory reads", "", ""]]
    for kernel, spread in found["bytes_per_s"].items():
        mark = "fastest" if kernel == found["fastest"] else ""
        rows.append([f"  NumPy {kernel}, GB/s", str(spread.scaled(1e-9)), mark])
    rows.append(["  weights per token, GB", f"{found['bytes_per_token'] / 1e9:.4f}", ""])
    target = summary["targets"]["bandwidth_share"]["text"]
    rows.append(["  share that 1-row decode reaches", str(found["share"]), target])
    return table(rows)


def render_memory(summary: dict[str, Any]) -> str:
    found = summary["memory"]
    stages, size = found["stages"], found["weight_file_bytes"]
    rows = [["memory of a fresh ortgpt process", "MB", "of weight file", "files' share, MB", "target"]]
    for stage in ("started", "imported", "loaded", "generated"):
        resident = stages[stage]["resident"]
        mapped = f"{stages[stage]['files'] / 1e6:.0f}"
        rows.append([f"  {stage}", f"{resident / 1e6:.0f}", f"{resident / size:.2f}", mapped, ""])
    peak, target = stages["generated"]["peak"], summary["targets"]["peak_memory"]["text"]
    rows.append(
        [f"  peak, with {MEMORY_TOKENS} tokens", f"{peak / 1e6:.0f}", f"{peak / size:.2f}", "", target]
    )
    rows.append(["of the resident memory at the end", "", "", "", ""])
    for part, nbytes in found["parts"].items():
        rows.append([f"  {part}", f"{nbytes / 1e6:.0f}", f"{nbytes / size:.2f}", "", ""])
    return table(rows)

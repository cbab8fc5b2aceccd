"""From samples to ratios, paired by round, to targets, and to the tables."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from catalogue import CLASSES, System
from footprint import FOOTPRINT_FIGURES
from measurement import BANDWIDTH, QUIET, Samples
from report import Spread, Target, paired, table
from speed import PeerPlan

SPEED_FIGURES = ("decode_1_row", "decode_batch", "prefill", "beam")
FIGURES = (*SPEED_FIGURES, *FOOTPRINT_FIGURES)
# name: (heading, factor from the sample to what the table shows)
HEADINGS: dict[str, tuple[str, float]] = {
    "decode_1_row": ("decode, 1 row, tok/s", 1),
    "decode_batch": ("decode, batch, tok/s", 1),
    "prefill": ("prefill, tok/s", 1),
    "beam": ("beams, tok/s", 1),
    "model_bytes": ("model, MB", 1e-6),
    "installed_bytes": ("installed, MB", 1e-6),
    "peak_bytes": ("peak memory, MB", 1e-6),
    "cold_start_s": ("cold start, s", 1),
}
# How many times the best peer of its class a figure of ours should be, by figure and class.
TARGETS: dict[str, dict[str, float]] = {
    "decode_1_row": {"fp32": 1.0, "int8": 1.1, "int4": 1.25},
    "decode_batch": {"fp32": 1.3, "int8": 1.1, "int4": 1.2},
    "prefill": {"fp32": 1.0, "int8": 1.0, "int4": 0.7},
    "beam": {"fp32": 1.5, "int8": 2.5},
}
# Against a peer that runs on torch: a start in half of its time, a quarter of its packages.
TORCH_TARGETS = {"cold_start_s": 2.0, "installed_bytes": 4.0}
TORCH_PEERS = ("transformers", "optimum-onnx")


def summarise(plan: PeerPlan, systems: Sequence[System], samples: Samples) -> dict[str, Any]:
    """The document that the JSON line holds. "ratios": by ours, peer and figure; above 1 ours is better."""
    ratios = {
        ours.name: {
            peer.name: compare(ours, peer, samples)
            for peer in systems
            if not peer.is_ours and (peer.grade == ours.grade or peer.name in TORCH_PEERS)
        }
        for ours in systems
        if ours.is_ours
    }
    taken = {figure: samples.figures[figure] for figure in FIGURES if samples.figures[figure]}
    return {
        "figures": {
            figure: {name: Spread.of(values) for name, values in found.items()}
            for figure, found in taken.items()
        },
        "ratios": ratios,
        "best_peer": {
            ours.name: best_peers(
                [peer.name for peer in systems if peer.grade == ours.grade], ratios[ours.name]
            )
            for ours in systems
            if ours.is_ours
        },
        "targets": judge(systems, ratios),
        "bandwidth_share": bandwidth_share(plan, systems, samples),
        "busy_with_others": Spread.of(samples.others) if samples.others else None,
    }


def compare(ours: System, peer: System, samples: Samples) -> dict[str, Spread]:
    """How many times better ours is, for every figure of both; speeds of other classes are of other times."""
    found = {}
    for figure in FIGURES if peer.grade == ours.grade else FOOTPRINT_FIGURES:
        taken = samples.figures[figure]
        if ours.name in taken and peer.name in taken:
            better, worse = taken[ours.name], taken[peer.name]
            found[figure] = paired(worse, better) if figure in FOOTPRINT_FIGURES else paired(better, worse)
    return found


def best_peers(names: Sequence[str], ratios: dict[str, dict[str, Spread]]) -> dict[str, str]:
    """By figure, the peer of those names that ours is least ahead of."""
    chosen = {}
    for figure in FIGURES:
        rivals = [name for name in names if figure in ratios.get(name, {})]
        if rivals:
            chosen[figure] = min(rivals, key=lambda name: ratios[name][figure].median)
    return chosen


def judge(systems: Sequence[System], ratios: dict[str, dict[str, dict[str, Spread]]]) -> list[dict[str, Any]]:
    """Every target of every one of ours, against its best peer."""
    judged = []
    for ours in (system for system in systems if system.is_ours):
        members = [system.name for system in systems if system.grade == ours.grade]
        limits = {figure: (members, by[ours.grade]) for figure, by in TARGETS.items() if ours.grade in by}
        limits["installed_bytes"] = (list(TORCH_PEERS), TORCH_TARGETS["installed_bytes"])
        if ours.grade == "int8":
            limits["cold_start_s"] = ([TORCH_PEERS[0]], TORCH_TARGETS["cold_start_s"])
        for figure, (names, limit) in limits.items():
            if peer := best_peers(names, ratios[ours.name]).get(figure):
                value = ratios[ours.name][peer][figure].median
                found = {"ours": ours.name, "figure": figure, "peer": peer}
                judged.append(found | Target(">=", limit).judge(value))
    return judged


def bandwidth_share(plan: PeerPlan, systems: Sequence[System], samples: Samples) -> dict[str, Spread]:
    """The share of the measured bandwidth at which a 1-row decode takes float32 weights."""
    kernels, decoded = samples.figures[BANDWIDTH], samples.figures["decode_1_row"]
    if not kernels or not decoded:
        return {}
    fastest = max(kernels.values(), key=statistics.median)
    return {
        system.name: paired([rate * plan.shape.bytes_per_token for rate in decoded[system.name]], fastest)
        for system in systems
        if system.grade == "fp32" and system.name in decoded
    }


def render(plan: PeerPlan, systems: Sequence[System], summary: dict[str, Any]) -> str:
    """All of it for people."""
    parts = [
        f"GPT-2 {plan.shape.name}, {plan.threads} threads, median of {plan.rounds} rounds\n"
        f"prompt {plan.prompt_tokens} tokens + {plan.new_tokens} new; batch {plan.batch_rows} rows x "
        f"{plan.batch_tokens} new; prefill {plan.prefill_tokens}; {plan.beams} beams, {plan.beam_tokens} new",
        render_figures(systems, summary["figures"]),
        *render_ratios(systems, summary),
        render_targets(summary["targets"]),
    ]
    if shares := summary["bandwidth_share"]:
        rows = [["share of the memory's bandwidth", ""]]
        parts.append(table([*rows, *([f"  {name}", str(share)] for name, share in shares.items())]))
    if others := summary["busy_with_others"]:
        warning = "; figures of a busy machine mean little" if others.median > QUIET else ""
        parts.append(
            f"processors busy with other processes: {others.median:.0%}, up to {others.high:.0%}{warning}"
        )
    return "\n\n".join(part for part in parts if part)


def render_figures(systems: Sequence[System], figures: dict[str, dict[str, Spread]]) -> str:
    rows = [["", *(HEADINGS[figure][0] for figure in figures)]]
    for grade in CLASSES:
        for system in (system for system in systems if system.grade == grade):
            row = [f"{grade:<5} {system.name}"]
            for figure, found in figures.items():
                value = found.get(system.name)
                row.append(shown(value.median * HEADINGS[figure][1]) if value else "")
            rows.append(row)
    return table(rows)


def render_ratios(systems: Sequence[System], summary: dict[str, Any]) -> list[str]:
    """Tables for each of ours, speed and footprint apart: rows are peers of its class and the torch ones."""
    tables = []
    for ours, peers in summary["ratios"].items():
        for group in (SPEED_FIGURES, FOOTPRINT_FIGURES):
            figures = [figure for figure in group if any(figure in found for found in peers.values())]
            if not figures:
                continue
            rows = [[f"{ours} is better by", *(HEADINGS[figure][0].split(", tok")[0] for figure in figures)]]
            for peer, found in peers.items():
                best = summary["best_peer"][ours]
                marks = {figure: "*" if best.get(figure) == peer else " " for figure in figures}
                cells = [f"{found[figure]}{marks[figure]}" if figure in found else "" for figure in figures]
                rows.append([f"  {peer}", *cells])
            tables.append(table(rows))
    return [*tables, "* the best peer of the class"] if tables else []


def render_targets(judged: Sequence[dict[str, Any]]) -> str:
    if not judged:
        return ""
    rows = [["target, times the best peer", "", "", "", ""]]
    rows += [
        [f"  {item['ours']}", HEADINGS[item["figure"]][0], item["peer"], shown(item["value"]), item["text"]]
        for item in judged
    ]
    return table(rows)


def shown(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"

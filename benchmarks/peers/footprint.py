"""What a system takes: bytes on the disk, memory, and the time to its first token, in fresh processes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from catalogue import System
from environments import installed_bytes
from measurement import MEMORY_TOKENS, Samples, say
from remote import RemoteEngine
from speed import PeerPlan, in_turn

FOOTPRINT_FIGURES = ("model_bytes", "installed_bytes", "peak_bytes", "cold_start_s")


def measure_footprint(
    plan: PeerPlan,
    systems: Sequence[System],
    directories: dict[str, Path],
    figures: Sequence[str],
    samples: Samples,
) -> None:
    """Sizes once; peak memory and cold start in `load_rounds` rounds. The files are in the page cache."""
    for system in systems:
        if "model_bytes" in figures:
            samples.figures["model_bytes"][system.name].append(directory_bytes(directories[system.name]))
        if "installed_bytes" in figures:
            samples.figures["installed_bytes"][system.name].append(installed_bytes(system.environment))
    if not {"peak_bytes", "cold_start_s"} & set(figures):
        return
    for number in range(plan.load_rounds + 1):  # round 0 brings the files into the page cache
        say(f"fresh processes {number}/{plan.load_rounds}")
        for system in in_turn(systems, number):
            start, peak = start_afresh(plan, system, directories[system.name], f"{number} fresh")
            if number:
                samples.figures["cold_start_s"][system.name].append(start)
                samples.figures["peak_bytes"][system.name].append(peak)


def start_afresh(plan: PeerPlan, system: System, directory: Path, key: str) -> tuple[float, float]:
    """Seconds from the start of a process to its first token, and its peak bytes 128 tokens later."""
    prompts = plan.fresh_prompts(key, 1, plan.prompt_tokens)
    begin = time.perf_counter()
    with RemoteEngine(system, directory, plan.threads) as engine:
        engine.call("generate", prompts, 1)
        first = time.perf_counter() - begin
        engine.call("generate", prompts, MEMORY_TOKENS)
        return first, engine.call("peak_bytes").value


def directory_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())

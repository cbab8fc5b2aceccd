"""ortgpt beside every peer: speed, memory, sizes and cold start, with the same random weights in each format.

make peers                                                          everything, with the quality before it
python benchmarks/peers/compare.py --only openvino llama --rounds 3     some of the peers
python benchmarks/peers/compare.py --figures prefill --bundle mine=DIR  a bundle of your own

GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python benchmarks/peers/compare.py    all of them in huge pages

Environments, checkpoint and converted models are kept in build/. Progress goes to stderr, tables to stdout,
one JSON line last. A missed target is no failure.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # report.py and its neighbours

from catalogue import HOME, OURS, SYSTEMS, System
from conversions import NotOfferedError, convert
from decode_against_optimum import CACHE, keep
from environments import installed_versions, make_environment
from footprint import FOOTPRINT_FIGURES, measure_footprint
from measurement import Samples, say
from random_checkpoint import Shape, make_checkpoint
from ratios import FIGURES, SPEED_FIGURES, render, summarise
from report import describe_machine, json_line
from speed import PeerPlan, measure_speed

GPT2_SMALL = Shape(layers=12, heads=12, width=768, vocab_size=50257, context=1024, seed=0)
# option: (default, what it is)
NUMBERS: dict[str, tuple[int, str]] = {
    "threads": (len(os.sched_getaffinity(0)), "of each system and of the bandwidth's reductions"),
    "rounds": (9, "each takes every figure once"),
    "prompt-tokens": (32, "before what is decoded"),
    "new-tokens": (64, "decoded in one row"),
    "batch-rows": (8, "of the batch"),
    "batch-tokens": (32, "decoded in each row of the batch"),
    "prefill-tokens": (512, "of the long prompt"),
    "beams": (5, "of the beam search"),
    "beam-tokens": (32, "decoded by the beam search"),
    "load-rounds": (5, "fresh processes per system for cold start and memory"),
    "bandwidth-passes": (7, "over the array, per kernel and round"),
    "attempts": (4, "at a measurement that other processes disturb; the least disturbed counts"),
}


def main() -> None:
    given = parse_arguments()
    numbers = {name.replace("-", "_"): getattr(given, name.replace("-", "_")) for name in NUMBERS}
    plan = PeerPlan(GPT2_SMALL, **numbers)
    systems, directories = prepare(plan.shape, chosen(given.only), given.bundle)
    samples = Samples()
    if footprint := [figure for figure in FOOTPRINT_FIGURES if figure in given.figures]:
        measure_footprint(plan, systems, directories, footprint, samples)
    if speed := [figure for figure in SPEED_FIGURES if figure in given.figures]:
        measure_speed(plan, systems, directories, speed, samples)
    summary = summarise(plan, systems, samples)
    print(render(plan, systems, summary))
    about = {
        "benchmark": "peers",
        "date": datetime.date.today().isoformat(),
        "plan": asdict(plan),
        "machine": describe_machine(()),
        "glibc_tunables": os.environ.get("GLIBC_TUNABLES"),
        "packages": {name: installed_versions(name) for name in sorted({s.environment for s in systems})},
    }
    print(json_line(about | summary))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, (default, meaning) in NUMBERS.items():
        parser.add_argument(
            f"--{name}", type=int, default=default, metavar="N", help=f"{meaning} (default {default})"
        )
    add_system_arguments(parser)
    parser.add_argument(
        "--figures",
        nargs="+",
        choices=FIGURES,
        default=FIGURES,
        metavar="NAME",
        help=f"of {', '.join(FIGURES)}",
    )
    given = parser.parse_args()
    if min(getattr(given, name.replace("-", "_")) for name in NUMBERS) < 1:
        parser.error("numbers must be 1 or more")
    if min(given.new_tokens, given.batch_tokens) < 2:
        parser.error("a decode takes 2 tokens or more")
    return given


def add_system_arguments(parser: argparse.ArgumentParser) -> None:
    """Whom to compare."""
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="WORD", help="systems with one of these words in their names"
    )
    parser.add_argument(
        "--bundle",
        type=named_bundle,
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="one more of ours",
    )


def named_bundle(text: str) -> System:
    """A bundle of ours; its manifest says in which class it competes."""
    name, _, directory = text.partition("=")
    try:
        manifest = json.loads((Path(directory) / "manifest.json").read_text())
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text}: not NAME=DIR with a bundle in DIR ({error})") from None
    grades = {"fp32": "fp32", "int4": "int4"}
    grade = grades.get(manifest["precision"], "int8")
    return System(name, "ortgpt_engine", OURS, str(Path(directory).resolve()), grade)


def chosen(words: Sequence[str]) -> list[System]:
    """The systems with one of the words in their names, or all."""
    found = [
        system
        for system in SYSTEMS
        if not words or any(word.lower() in system.name.lower() for word in words)
    ]
    if not found:
        raise SystemExit(f"error: no system is called {' or '.join(words)}")
    return found


def prepare(
    shape: Shape, systems: Sequence[System], bundles: Sequence[System]
) -> tuple[list[System], dict[str, Path]]:
    """Checkpoint, environments and models; the systems that can run, and their models' directories."""
    checkpoint = CACHE / shape.name / "checkpoint"
    keep(checkpoint, partial(make_checkpoint, shape=shape), "making the checkpoint")
    return convert_for(systems, bundles, checkpoint, HOME / "models" / shape.name)


def convert_for(
    systems: Sequence[System], bundles: Sequence[System], checkpoint: Path, home: Path
) -> tuple[list[System], dict[str, Path]]:
    """What `prepare` returns, for any checkpoint."""
    directories: dict[str, Path] = {}
    for system in systems:
        make_environment(system.environment)
        try:
            directories[system.name] = convert(system.model, checkpoint, home)
        except NotOfferedError:
            say(f"left out: `ortgpt export` of this checkout does not know the precision of {system.name}")
    for system in bundles:
        make_environment(system.environment)
        directories[system.name] = Path(system.model)
    return [system for system in [*systems, *bundles] if system.name in directories], directories


if __name__ == "__main__":
    main()

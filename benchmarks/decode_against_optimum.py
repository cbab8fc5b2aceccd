"""Greedy decoding by ortgpt and by optimum-onnx side by side, and how far the memory lets it go.

python benchmarks/decode_against_optimum.py        GPT-2 small's shape; needs the extra "optimum"
python benchmarks/decode_against_optimum.py --layers 2 --width 64 --rounds 2        a try-out

Progress goes to stderr, tables to stdout, one JSON line last. A missed target is no failure.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, fields
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from engines import EXPORTS
from measurement import Plan, Samples, measure_loading, measure_memory, measure_speed, say
from random_checkpoint import BYTES, Shape, make_checkpoint
from report import describe_machine, json_line
from summary import render, summarise
from workers import run_apart

CACHE = Path(__file__).resolve().parents[1] / "build" / "bench"
WEIGHTS_NAME = "decoder.onnx.data"
PACKAGES = ("ortgpt", "onnxruntime", "numpy", "optimum-onnx", "optimum", "transformers", "torch")
# option: (default, what it is)
NUMBERS: dict[str, tuple[int | None, str]] = {
    "layers": (12, "of the random model"),
    "width": (768, "of its hidden states"),
    "heads": (None, "width / 64 unless given"),
    "vocab-size": (50257, "its vocabulary"),
    "context": (1024, "its context"),
    "seed": (0, "of weights and prompts"),
    "threads": (len(os.sched_getaffinity(0)), "of each system and of the bandwidth's reductions"),
    "rounds": (9, "each takes every figure once"),
    "prompt-tokens": (32, "before what is decoded"),
    "new-tokens": (64, "decoded in one row"),
    "batch-rows": (8, "of the batch"),
    "batch-tokens": (32, "decoded in each row of the batch"),
    "prefill-tokens": (512, "of the long prompt"),
    "load-rounds": (3, "fresh processes per system for the load time"),
    "bandwidth-passes": (7, "over the array, per kernel and round"),
    "attempts": (6, "at a measurement that other processes disturb; the least disturbed counts"),
}


def main() -> None:
    plan, systems = parse_arguments(__doc__)
    directories = prepare(plan.shape, systems)
    samples = Samples()
    measure_loading(plan, directories, samples)
    measure_speed(plan, directories, samples)
    bundle = directories["ortgpt"]
    stages = measure_memory(plan, bundle)
    summary = summarise(plan, systems, samples, stages, (bundle / WEIGHTS_NAME).stat().st_size)
    print(render(plan, systems, summary))
    about = {
        "benchmark": "decode_against_optimum",
        "plan": asdict(plan),
        "machine": describe_machine(PACKAGES),
    }
    print(json_line(about | summary))


def parse_arguments(about: str | None, *, needs_optimum: bool = False) -> tuple[Plan, list[str]]:
    """The plan and the systems, ours first. about: the script, for --help."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, (default, meaning) in NUMBERS.items():
        shown = "" if default is None else f" (default {default})"
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=meaning + shown)
    if not needs_optimum:
        parser.add_argument("--no-optimum", action="store_true", help="take ortgpt's figures alone")
    given = vars(parser.parse_args())
    if min(given[name.replace("-", "_")] or 1 for name in NUMBERS if name != "seed") < 1:
        parser.error("numbers must be 1 or more")
    if min(given["new_tokens"], given["batch_tokens"]) < 2:
        parser.error("a decode takes 2 tokens or more")
    if given["vocab_size"] <= BYTES:
        parser.error(f"--vocab-size must be more than {BYTES}")
    no_optimum = given.get("no_optimum", False)
    if not no_optimum and find_spec("optimum") is None:
        instead = "" if needs_optimum else ", or --no-optimum"
        parser.error(f"optimum-onnx is missing: pip install 'ortgpt[optimum]'{instead}")
    given["heads"] = given["heads"] or max(1, given["width"] // 64)
    shape = Shape(**{field.name: given[field.name] for field in fields(Shape)})
    plan = Plan(shape, **{field.name: given[field.name] for field in fields(Plan) if field.name != "shape"})
    return plan, ["ortgpt"] if no_optimum else ["ortgpt", "optimum"]


def prepare(shape: Shape, systems: list[str]) -> dict[str, Path]:
    """The exported models. Checkpoint and optimum's model are kept from run to run, ours is not."""
    home = CACHE / shape.name
    checkpoint = home / "checkpoint"
    keep(checkpoint, partial(make_checkpoint, shape=shape), "making the checkpoint")
    for system in systems:
        export = partial(run_apart, EXPORTS[system], checkpoint)
        if system == "ortgpt":
            say("exporting with ortgpt")
            export(home / system)
        else:
            keep(home / system, export, f"exporting with {system}")
    return {system: home / system for system in systems}


def keep(directory: Path, make: Callable[[Path], None], purpose: str) -> None:
    """Let make() fill a directory that is not there yet; a half-made one is never taken for it."""
    if directory.exists():
        return
    say(purpose)
    unfinished = directory.with_name(directory.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    make(unfinished)
    unfinished.rename(directory)


if __name__ == "__main__":
    main()

"""Greedy decoding of one and the same graph, as Optimum writes it, by ortgpt and by optimum-onnx.

python benchmarks/portable_against_optimum.py      GPT-2 small's shape; needs ortgpt[optimum]
python benchmarks/portable_against_optimum.py --layers 2 --width 64 --rounds 2        a try-out

Both read the same file: `ortgpt adopt` adds a manifest to the directory and changes nothing else. Progress
goes to stderr, tables to stdout, one JSON line last. A missed target is no failure.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from decode_against_optimum import CACHE, PACKAGES, keep, parse_arguments
from engines import EXPORTS
from measurement import QUIET, Plan, Samples, measure_loading, measure_speed, say
from random_checkpoint import Shape, make_checkpoint
from report import Spread, Target, describe_machine, json_line, table
from summary import LABELS, same_tokens, summarise_figure
from workers import run_apart

SYSTEMS = ["ortgpt", "optimum"]
TARGET = Target(">=", 1.5)  # of decode, 1 row


def main() -> None:
    plan, _ = parse_arguments(__doc__, needs_optimum=True)
    directory = prepare(plan.shape)
    directories = dict.fromkeys(SYSTEMS, directory)
    samples = Samples()
    measure_loading(plan, directories, samples)
    measure_speed(plan, directories, samples)
    summary = summarise(samples)
    print(render(plan, summary))
    about = {
        "benchmark": "portable_against_optimum",
        "plan": asdict(plan),
        "machine": describe_machine(PACKAGES),
    }
    print(json_line(about | summary))


def prepare(shape: Shape) -> Path:
    """Optimum's export, kept from run to run, with a manifest."""
    home = CACHE / shape.name
    checkpoint, directory = home / "checkpoint", home / "optimum"
    keep(checkpoint, partial(make_checkpoint, shape=shape), "making the checkpoint")
    keep(directory, partial(run_apart, EXPORTS["optimum"], checkpoint), "exporting with optimum")
    say("adopting")
    run_apart(adopt, directory)
    return directory


def adopt(directory: Path) -> None:
    from ortgpt.adoption.adopt import adopt

    adopt(directory, force=True)


def summarise(samples: Samples) -> dict[str, Any]:
    """The document that the JSON line holds."""
    figures = {name: summarise_figure(name, SYSTEMS, samples) for name in LABELS}
    return {
        "figures": figures,
        "same_tokens": same_tokens(SYSTEMS, samples),
        "target": TARGET.judge(figures["decode_1_row"]["ratio"].median),
        "busy_with_others": Spread.of(samples.others),
    }


def render(plan: Plan, summary: dict[str, Any]) -> str:
    """All of it for people."""
    rows = [["", *SYSTEMS, "times better", "target"]]
    for name, label in LABELS.items():
        target = summary["target"]["text"] if name == "decode_1_row" else ""
        rows.append([label, *(str(spread) for spread in summary["figures"][name].values()), target])
    others = summary["busy_with_others"]
    warning = "; figures of a busy machine mean little" if others.median > QUIET else ""
    return "\n\n".join(
        [
            f"GPT-2 {plan.shape.name}, fp32, one graph by Optimum, {plan.threads} threads, median "
            f"[low .. high] of {plan.rounds}\n"
            f"prompt {plan.prompt_tokens} tokens + {plan.new_tokens} new; batch {plan.batch_rows} rows x "
            f"{plan.batch_tokens} new; prefill {plan.prefill_tokens}",
            table(rows),
            f"tokens on which the systems agree: {summary['same_tokens']:.1%}",
            f"processors busy with other processes: {others.median:.0%}, up to {others.high:.0%}{warning}",
        ]
    )


if __name__ == "__main__":
    main()

"""Where a run of the graph spends its time: microseconds by operator, from onnxruntime's own profile.

python benchmarks/operators.py BUNDLE                          a step of one row
python benchmarks/operators.py BUNDLE --rows 8
python benchmarks/operators.py BUNDLE --tokens 512             a prefill

Profiling slows a run by some percent; the shares count. A table, and one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from report import describe_machine, json_line, table

import ortgpt

PAST = 64  # tokens that a row holds before the steps


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rows", type=int, default=1, metavar="N")
    parser.add_argument("--tokens", type=int, default=1, metavar="N", help="new ones of each row (default 1)")
    parser.add_argument("--runs", type=int, default=40, metavar="N")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), metavar="N")
    given = parser.parse_args()
    events = profile(given)
    runs = [event for event in events if event["name"] == "model_run"][-given.runs :]
    spent, nodes = Counter[str](), Counter[str]()
    for event in events:
        if event.get("cat") == "Node" and "kernel_time" in event["name"] and event["ts"] >= runs[0]["ts"]:
            spent[event["args"]["op_name"]] += event["dur"]
            nodes[event["args"]["op_name"]] += 1
    operators = {
        name: {"us": total / len(runs), "nodes": nodes[name] // len(runs)}
        for name, total in spent.most_common()
    }
    whole = statistics.median(run["dur"] for run in runs)
    rows = [[name, f"{one['us']:,.0f}", str(one["nodes"])] for name, one in operators.items()]
    print(table([["operator", "us a run", "nodes"], *rows, ["whole run", f"{whole:,.0f}", ""]]))
    about = {
        "benchmark": "operators",
        "bundle": given.bundle.name,
        "rows": given.rows,
        "tokens": given.tokens,
    }
    machine = describe_machine(("ortgpt", "onnxruntime"))
    print(json_line(about | {"run_us": whole, "operators": operators, "machine": machine}))


def profile(given: argparse.Namespace) -> list[dict[str, Any]]:
    """onnxruntime's events of a few runs to warm up and then of the runs that count."""
    make = onnxruntime.InferenceSession

    def make_profiled(graph: bytes, options: Any, **rest: Any) -> Any:
        options.enable_profiling = True
        options.profile_file_prefix = f"/tmp/operators-{os.getpid()}"
        made.append(make(graph, options, **rest))
        return made[-1]

    made: list[Any] = []
    onnxruntime.InferenceSession = make_profiled
    rng = np.random.default_rng(0)
    with ortgpt.load(
        given.bundle, threads=given.threads, verify=False, prefill_chunk=max(256, given.rows)
    ) as model:
        decoder, vocab_size = model.decoder(given.rows), model.manifest.architecture.tokenizer_size
        past = PAST if given.tokens == 1 else 0
        if past:
            decoder.extend(rng.integers(0, vocab_size, (given.rows, past)))
        for _ in range(given.runs + 3):
            decoder.extend(rng.integers(0, vocab_size, (given.rows, given.tokens)))
            decoder.trim([past] * given.rows)
    path = Path(made[0].end_profiling())
    events: list[dict[str, Any]] = json.loads(path.read_text())
    path.unlink()
    return events


if __name__ == "__main__":
    main()

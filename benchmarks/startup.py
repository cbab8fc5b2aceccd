"""How long whole processes take: importing ortgpt, its help, the first token of a cold start.

python benchmarks/startup.py --python .venv-lean/bin/python

Progress goes to stderr, the table to stdout, one JSON line last. A missed target is no failure.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from report import Spread, Target, describe_machine, json_line, table

REPOSITORY = Path(__file__).resolve().parents[1]
BARE = "python -c pass"
TARGETS = {"import ortgpt": Target("<", 0.35), "ortgpt --help": Target("<", 0.5)}


def main() -> None:
    given = parse_arguments()
    commands = make_commands(given.python, given.bundle)
    costs = measure(commands, given.warmups, given.runs)
    figures = {name: summarise(costs[name], costs[BARE]) for name in commands}
    targets = {name: target.judge(figures[name]["whole"].median) for name, target in TARGETS.items()}
    print(f"whole processes of {given.python}, seconds, median [low .. high] of {given.runs} runs\n")
    print(render(figures, targets))
    document = {
        "benchmark": "startup",
        "runs": given.runs,
        "machine": describe_machine(()) | {"python": python_version(given.python)},
        "figures": figures,
        "targets": targets,
    }
    print(json_line(document))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", default=sys.executable, help="interpreter of the environment to measure")
    parser.add_argument(
        "--bundle",
        type=Path,
        default=REPOSITORY / "models" / "storyteller-fp32",
        help="loaded for the first token (default: models/storyteller-fp32, which `make demo` exports)",
    )
    parser.add_argument("--runs", type=int, default=11, help="timed runs of each command (default 11)")
    parser.add_argument("--warmups", type=int, default=2, help="runs before these (default 2)")
    given = parser.parse_args()
    if given.runs < 1 or given.warmups < 0:
        parser.error("--runs must be 1 or more, --warmups 0 or more")
    if not given.bundle.is_dir():
        parser.error(f"there is no bundle at {given.bundle}: `make demo` exports it, or give --bundle")
    return given


def make_commands(python: str, bundle: Path) -> dict[str, list[str]]:
    """What is timed, by the name in the table."""
    ortgpt = str(Path(python).absolute().parent / "ortgpt")  # absolute(): a link's own folder has the scripts
    return {
        BARE: [python, "-c", "pass"],
        "import ortgpt": [python, "-c", "import ortgpt"],
        "ortgpt --version": [ortgpt, "--version"],
        "ortgpt --help": [ortgpt, "--help"],
        "ortgpt generate, first token": [
            *(ortgpt, "generate", "Once", "-m", str(bundle), "--max-new-tokens", "1"),
        ],
    }


class Cost(NamedTuple):
    """Seconds of one process: on the clock and on the processors."""

    whole: float
    processor: float


def measure(commands: dict[str, list[str]], warmups: int, runs: int) -> dict[str, list[Cost]]:
    """What each run of each command cost, in turn."""
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    for number in range(-warmups, runs):
        say(f"run {number + 1}/{runs}" if number >= 0 else "warming up")
        for name, command in commands.items():
            begin, processor_begin = time.perf_counter(), processor_seconds_of_children()
            run(command)
            cost = Cost(time.perf_counter() - begin, processor_seconds_of_children() - processor_begin)
            if number >= 0:
                costs[name].append(cost)
    return costs


def processor_seconds_of_children() -> float:
    """Of all that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run(command: list[str]) -> str:
    """Its stdout; what it says on stderr is shown if it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        raise SystemExit(
            f"error: {command[0]} is missing: install ortgpt there, or choose --python"
        ) from None
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"error: {' '.join(command)} failed\n{error.stderr}") from None


def python_version(python: str) -> str:
    return run([python, "-c", "import platform; print(platform.python_version())"]).strip()


def summarise(costs: list[Cost], bare: list[Cost]) -> dict[str, Spread]:
    """Of a command; beyond_bare: without what an empty process of the same run took."""
    return {
        "whole": Spread.of([cost.whole for cost in costs]),
        "beyond_bare": Spread.of([a.whole - b.whole for a, b in zip(costs, bare, strict=True)]),
        "processor": Spread.of([cost.processor for cost in costs]),
    }


def render(figures: dict[str, dict[str, Spread]], targets: dict[str, Any]) -> str:
    rows = [["", "whole process", f"beyond {BARE}", "processor time", "target"]]
    for name, found in figures.items():
        beyond = str(found["beyond_bare"]) if name != BARE else ""
        target = targets[name]["text"] if name in targets else ""
        rows.append([name, str(found["whole"]), beyond, str(found["processor"]), target])
    return table(rows)


def say(line: str) -> None:
    """Progress, for people."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

"""Reference results that only transformers 4.49 gives: contrastive search and diverse beams.

    python -m venv /path/of/its/own
    <venv>/bin/pip install torch==2.13.0
    <venv>/bin/pip install -r tests/goldens/requirements.txt
    <venv>/bin/python tests/goldens/make_goldens.py

Writes contrastive.json, diverse_beams.json and beams449.json beside itself, or only those named (without
.json) on the command line. Every result is compared with slow_search.py before it is written.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import transformers
from beam_cases import (
    DIVERSE,
    ROUNDING,
    BeamRun,
    batch_runs,
    diverse_runs,
    finished_group_runs,
    make_case,
    plain_runs,
)
from references import ENDS, NEUTRAL, PROMPTS, Reference, load_references, make_key, write_goldens
from slow_search import beam_search, contrastive_search

NEW_TOKENS = {"storyteller": 64, "even": 40, "odd": 40}
ALPHAS, COUNTS = (0.2, 0.6, 0.9, 1.0), (1, 2, 4, 8)
GRID_PROMPTS = {
    "storyteller": ("one", "king", "ever", "long"),
    "even": ("one", "run", "long"),
    "odd": ("words", "run", "long"),
}
PROCESSORS: list[dict[str, Any]] = [
    {"repetition_penalty": 1.3},
    {"no_repeat_ngram_size": 2},
    {"min_new_tokens": 20},
    {"no_repeat_ngram_size": 3, "repetition_penalty": 1.1, "min_new_tokens": 12},
]

ContrastiveRun = tuple[str, list[str], float, int, str, dict[str, Any]]


def contrastive_runs() -> Iterator[ContrastiveRun]:
    """(model, prompts, alpha, k, ends, processors)"""
    for model, prompts in GRID_PROMPTS.items():
        for prompt in prompts:
            for alpha in ALPHAS:
                yield from ((model, [prompt], alpha, count, "end", {}) for count in COUNTS)
            yield model, [prompt], 0.6, 4, "none", {}
        for i, prompt in enumerate(PROMPTS[model]):
            for j, processors in enumerate(PROCESSORS):
                end = ("period", "marks", "end")[(i + j) % 3]
                yield model, [prompt], (0.6, 0.9)[(i + j) % 2], (4, 8, 2)[(i + j) % 3], end, processors
            yield model, [prompt], 0.6, 4, "period", {}
        rows = list(PROMPTS[model])
        yield model, rows, 0.6, 4, "period", {}
        yield model, rows, 0.9, 8, "end", {}
        yield model, rows[:2], 1.0, 2, "none", {"no_repeat_ngram_size": 2}
        yield model, rows[1:3], 0.6, 4, "marks", {"repetition_penalty": 1.3, "min_new_tokens": 8}


def contrastive_case(reference: Reference, run: ContrastiveRun) -> tuple[str, dict[str, Any]]:
    model, prompts, alpha, count, end, processors = run
    options = {
        "penalty_alpha": alpha,
        "top_k": count,
        "max_new_tokens": NEW_TOKENS[model],
        "eos_token_id": ENDS[model][end],
        "pad_token_id": NEUTRAL[model],
        **processors,
    }
    key = make_key(model, prompts, {"alpha": alpha, "k": count, "end": end, **processors})
    ids = [reference.prompts[name] for name in prompts]
    sequences, _ = reference.generate(ids, options)
    found = [contrastive_search(reference.forward, prompt, options) for prompt in ids]
    for slow, sequence in zip(found, sequences, strict=True):
        if slow.sequences != [sequence]:
            if slow.margin > ROUNDING:
                raise AssertionError(f"{key}: {slow} is not {sequence}")
            print(f"rounding decides (margin {slow.margin:.1e}): {key}")
    margins = [float(f"{slow.margin:.3g}") for slow in found]
    case = {"margins": margins, "model": model, "options": options, "prompts": prompts}
    return key, {**case, "sequences": sequences}


def diverse_case(reference: Reference, run: BeamRun) -> dict[str, Any]:
    """With a neutral padding id the search must be the one in which finished groups choose nothing."""
    case = make_case(reference, run, "4.49")
    if run.labels["pad"] == "neutral":
        for row, name in enumerate(run.prompts):
            options = {**run.options, "pad_token_id": None}
            plain = beam_search(reference.forward, reference.prompts[name], options, "4.49")
            count = run.options["num_return_sequences"]
            same = plain.sequences == case["sequences"][row * count : (row + 1) * count]
            if not same and plain.margin > ROUNDING:
                raise AssertionError(f"{run.key}: the padding id is not neutral")
    return case


def contrastive_cases(references: dict[str, Reference]) -> dict[str, Any]:
    return dict(contrastive_case(references[run[0]], run) for run in contrastive_runs())


def diverse_cases(references: dict[str, Reference]) -> dict[str, Any]:
    runs = [*diverse_runs(150), *finished_group_runs(), *batch_runs(DIVERSE, 16, seed=4490)]
    return {run.key: diverse_case(references[run.model], run) for run in runs}


def plain_cases(references: dict[str, Reference]) -> dict[str, Any]:
    runs = [run for run in plain_runs() if run.options["num_beams"] > 1]
    return {run.key: make_case(references[run.model], run, "4.49") for run in runs}


FILES = {
    "contrastive": (contrastive_cases, "contrastive search of transformers 4.49"),
    "diverse_beams": (diverse_cases, "diverse beam search of transformers 4.49"),
    "beams449": (plain_cases, "beam search of transformers 4.49"),
}


def main() -> None:
    if transformers.__version__ != "4.49.0":
        raise SystemExit("error: this needs transformers 4.49.0; the header says how to get it")
    references = load_references()
    for name in sys.argv[1:] or FILES:
        make_cases, about = FILES[name]
        write_goldens(name, references, make_cases(references), about)


if __name__ == "__main__":
    main()

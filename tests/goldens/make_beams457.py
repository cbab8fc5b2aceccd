"""Reference results of beam search in transformers 4.57: `python tests/goldens/make_beams457.py`.

Runs in the development environment and writes beams457.json beside itself. Every result is compared
with slow_search.py before it is written.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import transformers
from beam_cases import PLAIN, BeamRun, batch_runs, build_case, make_case, plain_runs
from references import Reference, load_references, write_goldens
from slow_search import contrastive_search
from transformers import GenerationConfig
from transformers.generation.configuration_utils import GenerationMode


def plain_case(reference: Reference, run: BeamRun) -> dict[str, Any]:
    """generate takes one beam for greedy search, which has no score: its beam code is asked for by force."""
    search = run.labels.get("search")
    if search == "greedy":
        return greedy_case(reference, run)
    forced = patch.object(GenerationConfig, "get_generation_mode", lambda *_: GenerationMode.BEAM_SEARCH)
    with forced if search == "beam" else nullcontext():
        return make_case(reference, run, "4.57")


def greedy_case(reference: Reference, run: BeamRun) -> dict[str, Any]:
    """Greedy search is contrastive search with one candidate; processors see logits here."""
    prompts = [reference.prompts[name] for name in run.prompts]
    sequences, scores = reference.generate(prompts, run.options)
    options = {**run.options, "penalty_alpha": 0.0, "top_k": 1}
    found = [contrastive_search(reference.forward, prompt, options) for prompt in prompts]
    return build_case(run, found, sequences, scores)


def main() -> None:
    if not transformers.__version__.startswith("4.57."):
        raise SystemExit("error: this needs transformers 4.57, as constraints-dev.txt has it")
    references = load_references()
    runs = [*plain_runs(), *batch_runs(PLAIN, 20, seed=4570)]
    cases = {run.key: plain_case(references[run.model], run) for run in runs}
    write_goldens("beams457", references, cases, "beam search of transformers 4.57")


if __name__ == "__main__":
    main()

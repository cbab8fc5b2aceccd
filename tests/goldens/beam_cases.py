"""Which beam searches the golden scripts run, and how one becomes a case of a JSON file."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from references import ENDS, NEUTRAL, PROMPTS, Ids, Options, Reference, make_key
from slow_search import Found, beam_search

Labels = dict[str, Any]

# Below this margin two right implementations may part: their logits differ by rounding.
ROUNDING = 1e-4
SOLO_CASES, CASES_OF_449 = 150, 60

PLACES = [(model, prompt) for model, prompts in PROMPTS.items() for prompt in prompts]
PLAIN = {
    "place": PLACES,
    "beams": [1, 2, 3, 4, 5, 6, 7, 8],
    "length": [-1.0, 0.0, 0.8, 1.0, 2.0],
    "early": [True, False, "never"],
    "return": ["one", "all"],
    "ngram": [0, 2],
    "repetition": [1.0, 1.3],
    "min": [0, 10],
    "end": ["end", "none", "period", "period", "marks", "marks"],  # twice: these do finish
    "new": [24, 32, 40],
}
DIVERSE = {
    "place": PLACES,
    "shape": [(2, 2), (4, 2), (6, 3), (6, 2), (8, 4)],  # beams, groups
    "diversity": [0.2, 0.5, 1.0, 5.0],
    "length": [0.0, 0.5, 1.0, 2.0, -1.0],
    "early": [True, False, "never"],
    "return": ["one", "all"],
    "ngram": [0, 2],
    "repetition": [1.0, 1.3],
    "min": [0, 10],
    "end": ["end", "none", "period", "period", "marks", "marks"],
    "pad": ["end", "neutral"],
    "new": [24, 32],
}


@dataclass(frozen=True)
class BeamRun:
    """One call of generate: a model, its prompts, the options that the labels of the key stand for."""

    model: str
    prompts: list[str]
    labels: Labels
    options: Options

    @property
    def key(self) -> str:
        return make_key(self.model, self.prompts, self.labels)


def covering(dimensions: dict[str, list[Any]], count: int, seed: int) -> Iterator[Labels]:
    """Choices of one value per dimension: each the one of 40 random ones with most new pairs of values."""
    rng, seen = random.Random(seed), set[Any]()

    def pairs(choice: Labels) -> set[Any]:
        return set(combinations(choice.items(), 2))

    for _ in range(count):
        drawn = [{name: rng.choice(values) for name, values in dimensions.items()} for _ in range(40)]
        best = max(drawn, key=lambda choice: len(pairs(choice) - seen))
        seen |= pairs(best)
        yield best


def plain_runs() -> list[BeamRun]:
    """Solo beam searches; for one beam, twice: as generate does it (greedy) and as a beam search of one."""
    runs = []
    for choice in covering(PLAIN, SOLO_CASES, seed=457):
        (model, prompt), labels = choice["place"], without(choice, "place")
        if labels["beams"] == 1:
            runs.append(make_run(model, [prompt], {**labels, "search": "greedy"}))
            labels = {**labels, "search": "beam"}
        runs.append(make_run(model, [prompt], labels))
    return runs


def batch_runs(dimensions: dict[str, list[Any]], count: int, seed: int) -> list[BeamRun]:
    """Batches of prompts of unequal length, padded with an id that matters to no processor."""
    dimensions = {**without(dimensions, "place"), "model": list(PROMPTS), "rows": [2, 3, 4]}
    if "beams" in dimensions:
        dimensions["beams"] = dimensions["beams"][1:]
    rng, runs = random.Random(seed), []
    for choice in covering(dimensions, count, seed):
        prompts = rng.sample(list(PROMPTS[choice["model"]]), choice["rows"])
        labels = {**without(choice, "model", "rows"), "pad": "neutral"}
        runs.append(make_run(choice["model"], prompts, labels))
    return runs


def diverse_runs(count: int) -> list[BeamRun]:
    return [
        make_run(choice["place"][0], [choice["place"][1]], without(choice, "place"))
        for choice in covering(DIVERSE, count, seed=449)
    ]


def without(choice: Labels, *names: str) -> Labels:
    return {name: value for name, value in choice.items() if name not in names}


def make_run(model: str, prompts: list[str], labels: Labels) -> BeamRun:
    ends = ENDS[model][labels["end"]]
    first = ends[0] if ends else 0
    options: Options = {
        "length_penalty": labels["length"],
        "early_stopping": labels["early"],
        "max_new_tokens": labels["new"],
        "no_repeat_ngram_size": labels["ngram"],
        "repetition_penalty": labels["repetition"],
        "min_new_tokens": labels["min"],
        "eos_token_id": ends,
        "pad_token_id": NEUTRAL[model] if labels.get("pad") == "neutral" else first,
    }
    if "shape" in labels:
        beams, groups = labels["shape"]
        options |= {"num_beam_groups": groups, "diversity_penalty": labels["diversity"]}
        labels = {"beams": beams, "groups": groups, **without(labels, "shape")}
    beams = labels["beams"]
    options |= {"num_beams": beams, "num_return_sequences": beams if labels["return"] == "all" else 1}
    return BeamRun(model, prompts, labels, options)


def make_case(reference: Reference, run: BeamRun, release: str) -> dict[str, Any]:
    """Run it, compare with the slow search prompt by prompt, and return what goes into the file."""
    prompts = [reference.prompts[name] for name in run.prompts]
    sequences, scores = reference.generate(prompts, run.options)
    found = [beam_search(reference.forward, prompt, run.options, release) for prompt in prompts]
    if release == "4.49":
        sequences = restore_ends(sequences, found, run.options["eos_token_id"] or [])
    return build_case(run, found, sequences, scores)


def restore_ends(sequences: list[Ids], found: list[Found], ends: Ids) -> list[Ids]:
    """4.49 writes the first end id at the end of every finished text: put back the one that was chosen."""
    chosen = [ids for slow in found for ids in slow.sequences]
    return [
        slow if slow[-1] in ends and ids == [*slow[:-1], ends[0]] else ids
        for ids, slow in zip(sequences, chosen, strict=True)
    ]


def build_case(
    run: BeamRun, found: list[Found], sequences: list[Ids], scores: list[float] | None
) -> dict[str, Any]:
    check(run, found, sequences, scores)
    return {
        "margins": [float(f"{slow.margin:.3g}") for slow in found],
        "model": run.model,
        "options": run.options,
        "prompts": run.prompts,
        "scores": scores,
        "search": run.labels.get("search", "beam"),
        "sequences": sequences,
    }


def check(run: BeamRun, found: list[Found], sequences: list[Ids], scores: list[float] | None) -> None:
    """The slow search, which sees no batch, must agree wherever rounding cannot be the reason."""
    count = run.options["num_return_sequences"]
    for row, slow in enumerate(found):
        part = slice(row * count, (row + 1) * count)
        same = slow.sequences == sequences[part]
        if same and scores is not None:
            # Relative: a negative length penalty multiplies by the length, to sums in the thousands.
            same = all(
                abs(a - b) < ROUNDING * max(1, abs(b)) for a, b in zip(slow.scores, scores[part], strict=True)
            )
        if not same and slow.margin > ROUNDING:
            raise AssertionError(f"{run.key}, row {row}: {slow} is not {sequences[part]}, {scores}")
        if not same:
            print(f"rounding decides (margin {slow.margin:.1e}): {run.key}, row {row}")

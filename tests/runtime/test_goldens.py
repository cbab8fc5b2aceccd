"""Searches against results recorded from transformers (tests/goldens says how)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import ortgpt

MakeBundle = Callable[..., Path]

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"
CLOSE = 1e-5  # a margin below this in the reference itself decides nothing
MODELS = ("even", "odd", "storyteller", "storyteller via optimum")
OURS = ("max_new_tokens", "min_new_tokens", "no_repeat_ngram_size", "repetition_penalty")


class Subject(NamedTuple):
    """A model by its name in the goldens; every stride-th case is checked, since one dialect is slow."""

    name: str
    loaded: ortgpt.Model
    stride: int


def read(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((GOLDENS / f"{name}.json").read_text())
    return data


def prompt_ids(goldens: dict[str, Any], case: dict[str, Any]) -> list[list[int]]:
    return [goldens["meta"]["prompts"][case["model"]][name]["ids"] for name in case["prompts"]]


def shared_options(case: dict[str, Any]) -> dict[str, Any]:
    options = {name: case["options"][name] for name in OURS if name in case["options"]}
    ends = case["options"].get("eos_token_id")
    return {**options, "stop_token_ids": [] if ends is None else ends}


@pytest.fixture(scope="module", params=MODELS)
def model(
    request: pytest.FixtureRequest,
    make_bundle: MakeBundle,
    storyteller_bundle: Path,
    storyteller_via_optimum: Path,
) -> Iterator[Subject]:
    config = {
        "even": {"seed": 11, "n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 128},
        "odd": {"seed": 12, "n_layer": 3, "n_head": 3, "n_embd": 45, "n_positions": 128},
    }.get(request.param)
    name, _, is_traced = request.param.partition(" via ")
    trained = storyteller_via_optimum if is_traced else storyteller_bundle
    with ortgpt.load(trained if config is None else make_bundle(**config), threads=1) as loaded:
        yield Subject(name, loaded, stride=5 if is_traced else 1)


def cases(goldens: dict[str, Any], model: Subject) -> Iterator[tuple[str, dict[str, Any]]]:
    clear = (
        (name, case)
        for name, case in goldens["cases"].items()
        if case["model"] == model.name and min(case["margins"]) > CLOSE
    )
    return islice(clear, 0, None, model.stride)


def test_contrastive_search_is_that_of_transformers_449(model: Subject) -> None:
    goldens = read("contrastive")
    checked = 0
    for name, case in cases(goldens, model):
        strategy = ortgpt.ContrastiveSearch(
            top_k=case["options"]["top_k"], penalty_alpha=case["options"]["penalty_alpha"]
        )
        results = model.loaded.generate_batch(prompt_ids(goldens, case), strategy, **shared_options(case))
        found = [list(result.token_ids) for result in results]
        assert found == case["sequences"], name
        checked += 1
    assert checked > 50 // model.stride


def test_beams_are_those_of_transformers_457(model: Subject) -> None:
    goldens = read("beams457")
    checked = 0
    for name, case in cases(goldens, model):
        if name.endswith("search=beam"):  # one beam is greedy search there too, unless it is forced
            continue
        search = ("num_beams", "length_penalty", "early_stopping", "num_return_sequences")
        strategy = ortgpt.BeamSearch(**{field: case["options"][field] for field in search})
        results = model.loaded.generate_batch(prompt_ids(goldens, case), strategy, **shared_options(case))
        choices = [choice for result in results for choice in result.choices]
        assert [list(choice.token_ids) for choice in choices] == case["sequences"], name
        if case["scores"] is None:  # greedy search has none
            continue
        scores = [choice.score for choice in choices]
        assert scores == pytest.approx(case["scores"], abs=1e-4, rel=1e-6), name
        checked += 1
    assert checked > 20 // model.stride


def test_diverse_beams_are_those_of_transformers_449(model: Subject) -> None:
    goldens = read("diverse_beams")
    checked = 0
    for name, case in cases(goldens, model):
        if ",pad=neutral" in name:  # there a done group is padded with an id that is not its end
            continue
        search = (
            "num_beams",
            "num_beam_groups",
            "diversity_penalty",
            "length_penalty",
            "early_stopping",
            "num_return_sequences",
        )
        strategy = ortgpt.BeamSearch(**{field: case["options"][field] for field in search})
        results = model.loaded.generate_batch(prompt_ids(goldens, case), strategy, **shared_options(case))
        choices = [choice for result in results for choice in result.choices]
        assert [list(choice.token_ids) for choice in choices] == case["sequences"], name
        scores = [choice.score for choice in choices]
        assert scores == pytest.approx(case["scores"], abs=1e-4, rel=1e-6), name
        checked += 1
    assert checked > 20 // model.stride

"""Beam search and contrastive search through the engine: streams, batches, stops, parity."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import GPT2LMHeadModel

import ortgpt

MakeBundle = Callable[..., Path]
PROMPTS = ["Once upon a time", "The king", "The fox and the crow went into the wood", '"I am going']
STRATEGIES = {
    "beams": ortgpt.BeamSearch(num_beams=4),
    "patient beams": ortgpt.BeamSearch(num_beams=3, early_stopping="never", length_penalty=0.5),
    "three best": ortgpt.BeamSearch(num_beams=5, num_return_sequences=3, early_stopping=False),
    "sampled beams": ortgpt.BeamSearch(num_beams=3, sample=True, temperature=0.9, top_p=0.95),
    "contrastive": ortgpt.ContrastiveSearch(top_k=4, penalty_alpha=0.6),
}
OPTIONS: list[dict[str, object]] = [
    {},
    {"stop": ["the ", " said", '."']},
    {"stop_token_ids": [14, 0], "min_new_tokens": 5},
    {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
    {"echo": True, "stop": ["w"], "logprobs": 2},
]


@pytest.fixture(params=STRATEGIES)
def strategy(request: pytest.FixtureRequest) -> ortgpt.BeamSearch | ortgpt.ContrastiveSearch:
    return STRATEGIES[request.param]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "+".join(options) or "plain")
@pytest.mark.parametrize("prompt", PROMPTS)
def test_streamed_equals_collected(
    storyteller_model: ortgpt.Model,
    strategy: ortgpt.BeamSearch,
    prompt: str,
    options: dict[str, object],
) -> None:
    stream = storyteller_model.stream(prompt, strategy, max_new_tokens=40, seed=3, **options)  # type: ignore[arg-type]
    events = list(stream)
    for choice in stream.result.choices:
        own = [event for event in events if event.index == choice.index]
        assert "".join(event.text for event in own) == choice.text
        assert sum((event.token_ids for event in own), ()) == choice.token_ids
        assert [event.finish_reason for event in own[:-1]] == [None] * (len(own) - 1)
        assert own[-1].finish_reason == choice.finish_reason != "cancelled"
    collected = storyteller_model.generate(prompt, strategy, max_new_tokens=40, seed=3, **options)  # type: ignore[arg-type]
    assert collected.choices == stream.result.choices


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "+".join(options) or "plain")
def test_batch_rows_equal_solo_runs(
    storyteller_model: ortgpt.Model, strategy: ortgpt.BeamSearch, options: dict[str, object]
) -> None:
    batch = storyteller_model.generate_batch(PROMPTS, strategy, max_new_tokens=30, seed=5, **options)  # type: ignore[arg-type]
    for index, (prompt, result) in enumerate(zip(PROMPTS, batch, strict=True)):
        alone = storyteller_model.generate(prompt, strategy, max_new_tokens=30, seed=5 + index, **options)  # type: ignore[arg-type]
        assert [choice.token_ids for choice in result.choices] == [c.token_ids for c in alone.choices]
        assert [choice.text for choice in result.choices] == [c.text for c in alone.choices]


def test_beams_stream_text_before_they_end(storyteller_model: ortgpt.Model) -> None:
    events = list(storyteller_model.stream(PROMPTS[0], ortgpt.BeamSearch(num_beams=4), max_new_tokens=60))
    assert sum(bool(event.text) for event in events[:-1]) > 3


def test_a_beam_search_cut_short_gives_the_best_running_beam(storyteller_model: ortgpt.Model) -> None:
    stream = storyteller_model.stream(PROMPTS[0], ortgpt.BeamSearch(num_beams=4), max_new_tokens=60)
    shown = "".join(event.text for event in itertools.islice(stream, 3))
    stream.close()
    assert stream.result.finish_reason == "cancelled"
    assert stream.result.text.startswith(shown)


def test_choices_come_best_first_with_their_scores(storyteller_model: ortgpt.Model) -> None:
    strategy = ortgpt.BeamSearch(num_beams=6, num_return_sequences=6, early_stopping=False)
    result = storyteller_model.generate("The king", strategy, max_new_tokens=20)
    scores = [choice.score for choice in result.choices]
    assert scores == sorted(scores, reverse=True)
    assert [choice.index for choice in result.choices] == list(range(6))
    assert len({choice.token_ids for choice in result.choices}) == 6


@pytest.mark.parametrize("length", [60, 63, 64])
def test_the_context_ends_a_beam_search(tiny_model: ortgpt.Model, length: int) -> None:
    """FAULTS 31"""
    result = tiny_model.generate([5] * length, ortgpt.BeamSearch(num_beams=3), stop_token_ids=[])
    assert len(result.token_ids) == 64 - length + 1
    assert result.finish_reason == "length"


@pytest.mark.parametrize("length", [60, 63, 64])
def test_contrastive_search_needs_a_place_for_every_token(tiny_model: ortgpt.Model, length: int) -> None:
    batch = tiny_model.generate_batch(
        [[5] * length, [5] * 3], ortgpt.ContrastiveSearch(), stop_token_ids=[], max_new_tokens=8
    )
    assert len(batch[0].token_ids) == min(8, 64 - length)
    assert len(batch[1].token_ids) == 8
    assert batch[0].finish_reason == batch[1].finish_reason == "length"


def test_several_sequences_of_a_beam_search_are_asked_for_by_their_own_name(
    storyteller_model: ortgpt.Model,
) -> None:
    with pytest.raises(ortgpt.OptionError, match="beam search"):
        storyteller_model.generate("The king", ortgpt.BeamSearch(), n=2)


def test_sampled_beams_depend_on_the_seed(storyteller_model: ortgpt.Model) -> None:
    texts = [
        storyteller_model.generate("The king", STRATEGIES["sampled beams"], seed=seed).text
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def beam_cases() -> list[dict[str, object]]:
    rng = random.Random(0)
    choices: dict[str, list[object]] = {
        "num_beams": [2, 3, 4, 5, 6, 8],
        "length_penalty": [-1.0, 0.0, 0.8, 1.0, 2.0],
        "early_stopping": [True, False, "never"],
        "all": [True, False],
        "no_repeat_ngram_size": [0, 2],
        "repetition_penalty": [1.0, 1.3],
        "min_new_tokens": [0, 10],
        "prompt": PROMPTS,  # type: ignore[dict-item]
        "eos": [[0], [14], [14, 0]],
    }
    return [{name: rng.choice(values) for name, values in choices.items()} for _ in range(50)]


@pytest.fixture(scope="module")
def reference(storyteller: Path) -> GPT2LMHeadModel:
    return GPT2LMHeadModel.from_pretrained(storyteller).eval()


@pytest.mark.parametrize("case", beam_cases(), ids=str)
def test_beams_are_those_of_transformers(
    storyteller_model: ortgpt.Model, reference: GPT2LMHeadModel, case: dict[str, object]
) -> None:
    case = dict(case)
    prompt, eos, num_beams = case.pop("prompt"), case.pop("eos"), case.pop("num_beams")
    num_return = num_beams if case.pop("all") else 1
    search = {name: case.pop(name) for name in ("length_penalty", "early_stopping")}
    strategy = ortgpt.BeamSearch(num_beams=num_beams, num_return_sequences=num_return, **search)  # type: ignore[arg-type]
    result = storyteller_model.generate(
        prompt,
        strategy,
        max_new_tokens=30,
        stop_token_ids=eos,
        **case,  # type: ignore[arg-type]
    )
    length = len(result.prompt_token_ids)
    expected = reference.generate(
        torch.tensor([result.prompt_token_ids]),
        num_beams=num_beams,
        num_return_sequences=num_return,
        max_new_tokens=30,
        eos_token_id=eos,
        pad_token_id=0,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
        **search,
        **case,
    )
    for choice, ids, score in zip(
        result.choices, expected.sequences.tolist(), expected.sequences_scores.tolist(), strict=True
    ):
        assert list(choice.token_ids) == ids[length : length + len(choice.token_ids)]
        assert set(ids[length + len(choice.token_ids) :]) <= {0, eos[0]}  # type: ignore[index]
        assert choice.score == pytest.approx(score, abs=1e-4, rel=1e-6)  # sums of 1,000 in float32 there

"""Bundles via Optimum, the whole road: the ids of transformers, and of the fused graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

import ortgpt
from ortgpt.logits.pipeline import make_warpers
from ortgpt.numerics import softmax

MakeBundle = Callable[..., Path]

FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "gpt_neo": {},
    "opt": {},
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": 8},
}
SAMPLED: list[tuple[ortgpt.Sampling, list[Any]]] = [
    (
        ortgpt.Sampling(temperature=0.7, top_k=20, top_p=0.9),
        [TemperatureLogitsWarper(0.7), TopKLogitsWarper(20), TopPLogitsWarper(0.9)],
    ),
    (ortgpt.Sampling(min_p=0.05), [MinPLogitsWarper(0.05)]),
    (ortgpt.Sampling(typical_p=0.8), [TypicalLogitsWarper(0.8)]),
]
PROMPTS = ["Once upon a time", 'The king said to his daughter, "', "A fox"]


class Pair(NamedTuple):
    """A bundle and the model that it was made of."""

    ours: ortgpt.Model
    theirs: Any


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # of models so small a second one costs more than it gives
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, make_via_optimum: MakeBundle) -> Iterator[Pair]:
    bundle = make_via_optimum(request.param, **FAMILIES[request.param])
    theirs = AutoModelForCausalLM.from_pretrained(
        bundle.parent / "checkpoint", attn_implementation="eager"
    ).eval()
    with ortgpt.load(bundle, threads=1) as ours:
        yield Pair(ours, theirs)


def prompt_ids(length: int) -> list[int]:
    ids: list[int] = np.random.default_rng(length).integers(0, 256, length).tolist()
    return ids


def generated(model: Any, prompt: list[int], **options: Any) -> torch.Tensor:
    """(sequences, new ids) of transformers, which stop by length only."""
    ids = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        **options,
    )
    return ids[:, len(prompt) :]


def test_greedy_ids_are_those_of_transformers(pair: Pair) -> None:
    prompt = prompt_ids(12)
    result = pair.ours.generate(prompt, max_new_tokens=50, stop_token_ids=[])
    assert list(result.token_ids) == generated(pair.theirs, prompt, max_new_tokens=50)[0].tolist()


def test_a_batch_of_unequal_prompts_has_each_its_own_ids(pair: Pair) -> None:
    prompts = [prompt_ids(length) for length in (3, 20, 1, 11)]
    results = pair.ours.generate_batch(prompts, max_new_tokens=20, stop_token_ids=[])
    for prompt, result in zip(prompts, results, strict=True):
        assert list(result.token_ids) == generated(pair.theirs, prompt, max_new_tokens=20)[0].tolist()


@pytest.mark.parametrize("number", range(len(SAMPLED)))
def test_what_is_drawn_from_is_what_transformers_draws_from(number, pair: Pair) -> None:
    strategy, warpers = SAMPLED[number]
    ids = prompt_ids(24)
    decoder = pair.ours.decoder()
    logits = [decoder.extend([ids[:16]], outputs="all").logits[0].copy()]
    logits += [decoder.extend([[token]]).logits[0].copy() for token in ids[16:]]
    decoder.release()
    with torch.no_grad():
        expected = pair.theirs(torch.tensor([ids])).logits[0]
    for place, row in enumerate(np.concatenate(logits)):
        seen = ids[: place + 1]
        filtered = make_warpers(strategy, np.random.default_rng(0))(np.array(seen), row)
        scores = LogitsProcessorList(warpers)(torch.tensor([seen]), expected[place : place + 1])
        wanted = scores[0].softmax(-1).numpy()
        assert (filtered > -np.inf).tolist() == (wanted > 0).tolist(), place
        np.testing.assert_allclose(softmax(filtered), wanted, atol=1e-4)


def test_beams_are_those_of_transformers(pair: Pair) -> None:
    prompt = prompt_ids(9)
    strategy = ortgpt.BeamSearch(num_beams=4, num_return_sequences=3)
    result = pair.ours.generate(prompt, strategy, max_new_tokens=16, stop_token_ids=[])
    ids = generated(
        pair.theirs, prompt, num_beams=4, num_return_sequences=3, early_stopping=True, max_new_tokens=16
    )
    assert [list(choice.token_ids) for choice in result.choices] == ids.tolist()


@torch.no_grad()
def slow_contrastive_search(
    model: Any, prompt: list[int], strategy: ortgpt.ContrastiveSearch, count: int
) -> list[int]:
    """The next ids by the definition (Su 2022): no cache, every candidate reads the whole text anew."""
    ids, alpha = list(prompt), strategy.penalty_alpha
    for _ in range(count):
        probabilities = model(torch.tensor([ids]), use_cache=False).logits[0, -1].softmax(-1)
        candidates = probabilities.topk(strategy.top_k).indices
        texts = torch.tensor([[*ids, candidate] for candidate in candidates.tolist()])
        states = model(texts, output_hidden_states=True, use_cache=False).hidden_states[-1]
        cosines = torch.cosine_similarity(states[:, :-1], states[:, -1:], dim=-1)  # (candidates, tokens)
        scores = (1 - alpha) * probabilities[candidates] - alpha * cosines.amax(dim=1)
        ids.append(int(candidates[scores.argmax()]))
    return ids[len(prompt) :]


def test_contrastive_search_chooses_what_its_definition_says(pair: Pair) -> None:
    strategy = ortgpt.ContrastiveSearch(top_k=4, penalty_alpha=0.6)
    asked: dict[str, Any] = {"max_new_tokens": 16, "stop_token_ids": []}
    prompts = [prompt_ids(length) for length in (11, 4)]
    expected = [slow_contrastive_search(pair.theirs, prompt, strategy, 16) for prompt in prompts]
    assert list(pair.ours.generate(prompts[0], strategy, **asked).token_ids) == expected[0]
    batch = pair.ours.generate_batch(prompts, strategy, **asked)
    assert [list(result.token_ids) for result in batch] == expected
    # Otherwise the penalty had nothing to decide.
    assert expected[0] != list(pair.ours.generate(prompts[0], **asked).token_ids)


def test_penalties_and_bans_are_those_of_transformers(pair: Pair) -> None:
    prompt = prompt_ids(10)
    options = {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "max_new_tokens": 30}
    result = pair.ours.generate(prompt, stop_token_ids=[], **options)
    assert list(result.token_ids) == generated(pair.theirs, prompt, **options)[0].tolist()


@pytest.fixture(scope="module")
def traced(storyteller_via_optimum: Path) -> Iterator[ortgpt.Model]:
    with ortgpt.load(storyteller_via_optimum, threads=1) as model:
        yield model


STRATEGIES = {
    "greedy": (ortgpt.Greedy(), 128),
    "beams": (ortgpt.BeamSearch(num_beams=4), 40),
    "diverse beams": (ortgpt.BeamSearch(num_beams=4, num_beam_groups=2, diversity_penalty=0.5), 30),
    "contrastive": (ortgpt.ContrastiveSearch(top_k=4, penalty_alpha=0.6), 60),
}


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("name", STRATEGIES)
def test_both_graphs_of_storyteller_write_the_same(
    name, prompt, traced: ortgpt.Model, storyteller_model: ortgpt.Model
) -> None:
    strategy, length = STRATEGIES[name]
    ours, fused = (
        model.generate(prompt, strategy, max_new_tokens=length, stop_token_ids=[])
        for model in (traced, storyteller_model)
    )
    assert ours.token_ids == fused.token_ids
    assert len(ours.token_ids) == length


def test_both_graphs_of_storyteller_have_the_same_logits_and_states(
    traced: ortgpt.Model, storyteller_model: ortgpt.Model
) -> None:
    ids = np.random.default_rng(0).integers(0, 4096, 160).tolist()
    runs = []
    for model in (traced, storyteller_model):
        decoder = model.decoder()
        steps = [decoder.extend([ids[:120]], outputs="all", hidden=True)]
        results = [(steps[0].logits[0].copy(), steps[0].hidden[0].copy())]
        for token in ids[120:]:
            step = decoder.extend([[token]], hidden=True)
            results.append((step.logits[0].copy(), step.hidden[0].copy()))
        runs.append([np.concatenate(parts) for parts in zip(*results, strict=True)])
        decoder.release()
    for ours, fused in zip(*runs, strict=True):
        assert np.abs(ours - fused).max() <= 2e-4


def test_sampling_from_both_graphs_of_storyteller_gives_the_same_text(
    traced: ortgpt.Model, storyteller_model: ortgpt.Model
) -> None:
    strategy = ortgpt.Sampling(temperature=0.8, top_p=0.95)
    for prompt in PROMPTS:
        texts = [
            m.generate(prompt, strategy, max_new_tokens=60, seed=5).text for m in (traced, storyteller_model)
        ]
        assert texts[0] == texts[1]

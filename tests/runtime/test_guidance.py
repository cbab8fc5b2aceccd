"""Classifier-free guidance through the engine: transformers, a slow version, batches, streams, borders."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_engine import CONTEXT, VOCAB, run_fake
from transformers import (
    GPT2LMHeadModel,
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
)

import ortgpt
from ortgpt.interfaces import Capabilities
from ortgpt.numerics import log_softmax, softmax
from ortgpt.options import Options
from ortgpt.request_checks import rows_per_prompt
from ortgpt.strategies import Strategy
from ortgpt.testing import FakeDecoder, fake_logits

MakeBundle = Callable[..., Path]
Ids = tuple[int, ...]

NEGATIVE = "A wolf ran into the dark wood, and"
PROMPTS = ["The king was", "Once upon a time", "The fox and the crow went into the wood, and", "A"]
STRATEGIES: dict[str, Strategy] = {
    "greedy": ortgpt.Greedy(),
    "sampling": ortgpt.Sampling(temperature=0.9, top_p=0.95),
    "beams": ortgpt.BeamSearch(num_beams=4),
    "diverse beams": ortgpt.BeamSearch(num_beams=4, num_beam_groups=2, diversity_penalty=0.5),
    "sampled beams": ortgpt.BeamSearch(num_beams=3, sample=True, top_k=50),
    "contrastive": ortgpt.ContrastiveSearch(),
}


@pytest.fixture(params=STRATEGIES)
def strategy(request: pytest.FixtureRequest) -> Strategy:
    return STRATEGIES[request.param]


@pytest.fixture(scope="module")
def reference(storyteller: Path) -> GPT2LMHeadModel:
    return GPT2LMHeadModel.from_pretrained(storyteller).eval()


class SlowGuidance(LogitsProcessor):
    """Guidance by definition: the whole text behind the negative prompt, every time.

    transformers' own processor keeps a cache that does not follow the beams when they change places.
    """

    def __init__(self, model: GPT2LMHeadModel, scale: float, negative: Sequence[int], length: int) -> None:
        self.model, self.scale, self.negative, self.length = model, scale, list(negative), length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        behind = torch.tensor([self.negative]).expand(len(input_ids), -1)
        with torch.no_grad():
            logits = self.model(torch.cat([behind, input_ids[:, self.length :]], dim=1)).logits[:, -1]
        liked, avoided = torch.log_softmax(scores, dim=-1), torch.log_softmax(logits, dim=-1)
        return self.scale * (liked - avoided) + avoided


@pytest.mark.parametrize("scale", [0.0, 1.5, 3.0])
@pytest.mark.parametrize("negative", [None, NEGATIVE, "", [5, 6]], ids=["none", "text", "empty", "ids"])
def test_greedy_ids_are_those_of_transformers(
    storyteller_model: ortgpt.Model, reference: GPT2LMHeadModel, negative: Any, scale: float
) -> None:
    given: dict[str, Any] = {} if negative is None else {"negative_prompt": negative}
    options: dict[str, Any] = {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3}
    result = storyteller_model.generate(
        PROMPTS[0], max_new_tokens=50, stop_token_ids=[], guidance_scale=scale, **given, **options
    )
    ids = storyteller_model.tokenizer.encode(negative) or [0] if isinstance(negative, str) else negative
    expected = reference.generate(
        torch.tensor([result.prompt_token_ids]),
        max_new_tokens=50,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        guidance_scale=scale,
        negative_prompt_ids=None if negative is None else torch.tensor([ids]),
        **options,
    )
    assert list(result.token_ids) == expected[0, len(result.prompt_token_ids) :].tolist()


@pytest.mark.parametrize("scale", [1.5, 3.0])
@pytest.mark.parametrize("negative", [None, NEGATIVE])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_beams_and_their_scores_are_those_of_transformers(
    storyteller_model: ortgpt.Model,
    reference: GPT2LMHeadModel,
    prompt: str,
    negative: str | None,
    scale: float,
) -> None:
    given: dict[str, Any] = {} if negative is None else {"negative_prompt": negative}
    strategy = ortgpt.BeamSearch(num_beams=4, num_return_sequences=4, early_stopping=False)
    result = storyteller_model.generate(
        prompt, strategy, max_new_tokens=24, guidance_scale=scale, repetition_penalty=1.2, **given
    )
    length = len(result.prompt_token_ids)
    ids = result.prompt_token_ids[-1:] if negative is None else storyteller_model.tokenizer.encode(negative)
    expected = reference.generate(
        torch.tensor([result.prompt_token_ids]),
        num_beams=4,
        num_return_sequences=4,
        early_stopping=False,
        max_new_tokens=24,
        pad_token_id=0,
        do_sample=False,
        logits_processor=LogitsProcessorList(
            [SlowGuidance(reference, scale, ids, length), RepetitionPenaltyLogitsProcessor(1.2)]
        ),
        return_dict_in_generate=True,
        output_scores=True,
    )
    for choice, row, score in zip(
        result.choices, expected.sequences.tolist(), expected.sequences_scores.tolist(), strict=True
    ):
        assert list(choice.token_ids) == row[length : length + len(choice.token_ids)]
        assert choice.score == pytest.approx(score, abs=1e-3, rel=1e-5)


def test_draws_have_the_probabilities_of_transformers(
    storyteller_model: ortgpt.Model, reference: GPT2LMHeadModel
) -> None:
    """Support and frequencies of the first token (chi-square, 99.9 % point)."""
    ids = torch.tensor([storyteller_model.tokenizer.encode(PROMPTS[0])])
    expected = reference.generate(
        ids,
        max_new_tokens=1,
        do_sample=True,
        top_k=8,
        guidance_scale=1.5,
        negative_prompt_ids=torch.tensor([storyteller_model.tokenizer.encode(NEGATIVE)]),
        return_dict_in_generate=True,
        output_scores=True,
        pad_token_id=0,
    )
    probabilities = softmax(expected.scores[0][0].numpy())
    counts = np.zeros(len(probabilities))
    for seed in range(16):
        result = storyteller_model.generate(
            PROMPTS[0],
            ortgpt.Sampling(top_k=8),
            max_new_tokens=1,
            guidance_scale=1.5,
            negative_prompt=NEGATIVE,
            n=128,
            seed=seed,
        )
        for choice in result.choices:
            counts[choice.token_ids[0]] += 1
    kept = probabilities > 0
    assert kept.sum() == 8
    assert counts[~kept].sum() == 0
    wanted = counts.sum() * probabilities[kept]
    assert ((counts[kept] - wanted) ** 2 / wanted).sum() < 24.3  # 7 degrees of freedom


def test_logprobs_and_scores_stay_those_of_the_model(storyteller_model: ortgpt.Model) -> None:
    result = storyteller_model.generate(
        PROMPTS[1], max_new_tokens=12, guidance_scale=2.0, logprobs=2, stop_token_ids=[]
    )
    score = storyteller_model.score(list(result.token_ids), prompt=PROMPTS[1])
    entries = result.choices[0].logprobs
    assert entries is not None
    assert [entry.logprob for entry in entries] == pytest.approx(score.logprobs, abs=1e-4)
    assert result.choices[0].score == pytest.approx(np.mean(score.logprobs), abs=1e-4)
    plain = storyteller_model.generate(PROMPTS[1], max_new_tokens=1, logprobs=2, stop_token_ids=[])
    assert plain.choices[0].logprobs is not None
    assert [top.id for top in entries[0].top] == [top.id for top in plain.choices[0].logprobs[0].top]


@pytest.mark.parametrize("negative", [{}, {"negative_prompt": NEGATIVE}], ids=["default", "given"])
def test_batch_rows_equal_solo_runs(
    storyteller_model: ortgpt.Model, strategy: Strategy, negative: dict[str, Any]
) -> None:
    options: dict[str, Any] = {"max_new_tokens": 20, "guidance_scale": 1.5, "stop": [" said"], **negative}
    batch = storyteller_model.generate_batch(PROMPTS, strategy, seed=5, **options)
    for index, (prompt, result) in enumerate(zip(PROMPTS, batch, strict=True)):
        alone = storyteller_model.generate(prompt, strategy, seed=5 + index, **options)
        assert result.choices == alone.choices


def test_streamed_equals_collected(storyteller_model: ortgpt.Model, strategy: Strategy) -> None:
    options: dict[str, Any] = {"max_new_tokens": 25, "guidance_scale": 3.0, "negative_prompt": NEGATIVE}
    stream = storyteller_model.stream(PROMPTS[0], strategy, seed=3, **options)
    events = list(stream)
    collected = storyteller_model.generate(PROMPTS[0], strategy, seed=3, **options)
    assert collected.choices == stream.result.choices
    assert "".join(event.text for event in events) == collected.text
    assert sum((event.token_ids for event in events), ()) == collected.token_ids


def test_several_sequences_share_the_guided_prefill(storyteller_model: ortgpt.Model) -> None:
    options: dict[str, Any] = {"max_new_tokens": 12, "guidance_scale": 1.5, "seed": 4}
    three = storyteller_model.generate(PROMPTS[0], STRATEGIES["sampling"], n=3, **options)
    one = storyteller_model.generate(PROMPTS[0], STRATEGIES["sampling"], **options)
    assert three.choices[0] == one.choices[0]
    assert len({choice.text for choice in three.choices}) == 3


# Without a model: against a version that runs both histories from the beginning for every token.

FAKE_PROMPTS: list[Ids] = [(70, 71, 72), (80,), (90, 91)]
FAKE_NEGATIVE: Ids = (65, 66, 67, 68)
COPIED = Capabilities(hidden_states=True, shared_rows=False, ragged_widths=False, row_invariant=True)


def slow_scores(prompt: Ids, negative: Ids, output: Ids, scale: float) -> np.ndarray:
    liked, avoided = (log_softmax(fake_logits(one + output, VOCAB)) for one in (prompt, negative))
    return (scale * (liked - avoided) + avoided).astype(np.float32)


def slow_greedy(prompt: Ids, negative: Ids, scale: float, count: int) -> Ids:
    output: Ids = ()
    for _ in range(count):
        output += (int(slow_scores(prompt, negative, output, scale).argmax()),)
    return output


def slow_beams(prompt: Ids, negative: Ids, scale: float, num_beams: int, count: int) -> list[Ids]:
    running: list[tuple[float, Ids]] = [(0.0, ())]
    for _ in range(count):
        candidates = [
            (score + float(added), (*output, token))
            for score, output in running
            for token, added in enumerate(slow_scores(prompt, negative, output, scale))
        ]
        running = sorted(candidates, key=lambda pair: -pair[0])[:num_beams]
    return [output for _, output in running]


def slow_contrastive(prompt: Ids, negative: Ids, scale: float, count: int) -> Ids:
    output: Ids = ()
    for _ in range(count):
        probabilities = softmax(slow_scores(prompt, negative, output, scale))
        best = (-probabilities).argsort(kind="stable")[:4]
        totals = []
        for candidate in best:
            states = FakeDecoder(VOCAB, CONTEXT).extend([(*prompt, *output, candidate)], hidden=True).hidden
            assert states is not None
            units = states[0] / np.linalg.norm(states[0], axis=1, keepdims=True)
            totals.append(0.4 * probabilities[candidate] - 0.6 * (units[:-1] @ units[-1]).max())
        output += (int(best[int(np.argmax(totals))]),)
    return output


@pytest.mark.parametrize("scale", [0.0, 1.5, 3.0])
@pytest.mark.parametrize("negative", [None, FAKE_NEGATIVE], ids=["default", "given"])
@pytest.mark.parametrize("kind", ["greedy", "beams", "contrastive", "contrastive, rows copied"])
def test_tokens_are_those_of_two_histories_without_a_cache(
    kind: str, negative: Ids | None, scale: float
) -> None:
    given: dict[str, Any] = {} if negative is None else {"negative_prompt": negative}
    beams = ortgpt.BeamSearch(num_beams=3, num_return_sequences=3)
    decoder = FakeDecoder(VOCAB, CONTEXT, rows=3, capabilities=COPIED if "copied" in kind else None)
    results, _ = run_fake(
        FAKE_PROMPTS,
        {"greedy": ortgpt.Greedy(), "beams": beams}.get(kind, ortgpt.ContrastiveSearch()),
        decoder=decoder,
        max_new_tokens=6,
        stop_token_ids=[],
        guidance_scale=scale,
        **given,
    )
    for prompt, result in zip(FAKE_PROMPTS, results, strict=True):
        behind = prompt[-1:] if negative is None else negative
        found = [choice.token_ids for choice in result.choices]
        if kind == "greedy":
            assert found == [slow_greedy(prompt, behind, scale, 6)]
        elif kind == "beams":
            assert found == slow_beams(prompt, behind, scale, 3, 6)
        else:
            assert found == [slow_contrastive(prompt, behind, scale, 6)]


def test_diverse_beams_are_guided_too() -> None:
    strategy = ortgpt.BeamSearch(
        num_beams=2, num_beam_groups=2, diversity_penalty=1e-9, num_return_sequences=2
    )
    options: dict[str, Any] = {"max_new_tokens": 6, "stop_token_ids": [], "guidance_scale": 3.0}
    results, _ = run_fake(FAKE_PROMPTS, strategy, **options)
    for prompt, result in zip(FAKE_PROMPTS, results, strict=True):
        # With next to no penalty both groups, of one beam each, are greedy.
        assert {choice.token_ids for choice in result.choices} == {slow_greedy(prompt, prompt[-1:], 3.0, 6)}


@pytest.mark.parametrize("kind", ["greedy", "beams", "contrastive"])
def test_a_row_whose_negative_half_has_no_numbers_fails_alone(kind: str) -> None:
    strategy = {"greedy": ortgpt.Greedy(), "beams": ortgpt.BeamSearch(num_beams=2)}.get(
        kind, ortgpt.ContrastiveSearch()
    )
    decoder = FakeDecoder(VOCAB, CONTEXT, rows=3, nan_at=[(0, 3 + 1)])
    with pytest.raises(ortgpt.NonFiniteLogitsError, match="step 0"):
        run_fake(FAKE_PROMPTS, strategy, decoder=decoder, max_new_tokens=4, guidance_scale=1.5)
    assert decoder.verbs.count("extend") > 1  # the other prompts went on


@pytest.mark.parametrize("kind", ["greedy", "beams", "contrastive"])
def test_the_longer_of_prompt_and_negative_prompt_bounds_the_output(kind: str) -> None:
    strategy = {"greedy": ortgpt.Greedy(), "beams": ortgpt.BeamSearch(num_beams=2)}.get(
        kind, ortgpt.ContrastiveSearch()
    )
    spare = 0 if kind == "contrastive" else 1
    for prompt, negative in ((3, CONTEXT - 4), (CONTEXT - 4, 3), (CONTEXT - 1, CONTEXT - 1)):
        (result,), _ = run_fake(
            [(70,) * prompt],
            strategy,
            guidance_scale=1.5,
            negative_prompt=(71,) * negative,
            stop_token_ids=[],
        )
        assert len(result.token_ids) == CONTEXT - max(prompt, negative) + spare
        assert result.finish_reason == "length"


def test_a_negative_prompt_longer_than_the_context_is_refused(tiny_model: ortgpt.Model) -> None:
    for negative in ("x" * 65, [5] * 65):
        with pytest.raises(ortgpt.ContextLengthError, match="65 tokens") as caught:
            tiny_model.generate("a", guidance_scale=1.5, negative_prompt=negative)
        assert caught.value.option == "negative_prompt"


def test_a_guided_prompt_counts_twice_in_a_batch(storyteller_model: ortgpt.Model) -> None:
    for strategy, rows in ((ortgpt.Greedy(), 6), (ortgpt.BeamSearch(num_beams=4), 8)):
        assert rows_per_prompt(strategy, Options(n=3, guidance_scale=1.5)) == rows
    whole = storyteller_model.generate_batch(PROMPTS, max_new_tokens=8, guidance_scale=1.5)
    parts = storyteller_model.generate_batch(PROMPTS, max_rows=4, max_new_tokens=8, guidance_scale=1.5)
    assert [result.choices for result in parts] == [result.choices for result in whole]


def test_a_scale_of_one_is_no_guidance(storyteller_model: ortgpt.Model) -> None:
    plain = storyteller_model.generate(PROMPTS[0], max_new_tokens=20)
    off = storyteller_model.generate(PROMPTS[0], max_new_tokens=20, guidance_scale=1.0)
    assert dataclasses.replace(off, timings=plain.timings, seed=plain.seed) == plain


@pytest.mark.parametrize("scale", [1e-320, 1e308])
def test_no_scale_makes_scores_that_are_no_numbers(storyteller_model: ortgpt.Model, scale: float) -> None:
    result = storyteller_model.generate(
        PROMPTS[0], STRATEGIES["sampling"], max_new_tokens=5, guidance_scale=scale
    )
    assert len(result.token_ids) == 5

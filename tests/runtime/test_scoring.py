"""Scores of continuations and of texts longer than the context."""

from __future__ import annotations

import math

import numpy as np
import pytest

import ortgpt
from ortgpt.numerics import log_softmax
from ortgpt.scoring import windows

CONTEXT = 64


def text_of(length: int) -> list[int]:
    return np.random.default_rng(length).integers(0, 256, length).tolist()


def logprobs_of(model: ortgpt.Model, tokens: list[int]) -> list[float]:
    """Log-probabilities of tokens[1:], from one pass over at most a context of tokens."""
    logits = model.decoder().extend([tokens], outputs="all").logits[0]
    table = log_softmax(logits)
    return [float(table[i, token]) for i, token in enumerate(tokens[1:])]


def test_every_token_but_the_first_is_scored_given_those_before_it(tiny_model: ortgpt.Model) -> None:
    tokens = text_of(40)
    score = tiny_model.score(tokens)
    assert score.token_ids == tuple(tokens)
    assert score.logprobs[0] is None
    assert np.allclose(score.logprobs[1:], logprobs_of(tiny_model, tokens), atol=1e-5)
    assert score.total == pytest.approx(math.fsum(score.logprobs[1:]))
    assert score.perplexity == pytest.approx(math.exp(-score.total / 39))


def test_a_continuation_is_scored_given_its_prompt(tiny_model: ortgpt.Model) -> None:
    tokens = text_of(30)
    score = tiny_model.score(tokens[12:], prompt=tokens[:12])
    assert score.token_ids == tuple(tokens[12:])
    assert np.allclose(score.logprobs, logprobs_of(tiny_model, tokens)[11:], atol=1e-5)


def test_an_empty_prompt_stands_for_the_bos_token(tiny_model: ortgpt.Model) -> None:
    score = tiny_model.score("abc", prompt="")
    assert np.allclose(
        score.logprobs, logprobs_of(tiny_model, [256, *tiny_model.tokenizer.encode("abc")]), atol=1e-5
    )


def test_score_agrees_with_the_logprobs_of_generation(tiny_model: ortgpt.Model) -> None:
    result = tiny_model.generate("abc", max_new_tokens=20, logprobs=0, stop_token_ids=[])
    score = tiny_model.score(list(result.token_ids), prompt="abc")
    reported = [entry.logprob for entry in result.choices[0].logprobs]
    assert np.allclose(score.logprobs, reported, atol=1e-4)
    assert result.choices[0].score == pytest.approx(np.mean(reported))


@pytest.mark.parametrize("stride", [1, 7, 32, 63])
def test_long_texts_are_scored_in_windows_with_enough_before_each_token(
    tiny_model: ortgpt.Model, stride: int
) -> None:
    tokens = text_of(150)
    score = tiny_model.score(tokens, stride=stride)
    assert score.logprobs.count(None) == 1
    for begin, end, first in windows(len(tokens), CONTEXT, stride):
        alone = logprobs_of(tiny_model, tokens[begin:end])
        for position in range(max(first, 1), end):
            assert score.logprobs[position] == pytest.approx(alone[position - begin - 1], abs=1e-5)


@pytest.mark.parametrize("length", [1, 63, 64, 65, 100, 128, 129, 300])
@pytest.mark.parametrize("stride", [1, 10, 32, 63])
def test_windows_score_every_token_once_and_see_context_minus_stride(length: int, stride: int) -> None:
    scored = []
    for begin, end, first in windows(length, CONTEXT, stride):
        assert end - begin <= CONTEXT
        assert begin == 0 or first - begin >= CONTEXT - stride
        scored += range(first, end)
    assert scored == list(range(length))


def test_one_token_or_none_has_nothing_to_score(tiny_model: ortgpt.Model) -> None:
    for tokens in ([], [5]):
        score = tiny_model.score(tokens)
        assert score.total == 0.0
        assert math.isnan(score.perplexity)
        assert score.logprobs == (None,) * len(tokens)


@pytest.mark.parametrize("stride", [0, -1, 64, 1.5, True])
def test_a_stride_out_of_range_is_refused(tiny_model: ortgpt.Model, stride: object) -> None:
    with pytest.raises(ortgpt.OptionError, match="stride"):
        tiny_model.score([1, 2, 3], stride=stride)  # type: ignore[arg-type]

"""Scores of continuations and of texts longer than the context."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import ortgpt
from ortgpt.numerics import log_softmax
from ortgpt.scoring import ScoredText, Scoring, windows
from ortgpt.testing import FakeDecoder

MakeBundle = Callable[..., Path]

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


def counted(model: ortgpt.Model, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of every decoder that the model makes from now on."""
    rows: list[int] = []
    make = model.decoder

    def decoder(rows_: int = 1) -> ortgpt.interfaces.Decoder:
        rows.append(rows_)
        return make(rows_)

    monkeypatch.setattr(model, "decoder", decoder)
    return rows


def assert_batch(model: ortgpt.Model, texts: list, prompts: object = None, stride: int | None = None) -> None:
    """Each score of the batch, to the last bit, is the text's own."""
    each = (
        prompts if isinstance(prompts, list) and not isinstance(prompts[0], int) else [prompts] * len(texts)
    )
    alone = [
        model.score(text, prompt=prompt, stride=stride) for text, prompt in zip(texts, each, strict=True)
    ]
    # repr: NaN is no equal of itself
    assert repr(model.score_batch(texts, prompts=prompts, stride=stride)) == repr(alone)  # type: ignore[arg-type]


LENGTHS = [40, 1, 2, 0, 3, 64, 65, 17, 2, 30, 200, 9, 9, 9, 33, 128, 2, 3]


@pytest.mark.parametrize("floor", ["1.31", "1.32"])
def test_a_batch_gives_each_text_its_own_score(make_bundle: MakeBundle, floor: str) -> None:
    with ortgpt.load(make_bundle(onnxruntime_floor=floor), threads=1) as model:
        texts = [text_of(length) for length in LENGTHS]
        assert_batch(model, texts)
        assert_batch(model, texts, stride=7)
        assert_batch(model, texts, prompts=text_of(5))
        assert_batch(model, texts, prompts="")
        assert_batch(model, texts, prompts=[text_of(1 + 7 * index % 63) for index in range(len(texts))])
        assert_batch(model, texts[:3], prompts=["", "abc", [5, 6]])


@pytest.mark.parametrize("around", [2, 20, 64, 126, 128, 129, 130, 131, 256, 257, 258, 511, 512])
def test_a_batch_is_cut_as_its_texts_are_alone(storyteller_model: ortgpt.Model, around: int) -> None:
    """A chunk of one token is computed by another routine, with another rounding."""
    rng = np.random.default_rng(around)
    texts = [rng.integers(1, 4096, max(1, min(around + change, 514))).tolist() for change in (-1, 0, 1, 0, 2)]
    assert_batch(storyteller_model, texts)
    assert_batch(storyteller_model, texts, prompts=["The king", "A", "", "Once upon a time", "A"])
    assert_batch(storyteller_model, [[5, 6, 7], [8], [9, 10]], prompts=[texts[0][:500]] * 3)


def test_short_texts_share_runs_within_the_memory_of_one(
    tiny_model: ortgpt.Model, storyteller_model: ortgpt.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = counted(storyteller_model, monkeypatch)
    storyteller_model.score_batch([[5] * 17] * 24)  # 16 inputs each: 8 texts make 128
    assert rows == [8, 8, 8]
    rows.clear()
    storyteller_model.score_batch([[5] * 17, [6] * 33, [5] * 33] * 2)  # 2 of 16, then 4 of 32
    assert rows == [2 + 2, 2]
    rows.clear()
    storyteller_model.score_batch([[5] * 3] * 40)
    assert rows == [32, 8]
    rows.clear()
    storyteller_model.score_batch([[5, 6]] * 4, prompts=[7] * 200)  # the cache of 2 rows of 202 fits 512
    assert rows == [2, 2]
    rows.clear()
    storyteller_model.score_batch([[5] * 129, [5] * 130, [5] * 300])
    assert rows == [1, 1, 1]


def test_an_empty_batch_and_texts_with_nothing_to_score_run_nothing(
    tiny_model: ortgpt.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = counted(tiny_model, monkeypatch)
    assert tiny_model.score_batch([]) == tiny_model.score_batch([], prompts=[]) == []
    assert [score.total for score in tiny_model.score_batch(["a", ""])] == [0.0, 0.0]
    assert rows == []


@pytest.mark.parametrize(
    ("texts", "options", "named"),
    [
        ("abc", {}, "texts"),
        (5, {}, "texts"),
        (["a", 5], {}, "texts[1]"),
        (["a", "\ud800"], {}, "texts[1]"),
        (["a", [1, 999]], {}, "texts[1][1]"),
        (["a", None], {}, "texts[1]"),
        (["a", "b"], {"prompts": ["c"]}, "prompts"),
        (["a", "b"], {"prompts": []}, "prompts"),
        (["a", "b"], {"prompts": 5}, "prompts"),
        (["a", "b"], {"prompts": [1, 999]}, "prompts[1]"),
        (["a", "b"], {"prompts": ["c", [1, 999]]}, "prompts[1][1]"),
        (["a", "b"], {"prompts": ["c", "x" * 65]}, "prompts[1]"),
        (["a", "b"], {"prompts": "x" * 65}, "prompts"),
        (["a", "b"], {"stride": 0}, "stride"),
    ],
)
def test_an_error_names_the_text_or_the_prompt(
    tiny_model: ortgpt.Model, texts: object, options: dict[str, object], named: str
) -> None:
    with pytest.raises(ortgpt.OptionError) as caught:
        tiny_model.score_batch(texts, **options)  # type: ignore[arg-type]
    assert caught.value.option == named


def test_logits_that_are_no_numbers_name_the_text() -> None:
    def make(rows: int) -> FakeDecoder:
        return FakeDecoder(257, 64, rows=rows, nan_at=[(0, 1)])

    scoring = Scoring(64, 32, make)
    with pytest.raises(ortgpt.NonFiniteLogitsError, match=r"step 0 of texts\[2\]$"):
        scoring.score_all([ScoredText(ids, 0) for ids in ([1, 2, 3, 4], [1, 2], [5, 6, 7])])

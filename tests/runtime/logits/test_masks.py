"""Masks against transformers, hand-computed rows and slow loops."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import (
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
)

from ortgpt.interfaces import Floats, Ids
from ortgpt.logits.masks import (
    apply_bad_words,
    apply_exclusion,
    apply_forced,
    apply_min_new_tokens,
    apply_no_repeat_ngram,
    apply_vocabulary_size,
)

Check = Callable[..., None]


def banned(scores: Floats) -> list[int]:
    return np.flatnonzero(np.isneginf(scores)).tolist()


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_no_repeat_ngram_is_that_of_transformers(
    row: Floats, n: int, assert_like_transformers: Check
) -> None:
    for seed in range(10):
        token_ids = np.random.default_rng(seed).integers(0, 4, 60)
        scores = apply_no_repeat_ngram(row, token_ids, n)
        assert_like_transformers(scores, NoRepeatNGramLogitsProcessor(n), token_ids, row)


def test_no_repeat_ngram_equals_a_slow_search_at_every_length() -> None:
    rng = np.random.default_rng(5)
    for _ in range(500):
        token_ids, n = rng.integers(0, 3, rng.integers(0, 12)), int(rng.integers(1, 6))
        seen = token_ids.tolist()
        expected = {
            seen[i + n - 1]
            for i in range(len(seen) - n + 1)
            if seen[i : i + n - 1] == seen[len(seen) - n + 1 :]
        }
        assert banned(apply_no_repeat_ngram(np.zeros(3, np.float32), token_ids, n)) == sorted(expected)


@pytest.mark.parametrize("n", [4, 10**9, 10**400], ids=["4", "huge", "larger than int64"])
def test_an_ngram_longer_than_the_text_bans_nothing(n: int) -> None:
    assert banned(apply_no_repeat_ngram(np.zeros(4, np.float32), np.array([1, 2, 1]), n)) == []


def test_bad_words_are_those_of_transformers(
    row: Floats, history: Ids, assert_like_transformers: Check
) -> None:
    last, before = int(history[-1]), int(history[-2])
    words = [(5,), (last, 6), (before, last, 7), (last, before, 8), (1, 2, 3, 4), (last, 5)]
    reference = NoBadWordsLogitsProcessor([list(word) for word in words], eos_token_id=50_256)
    assert_like_transformers(apply_bad_words(row, history, words), reference, history, row)
    assert banned(apply_bad_words(row, history, words)) == [5, 6, 7]


@pytest.mark.parametrize(
    ("token_ids", "expected"), [([], [0]), ([1], [0, 2]), ([3, 1], [0, 2, 3]), ([1, 3], [0])]
)
def test_a_bad_word_is_banned_at_its_last_id_where_the_rest_matches(
    token_ids: list[int], expected: list[int]
) -> None:
    """One departure from transformers: a word matches at the very beginning of the text too."""
    words = [(0,), (1, 2), (3, 1, 3)]
    scores = apply_bad_words(np.zeros(4, np.float32), np.array(token_ids, np.int64), words)
    assert banned(scores) == expected


@pytest.mark.parametrize("num_generated", [0, 4, 5, 6])
def test_min_new_tokens_is_that_of_transformers(
    row: Floats, history: Ids, num_generated: int, assert_like_transformers: Check
) -> None:
    stops = [50_256, 13]
    reference = MinNewTokensLengthLogitsProcessor(
        len(history) - num_generated, 5, torch.tensor(stops), device="cpu"
    )
    assert_like_transformers(apply_min_new_tokens(row, num_generated, 5, stops), reference, history, row)


def test_ids_outside_the_vocabulary_of_the_tokenizer_are_excluded() -> None:
    scores = apply_vocabulary_size(np.arange(5, dtype=np.float32), 3)
    assert scores.tolist() == [0, 1, 2, -np.inf, -np.inf]


def test_exclusion_leaves_the_others_as_they_are() -> None:
    scores = apply_exclusion(np.arange(4, dtype=np.float32), (2, 0, 2))
    assert scores.tolist() == [-np.inf, 1, -np.inf, 3]


def test_forcing_leaves_one_id_even_an_excluded_one() -> None:
    scores = apply_forced(np.array([1, -np.inf, 3], np.float32), 1)
    assert scores.tolist() == [-np.inf, 0, -np.inf]

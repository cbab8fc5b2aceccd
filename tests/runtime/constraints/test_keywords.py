"""Keywords, one sequence: what is held back, what is forced, what it costs."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ortgpt.constraints.keyword_forms import make_keyword
from ortgpt.constraints.keywords import KeywordTask
from ortgpt.constraints.vocabulary import Vocabulary
from ortgpt.errors import ConstraintError, OptionError
from ortgpt.testing import ByteTokenizer

TOKENIZER = ByteTokenizer()
VOCABULARY = Vocabulary(TOKENIZER)
END = 256


def make_task(*words: str, budget: int = 20, boost: float = 0.0, **more: Any) -> KeywordTask:
    keywords = [
        make_keyword(word, TOKENIZER, boost=boost, is_needed=True, excluded=(), option="keywords")
        for word in words
    ]
    return KeywordTask(keywords, VOCABULARY, budget=budget, stop_token_ids=(END,), **more)


def ids_of(text: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array(list(text.encode()), np.int64)


def allowed(task: KeywordTask, text: str) -> set[int]:
    scores = task.apply(ids_of(text), np.zeros(TOKENIZER.size, np.float32))
    return set(np.flatnonzero(scores > -np.inf).tolist())


def is_there(word: str, text: str, before: str = "") -> bool:
    pattern = rf"(?<!\w)(?={re.escape(word)}(?!\w))"
    return any(m.start() >= len(before) for m in re.finditer(pattern, before + text, re.I))


def test_while_a_word_is_missing_no_stop_may_come() -> None:
    task = make_task("king")
    assert END not in allowed(task, "")
    assert END not in allowed(task, " the kin")
    assert END in allowed(task, " the king")
    assert END in allowed(task, " the king was")
    assert END not in allowed(task, " the kings")


def test_the_choice_is_free_as_long_as_the_tokens_left_suffice() -> None:
    task = make_task("king", budget=10)
    everything = set(range(256))
    assert allowed(task, "aaaa") == everything  # any token now, then the five of " king"
    assert allowed(task, "aaaaa") == {ord(" ")}
    assert allowed(task, "aaaaa ") == {ord("k"), ord("K")}
    assert allowed(task, "aaaa K") == {ord("i")}


def test_a_word_that_ends_the_text_is_not_spoilt_when_tokens_run_short() -> None:
    task = make_task("king", budget=8)
    left = allowed(task, "aa king")
    assert END in left
    assert not left & set(b"abcXYZ019_")
    assert {ord("."), ord(" ")} <= left


def test_a_stop_string_may_begin_only_behind_the_last_word() -> None:
    task = make_task("king", "old")

    def places(text: str) -> list[int]:
        return [place for place in range(len(text) + 1) if task.may_end(ids_of(text), place)]

    assert places("an old") == []
    assert places("an old king") == [11]
    assert places("an old king went") == list(range(11, 17))
    assert places("an old kings") == []


def test_words_count_whole_in_any_case_and_within_the_output_alone() -> None:
    task = make_task("king", "ing", before="x")
    assert task.may_end(ids_of(" KiNg ing"))
    assert not task.may_end(ids_of("king ing "))  # "xking"
    assert not task.may_end(ids_of(" king"))  # "ing" is no word of its own there
    assert not make_task("a king", before="a").may_end(ids_of(" king"))


def test_a_word_inside_another_comes_with_it() -> None:
    task = make_task("golden key", "key")
    assert task.required == make_task("golden key").required == len("golden key")
    assert task.may_end(ids_of(" golden key"))


@pytest.mark.parametrize(
    ("words", "before", "needed"),
    [(["king"], "", 4), (["king"], "a", 5), (["king"], " ", 4), (["king", "é"], "", 7), (["a", "b"], "x", 4)],
)
def test_the_number_of_tokens_needed_is_the_shortest_way_to_write_the_words(
    words: list[str], before: str, needed: int
) -> None:
    assert make_task(*words, before=before).required == needed


def test_the_shortest_way_is_walked_where_the_budget_is_just_enough() -> None:
    rng = random.Random(6)
    for _ in range(200):
        words = rng.sample(
            ["king", "old", "golden key", "é", "a", "fish", "日本", "old king"], rng.randint(1, 4)
        )
        before = rng.choice(["", "a", " ", "é"])
        task = make_task(*words, before=before, budget=make_task(*words, before=before).required)
        ids: list[int] = []
        while len(ids) < task.required:
            options = np.flatnonzero(
                task.apply(np.array(ids, np.int64), np.zeros(TOKENIZER.size, np.float32)) > -np.inf
            )
            ids.append(int(rng.choice([i for i in options if i != END])))
        text = TOKENIZER.decode(ids)
        assert all(is_there(word, text, before) for word in words), (words, before, text)


def test_whatever_is_drawn_every_word_is_there_in_the_end() -> None:
    rng = random.Random(7)
    spoiling = [*b" kingoldeyfhbs.", 0xC3, 0xA9, 0xE6, 0xFF, 256]  # letters that begin and spoil the words
    for case in range(600):
        words = rng.sample(["king", "kings", "old", "golden key", "key", "é", "n", "d-g"], rng.randint(1, 4))
        before = rng.choice(["", "k", " ", "é"])
        budget = make_task(*words, before=before).required + rng.choice([0, 1, 2, 7, 15])
        task = make_task(*words, before=before, budget=budget, boost=rng.choice([0.0, 3.0]))
        ids: list[int] = []
        while len(ids) < budget and END not in ids:
            scores = task.apply(np.array(ids, np.int64), np.zeros(TOKENIZER.size, np.float32))
            options = np.flatnonzero(scores > -np.inf).tolist()
            ids.append(rng.choice([i for i in options if i in spoiling] or options))
        text = TOKENIZER.decode(ids)
        assert all(is_there(word, text, before) for word in words), (case, words, before, text)


def test_a_boost_goes_to_what_begins_a_missing_word_or_goes_on_with_it() -> None:
    task = make_task("king", boost=4.0)
    plain = np.zeros(TOKENIZER.size, np.float32)

    def boosted(text: str) -> set[int]:
        return set(np.flatnonzero(task.apply(ids_of(text), plain) == 4).tolist())

    assert boosted("") == set(b" kK")
    assert boosted("a") == {ord(" ")}
    assert boosted("a ki") == {ord("n")}
    assert boosted("a king") == set()


def test_a_soft_keyword_is_boosted_and_nothing_else() -> None:
    keyword = make_keyword("king", TOKENIZER, boost=4.0, is_needed=False, excluded=(), option="keywords")
    task = KeywordTask([keyword], VOCABULARY, budget=1, stop_token_ids=(END,))
    assert task.required == 0
    assert task.may_end(ids_of(""))
    assert allowed(task, "") == set(range(257))


def test_what_other_rules_exclude_is_let_in_where_only_it_is_left() -> None:
    task = make_task("king", budget=5)
    banned = np.zeros(TOKENIZER.size, np.float32)
    banned[list(b" ")] = -np.inf
    assert np.flatnonzero(task.apply(ids_of(""), banned) > -np.inf).tolist() == sorted(b"Kk")
    assert np.flatnonzero(
        make_task("king", budget=5, before="a").apply(ids_of(""), banned) > -np.inf
    ).tolist() == [32]


def test_other_constraints_are_not_overridden() -> None:
    refuse: Callable[..., bool] = lambda generated, token_ids: False  # noqa: E731
    task = make_task("king", budget=5, before="a", others=refuse, has_others=True)
    with pytest.raises(ConstraintError, match="no way is left to write the keywords at step 0: 'king'"):
        task.apply(ids_of(""), np.zeros(TOKENIZER.size, np.float32))


def test_progress_counts_tokens_of_words_that_are_there_or_begun() -> None:
    task = make_task("king", "old")
    texts = ("", " ", " k", " king", " kings", " king ol", " king old")
    assert [task.progress(ids_of(text)) for text in texts] == [0, 1, 2, 5, 0, 8, 9]
    assert task.advances(ids_of(" king ol")).tolist() == [ord("d")]
    assert task.advances(ids_of(" king")).tolist() == [ord(" ")]


def test_scores_are_never_written_into() -> None:
    task = make_task("king", budget=6, boost=2.0)
    for text in ("", "a", " king", " king."):
        scores = np.zeros(TOKENIZER.size, np.float32)
        task.apply(ids_of(text), scores)
        assert (scores == 0).all()


def test_forms_that_hold_excluded_ids_are_not_used() -> None:
    keyword = make_keyword("king", TOKENIZER, boost=0, is_needed=True, excluded=((ord("K"),),), option="k")
    assert all(ord("K") not in form.token_ids for form in keyword.forms)
    with pytest.raises(OptionError, match=r"keywords\[0\] can't be written without ids that"):
        make_keyword(
            "king", TOKENIZER, boost=0, is_needed=True, excluded=((ord("g"),),), option="keywords[0]"
        )
    with pytest.raises(OptionError, match="can't be written with this tokenizer"):
        make_keyword("<|endoftext|>", TOKENIZER, boost=0, is_needed=True, excluded=(), option="keywords[0]")

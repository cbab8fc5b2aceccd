"""Keywords and Forbidden as the caller gives them."""

from __future__ import annotations

from typing import Any

import pytest

from ortgpt import Forbidden, Keywords, OptionError, Options
from ortgpt.constraint_specs import MAX_WORD_LENGTH, MAX_WORDS


def test_words_are_stripped_and_kept_once() -> None:
    assert Keywords([" king ", "old man", "king"]).words == ("king", "old man")
    assert Forbidden("king").words == ("king",)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ([], "1 to 64 words, got 0"),
        (["a", " "], r"\[1\] is empty"),
        (["a", 3], r"\[1\] must be a string, got 3"),
        (["a\ud800"], "lone surrogate"),
        (["a\ufffd"], "holds U"),
        (None, "must be a list, got None"),
        ([str(i) for i in range(MAX_WORDS + 1)], "got 65"),
        (["x" * (MAX_WORD_LENGTH + 1)], "has 1001 characters"),
    ],
)
def test_what_is_no_word_is_refused(words: Any, problem: str) -> None:
    with pytest.raises(OptionError, match="keywords.*" + problem):
        Keywords(words)
    with pytest.raises(OptionError, match="forbidden.*" + problem):
        Forbidden(words)


@pytest.mark.parametrize("fields", [{"boost": -1}, {"boost": float("nan")}, {"guarantee": 1}, {"boost": "5"}])
def test_fields_out_of_range_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(fields))):
        Keywords(["a"], **fields)
    with pytest.raises(OptionError, match="whole_words"):
        Forbidden(["a"], whole_words="yes")  # type: ignore[arg-type]


def test_keywords_without_any_effect_are_refused() -> None:
    with pytest.raises(OptionError, match="no effect"):
        Keywords(["a"], guarantee=False, boost=0)


def test_options_take_constraints_and_nothing_else_for_them() -> None:
    assert Options(constraints=[Keywords(["a"])]).constraints == (Keywords(["a"]),)
    with pytest.raises(OptionError, match=r"constraints\[1\] must be a constraint such as Keywords, got 'a'"):
        Options(constraints=[Keywords(["a"]), "a"])  # type: ignore[list-item]
    assert Options(constraints=Keywords(["a"])).constraints == (Keywords(["a"]),)
    with pytest.raises(OptionError, match="constraints must be a list"):
        Options(constraints="a")  # type: ignore[arg-type]

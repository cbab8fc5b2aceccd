"""From the caller's constraints to one that is bound: what contradicts itself is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ortgpt.constraint_specs import ConstraintSpec, Forbidden, Keywords
from ortgpt.constraints.binding import ConstraintBinder, Sequel
from ortgpt.constraints.combined import AllOf
from ortgpt.errors import OptionError
from ortgpt.testing import ByteTokenizer

NOTHING = np.zeros(0, np.int64)


def bind(*specs: ConstraintSpec, **fields: Any) -> AllOf:
    sequel = {"prompt_ids": (), "before": "", "healed": b"", "budget": 20, "stop_token_ids": (256,)}
    bound = ConstraintBinder(ByteTokenizer(), 257).bind(specs, Sequel(**(sequel | fields)))
    assert bound is not None
    return bound


def scores_after(bound: AllOf, text: str) -> dict[str, float]:
    scores = bound.apply(np.array(list(text.encode()), np.int64), np.zeros(257, np.float32))
    return {chr(i): float(scores[i]) for i in range(256)}


def test_without_constraints_there_is_nothing_to_bind() -> None:
    sequel = Sequel((), "", b"", 20, (256,))
    assert ConstraintBinder(ByteTokenizer(), 257).bind([], sequel) is None


def test_keywords_that_need_more_tokens_than_there_are_name_the_number() -> None:
    assert bind(Keywords(["old king"]), budget=8).has_banks
    with pytest.raises(OptionError, match="keywords need 8 tokens, 7 can be generated"):
        bind(Keywords(["old king"]), budget=7)
    with pytest.raises(OptionError, match="keywords need 9 tokens, 8 can be generated"):
        bind(Keywords(["king"]), Keywords(["old"]), budget=8, before="a")
    with pytest.raises(OptionError, match="keywords need 1 tokens, 0 can be generated"):
        bind(Keywords(["a"]), budget=-3)
    assert not bind(Keywords(["old king"], guarantee=False), budget=3).has_banks


def test_a_forced_first_token_takes_one_of_the_budget() -> None:
    with pytest.raises(OptionError, match="need 6 tokens"):
        bind(Keywords(["king"]), budget=5, is_first_forced=True)


@pytest.mark.parametrize(
    ("keyword", "forbidden", "whole"),
    [("dragon", "drag", False), ("red dragon", "Dragon", True), ("king", "KING", False)],
)
def test_a_keyword_that_holds_a_forbidden_word_is_refused(keyword: str, forbidden: str, whole: bool) -> None:
    with pytest.raises(OptionError, match="which is forbidden"):
        bind(Keywords([keyword]), Forbidden([forbidden], whole_words=whole))


def test_a_forbidden_whole_word_leaves_longer_keywords_alone() -> None:
    assert bind(Keywords(["dragon"]), Forbidden(["drag"], whole_words=True)).has_banks


def test_the_same_word_in_another_case_is_one_keyword_with_the_stronger_wish() -> None:
    bound = bind(Keywords(["King"], boost=2.0), Keywords(["king"], guarantee=False, boost=3.0), budget=4)
    assert scores_after(bound, "k")["i"] == 3.0
    assert not bound.may_end(NOTHING)


def test_a_keyword_is_not_forced_into_a_forbidden_word() -> None:
    bound = bind(Keywords(["king"]), Forbidden(["o k"]), budget=7)
    # No room is left but for the word; behind an "o" it would be forbidden, so one token goes first.
    scores = scores_after(bound, "o")
    assert scores[" "] > -np.inf
    assert scores_after(bound, "o ")["k"] == -np.inf


def test_excluded_sequences_are_not_completed_by_a_keyword_across_its_border() -> None:
    # "k" must not come after "x ": a keyword is written in capitals there.
    bound = bind(Keywords(["king"]), excluded=(tuple(b" k"),), before="x ", prompt_ids=tuple(b"x "), budget=4)
    allowed = {char for char, score in scores_after(bound, "").items() if score > -np.inf}
    assert allowed == {"K"}


def test_healed_text_counts_as_output() -> None:
    bound = bind(Keywords(["dragon"]), Forbidden(["onyx"]), before="The drag", healed=b"on")
    assert not bound.may_end(NOTHING)
    bound = bind(Keywords(["on"]), Forbidden(["onyx"]), before="The ", healed=b"on")
    assert [bound.may_end(NOTHING, place) for place in (1, 2)] == [False, True]
    assert scores_after(bound, "y")["x"] == -np.inf

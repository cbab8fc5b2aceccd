"""Options of the verbs are checked when they are made, and again against the vocabulary."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from ortgpt.errors import OptionError
from ortgpt.interfaces import Floats, Ids
from ortgpt.options import MAX_NEW_TOKENS, MAX_SEED, MAX_SEQUENCES, Options, make_options

INF, NAN = float("inf"), float("nan")
COUNT = [-1, 1.5, True, None, "5", NAN]
HUGE = 10**400
NUMBER = [NAN, INF, -INF, "1", None, True, HUGE]


def keep(token_ids: Ids, logits: Floats) -> Floats:
    return logits


# Values that are wrong, and the name that the error gives where it is not the option's own.
BAD: dict[str, list[Any]] = {
    "max_new_tokens": [*COUNT, MAX_NEW_TOKENS + 1, HUGE],
    "min_new_tokens": [*COUNT, MAX_NEW_TOKENS + 1, HUGE],
    "seed": [-1, 2**63, 2**64, 1.5, True, "7", NAN],
    "seed[1]": [[1, -1], [1, 2**63], (0, None), [0, "7"]],
    "n": [*COUNT, 0, 129, 10**6, HUGE],
    "echo": [1, 0, None, "true"],
    "repetition_penalty": [*NUMBER, 0, -1],
    "presence_penalty": NUMBER,
    "frequency_penalty": NUMBER,
    "no_repeat_ngram_size": COUNT,
    "logprobs": [value for value in COUNT if value is not None],
    "max_time": [-1, NAN, INF, "1", True],
    "stop": [None, 5, b"x", {"a": 1}, {"a"}],
    "stop[0]": ["", [""], [5], ["\ud800"], [b"x"], [None]],
    "stop[1]": [["a", ""]],
    "stop_token_ids": ["5", 5, {1}],
    "stop_token_ids[0]": [[-1], [1.5], [True], ["5"], [[1]]],
    "bad_words": ["word", None, 5, {"a": 1}],
    "bad_words[0]": [[""], [[]], [5], [None], ["\ud800"]],
    "bad_words[0][1]": [[[1, -1]], [[1, "2"]]],
    "logit_bias": [None, [1], "AI", {"AI": 1.0}, {"1": 1.0}, {-1: 1.0}, {1.5: 1.0}, {True: 1.0}],
    "logit_bias[7]": [{7: NAN}, {7: INF}, {7: "1e3"}, {7: None}, {7: True}, {7: HUGE}],
    "processors": [None, keep, "x", {"a": keep}],
    "processors[1]": [[keep, 5], [keep, None]],
}
GOOD: dict[str, list[Any]] = {
    "max_new_tokens": [0, 1, 10**9, MAX_NEW_TOKENS, np.int64(5)],
    "min_new_tokens": [0, 1, 10**9],
    "seed": [None, 0, MAX_SEED, np.int64(5), (1, 2, 1)],
    "n": [1, 128],
    "echo": [True, False],
    "repetition_penalty": [1e-320, 1, 1e308],
    "presence_penalty": [-2.1, 0, 2.1, 1e308],
    "frequency_penalty": [-2.1, 0, 2.1, -1e308],
    "no_repeat_ngram_size": [0, 1, 10**9, HUGE],
    "logprobs": [None, 0, 6, 10**6],
    "max_time": [None, 0, 1e308],
    "stop_token_ids": [None, (), (0, 2**40)],
    "stop": [(), ("a", "b", "c", "d", "e"), ("x" * 10**6,), (".*[a",), ("\x00",)],
    "bad_words": [(), ("word", (1, 2))],
    "logit_bias": [{}, {0: -INF}, {5: 101, 50256: -1e308}],
    "processors": [(), (keep, keep)],
}


def cases(table: dict[str, list[Any]]) -> list[Any]:
    return [
        pytest.param(name, value, id=f"{name}-{index}")
        for name, values in table.items()
        for index, value in enumerate(values)
    ]


@pytest.mark.parametrize(("named", "value"), cases(BAD))
def test_a_value_out_of_range_is_an_option_error_naming_it(named: str, value: Any) -> None:
    """FAULTS 30, 32, 33, 34, 36, 37, 38, 39"""
    with pytest.raises(OptionError) as caught:
        Options(**{named.split("[")[0]: value})
    assert caught.value.option == named
    assert str(caught.value).startswith(named + " ")


@pytest.mark.parametrize(("name", "value"), cases(GOOD))
def test_the_ends_of_the_ranges_pass(name: str, value: Any) -> None:
    """FAULTS 32, 33, 34, 36, 37, 38, 39"""
    assert getattr(Options(**{name: value}), name) == value


def test_every_option_is_in_both_tables() -> None:
    names = {field.name for field in dataclasses.fields(Options)}
    assert {name.split("[")[0] for name in BAD} == set(GOOD) == names


def test_a_single_stop_string_is_a_list_of_one() -> None:
    assert Options(stop="END").stop == ("END",)


def test_what_the_caller_changes_afterwards_does_not_matter() -> None:
    stop, ids, words, biases = ["a"], [1], ["w"], {1: 1.0}
    options = Options(stop=stop, stop_token_ids=ids, bad_words=words, logit_bias=biases)
    stop.append(""), ids.append(-1), words.append(""), biases.update({-1: NAN})
    assert (options.stop, options.stop_token_ids, options.bad_words) == (("a",), (1,), ("w",))
    assert options.logit_bias == {1: 1.0}


def test_the_number_of_sequences_is_bounded() -> None:
    """FAULTS 33"""
    assert MAX_SEQUENCES == 128


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"stop_token_ids": [3, 10]}, "stop_token_ids[1]"),
        ({"bad_words": ["fine", [1, 10]]}, "bad_words[1][1]"),
        ({"logit_bias": {10: 1.0}}, "logit_bias"),
        ({"logprobs": 11}, "logprobs"),
    ],
)
def test_ids_and_counts_outside_the_vocabulary_are_option_errors(fields: Any, named: str) -> None:
    """FAULTS 30, 36, 37"""
    with pytest.raises(OptionError) as caught:
        Options(**fields).check_against(10)
    assert caught.value.option == named


def test_ids_and_counts_at_the_end_of_the_vocabulary_pass() -> None:
    """FAULTS 36, 37"""
    options = Options(stop_token_ids=[9], bad_words=["x", [9]], logit_bias={9: -INF, 0: 1}, logprobs=10)
    options.check_against(10)
    assert options.logprobs == 10


def test_an_unknown_option_is_an_option_error_that_lists_the_known_ones() -> None:
    with pytest.raises(OptionError, match="min_new_tokens") as caught:
        make_options({"max_tokens": 5})  # type: ignore[typeddict-unknown-key]
    assert caught.value.option == "max_tokens"
    assert make_options({"n": 2}) == Options(n=2)

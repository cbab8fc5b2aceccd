"""Options of the verbs are checked when they are made, and again against the vocabulary."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from ortgpt.constraint_specs import Keywords
from ortgpt.errors import OptionError
from ortgpt.interfaces import Floats, Ids
from ortgpt.option_checks import MAX_SEED
from ortgpt.options import MAX_NEW_TOKENS, MAX_SEQUENCES, Options, make_options

INF, NAN = float("inf"), float("nan")
KEYWORDS = Keywords(["dragon"])
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
    "best_of": [*(value for value in COUNT if value is not None), 0, 129, 10**6],
    "echo": [1, 0, None, "true"],
    "token_healing": [1, 0, None, "true"],
    "guidance_scale": [*NUMBER, -1],
    "negative_prompt": [5, b"x", "\ud800", {"a": 1}],
    "negative_prompt[1]": [[1, -1], [1, 1.5], [1, True], [1, "5"]],
    "prompt_lookup": [1, 0, None, "true"],
    "draft": [5, "models/small", True],
    "num_draft_tokens": [0, -1, 65, 1.5, True, "5", HUGE],
    "repetition_penalty": [*NUMBER, 0, -1],
    "presence_penalty": NUMBER,
    "frequency_penalty": NUMBER,
    "dry_multiplier": [*NUMBER, -1],
    "dry_base": [0.9, -1, NAN, "2", True],
    "dry_allowed_length": [-1, 1.5, True, "5", NAN],
    "dry_sequence_breakers": ["\n", 5, {"a": 1}],
    "dry_sequence_breakers[1]": [["a", ""], ["a", 5], ["a", "\ud800"]],
    "no_repeat_ngram_size": COUNT,
    "exponential_decay_length_penalty": [5, "5,1.1", (5,), (5, 1.1, 2), {5: 1.1}],
    "exponential_decay_length_penalty[0]": [(-1, 1.1), (1.5, 1.1), (None, 1.1)],
    "exponential_decay_length_penalty[1]": [(5, 0), (5, -1), (5, NAN), (5, INF), (5, "1.1")],
    "forced_bos_token_id": [-1, 1.5, True, "5", [5]],
    "forced_eos_token_id": [-1, 1.5, True, "5", [5]],
    "suppress_tokens": ["5", 5, None, {1}],
    "suppress_tokens[1]": [[1, -1], [1, 1.5], [1, True], [1, "5"]],
    "begin_suppress_tokens": ["5", 5, None, {1}],
    "begin_suppress_tokens[1]": [[1, -1], [1, 1.5], [1, True], [1, "5"]],
    "sequence_bias": [None, [1], "AI"],
    "sequence_bias['']": [{"": 1.0}],
    "sequence_bias[()]": [{(): 1.0}],
    "sequence_bias[5]": [{5: 1.0}],
    "sequence_bias['AI']": [{"AI": NAN}, {"AI": INF}, {"AI": "1"}, {"AI": None}, {"AI": HUGE}],
    "sequence_bias[(1, -1)][1]": [{(1, -1): 1.0}],
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
    "constraints": [None, "x", {"a": KEYWORDS}],
    "constraints[1]": [[KEYWORDS, 5], [KEYWORDS, None], [KEYWORDS, "dragon"]],
    "processors": [None, keep, "x", {"a": keep}],
    "processors[1]": [[keep, 5], [keep, None]],
}
GOOD: dict[str, list[Any]] = {
    "max_new_tokens": [0, 1, 10**9, MAX_NEW_TOKENS, np.int64(5)],
    "min_new_tokens": [0, 1, 10**9],
    "seed": [None, 0, MAX_SEED, np.int64(5), (1, 2, 1)],
    "n": [1, 128],
    "best_of": [None, 1, 128],
    "echo": [True, False],
    "token_healing": [True, False],
    "guidance_scale": [0, 1, 1e308],
    "negative_prompt": ["", (), (0, 2**40), "text"],
    "prompt_lookup": [True, False],
    "draft": [None],
    "num_draft_tokens": [1, 64],
    "repetition_penalty": [1e-320, 1, 1e308],
    "presence_penalty": [-2.1, 0, 2.1, 1e308],
    "frequency_penalty": [-2.1, 0, 2.1, -1e308],
    "dry_multiplier": [0, 1e-320, 1e308],
    "dry_base": [None, 1, 1e308],
    "dry_allowed_length": [None, 0, HUGE],
    "dry_sequence_breakers": [None, (), ("a", "\n\n")],
    "no_repeat_ngram_size": [0, 1, 10**9, HUGE],
    "exponential_decay_length_penalty": [None, (0, 1e-320), (10**9, 1e308)],
    "forced_bos_token_id": [None, 0, 2**40],
    "forced_eos_token_id": [None, 0, 2**40],
    "suppress_tokens": [(), (0, 2**40)],
    "begin_suppress_tokens": [(), (0, 2**40)],
    "sequence_bias": [{}, {"AI": 101.0, (0,): -INF, (1, 2): -1e308}],
    "logprobs": [None, 0, 6, 10**6],
    "max_time": [None, 0, 1e308],
    "stop_token_ids": [None, (), (0, 2**40)],
    "stop": [(), ("a", "b", "c", "d", "e"), ("x" * 10**6,), (".*[a",), ("\x00",)],
    "bad_words": [(), ("word", (1, 2))],
    "logit_bias": [{}, {0: -INF}, {5: 101, 50256: -1e308}],
    "constraints": [(), (KEYWORDS, KEYWORDS)],
    "processors": [(), (keep, keep)],
}


# What an option needs beside it, so that its own value is at fault.
NEEDED: dict[str, dict[str, Any]] = {
    "num_draft_tokens": {"prompt_lookup": True},
    "negative_prompt": {"guidance_scale": 1.5},
    "dry_base": {"dry_multiplier": 1.0},
    "dry_allowed_length": {"dry_multiplier": 1.0},
    "dry_sequence_breakers": {"dry_multiplier": 1.0},
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
        Options(**{named.split("[")[0]: value}, **NEEDED.get(named.split("[")[0], {}))
    assert caught.value.option == named
    assert str(caught.value).startswith(named + " ")


@pytest.mark.parametrize(("name", "value"), cases(GOOD))
def test_the_ends_of_the_ranges_pass(name: str, value: Any) -> None:
    """FAULTS 32, 33, 34, 36, 37, 38, 39"""
    assert getattr(Options(**{name: value}, **NEEDED.get(name, {})), name) == value


def test_every_option_is_in_both_tables() -> None:
    names = {field.name for field in dataclasses.fields(Options)}
    assert {name.split("[")[0] for name in BAD} == set(GOOD) == names


@pytest.mark.parametrize(
    ("name", "value"), [("dry_base", 1.0), ("dry_allowed_length", 0), ("dry_sequence_breakers", [])]
)
def test_what_shapes_dry_needs_its_multiplier(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match="has no effect without dry_multiplier") as caught:
        Options(**{name: value})
    assert caught.value.option == name
    assert Options(dry_multiplier=0.5, **{name: value}).dry_multiplier == 0.5


@pytest.mark.parametrize(
    ("name", "value", "switch"),
    [("negative_prompt", "x", "guidance_scale"), ("num_draft_tokens", 4, "prompt_lookup or draft")],
)
def test_what_shapes_a_feature_that_is_off_is_refused(name: str, value: Any, switch: str) -> None:
    with pytest.raises(OptionError, match=f"{name} has no effect without {switch}"):
        Options(**{name: value})


def test_no_fewer_sequences_are_drawn_than_asked_for() -> None:
    """FAULTS 33"""
    assert Options(n=3, best_of=3).best_of == 3
    with pytest.raises(OptionError, match="best_of must be between 3 and 128, got 2"):
        Options(n=3, best_of=2)


@pytest.mark.parametrize("name", ["forced_bos_token_id", "forced_eos_token_id"])
def test_a_forced_token_that_is_suppressed_is_refused(name: str) -> None:
    with pytest.raises(OptionError, match="is among suppress_tokens") as caught:
        Options(suppress_tokens=[4, 5], **{name: 5})
    assert caught.value.option == name
    assert Options(suppress_tokens=[4, 5], begin_suppress_tokens=[6], **{name: 6}).suppress_tokens == (4, 5)


def test_a_length_decay_without_a_stop_id_is_refused() -> None:
    with pytest.raises(OptionError, match="has no effect without a stop id"):
        Options(exponential_decay_length_penalty=(5, 1.1), stop_token_ids=[])


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
        ({"sequence_bias": {"fine": 1.0, (1, 10): 1.0}}, "sequence_bias[(1, 10)][1]"),
        ({"suppress_tokens": [3, 10]}, "suppress_tokens[1]"),
        ({"begin_suppress_tokens": [10]}, "begin_suppress_tokens[0]"),
        ({"forced_bos_token_id": 10}, "forced_bos_token_id"),
        ({"forced_eos_token_id": 10}, "forced_eos_token_id"),
        ({"logprobs": 11}, "logprobs"),
        ({"guidance_scale": 1.5, "negative_prompt": [3, 10]}, "negative_prompt[1]"),
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

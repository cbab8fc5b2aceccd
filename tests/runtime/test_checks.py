"""Range checks: what passes, what does not, and what the error says."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from ortgpt.checks import check_float, check_int, check_text, check_token_ids, shown
from ortgpt.errors import OptionError

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize("value", [0, 5, np.int64(3), np.uint8(2)])
def test_an_integer_in_range_passes_as_an_int(value: Any) -> None:
    assert check_int("n", value, 0, 5) == int(value)
    assert type(check_int("n", value, 0, 5)) is int


@pytest.mark.parametrize("value", [-1, 6, 10**400, True, None, "5", 1.0, NAN, [1], 1 + 0j])
def test_any_other_value_is_no_integer_in_range(value: Any) -> None:
    """FAULTS 32"""
    with pytest.raises(OptionError, match=r"^n must be ") as caught:
        check_int("n", value, 0, 5)
    assert caught.value.option == "n"


@pytest.mark.parametrize("value", [0, 1, 0.5, 1e-320, np.float32(0.5), np.int64(1), Fraction(1, 3)])
def test_a_number_in_range_passes_as_a_float(value: Any) -> None:
    assert check_float("p", value, 0.0, 1.0) == float(value)
    assert type(check_float("p", value, 0.0, 1.0)) is float


@pytest.mark.parametrize("value", [-0.1, 1.1, INF, -INF, NAN, 10**400, True, None, "hot", [0.5], 1j])
def test_any_other_value_is_no_number_in_range(value: Any) -> None:
    """FAULTS 34"""
    with pytest.raises(OptionError, match=r"^p must be ") as caught:
        check_float("p", value, 0.0, 1.0)
    assert caught.value.option == "p"


def test_above_leaves_the_lower_bound_out() -> None:
    assert check_float("p", 1e-320, 0.0, above=True) == 1e-320
    with pytest.raises(OptionError, match="above 0"):
        check_float("p", 0.0, 0.0, above=True)


def test_messages_name_the_bounds_and_the_value() -> None:
    with pytest.raises(OptionError, match="n must be between 1 and 9, got 10"):
        check_int("n", 10, 1, 9)
    with pytest.raises(OptionError, match="n must be at least 1, got 0"):
        check_int("n", 0, 1)
    with pytest.raises(OptionError, match=r"p must be at least 0 and at most 1, got 1\.5"):
        check_float("p", 1.5, 0.0, 1.0)


@pytest.mark.parametrize(
    "value", [[], [0, 9], (1, 2), np.array([3, 4]), np.array([5], np.int32), range(3), [np.int64(1)]]
)
def test_sequences_of_ids_pass_as_tuples_of_ints(value: Any) -> None:
    ids = check_token_ids("prompt", value, 10)
    assert ids == tuple(int(token_id) for token_id in value)
    assert all(type(token_id) is int for token_id in ids)


@pytest.mark.parametrize("bad", [-1, 10, 2**63, 1.5, True, "5", None, [1], NAN])
def test_a_bad_id_is_named_by_its_place(bad: Any) -> None:
    """FAULTS 30"""
    with pytest.raises(OptionError) as caught:
        check_token_ids("prompt", [1, 2, bad, 3], 10)
    assert caught.value.option == "prompt[2]"


@pytest.mark.parametrize("value", ["12", b"12", None, 5, {1, 2}, {1: 2}, np.int64(3), np.array([[1], [2]])])
def test_what_is_no_sequence_of_ids_is_an_option_error(value: Any) -> None:
    """FAULTS 28, 30"""
    with pytest.raises(OptionError, match="prompt"):
        check_token_ids("prompt", value, 10)


@pytest.mark.parametrize("text", ["", "text", "\x00", "\ufeff", "\ufffd", "🙂", "עברית"])
def test_text_passes_as_it_is(text: str) -> None:
    """FAULTS 29"""
    assert check_text("prompt", text) is text


@pytest.mark.parametrize("value", [None, b"text", 5, ["text"]])
def test_what_is_no_string_is_an_option_error(value: Any) -> None:
    """FAULTS 28"""
    with pytest.raises(OptionError, match="prompt must be a string"):
        check_text("prompt", value)


def test_a_lone_surrogate_is_named_by_its_place() -> None:
    """FAULTS 29"""
    with pytest.raises(OptionError, match="character 2") as caught:
        check_text("prompt", "ab\ud800")
    assert caught.value.option == "prompt"


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError


def test_values_are_shown_short_whatever_they_are() -> None:
    for value in ("x" * 10**6, 10**5000, Unprintable(), [[]] * 10**5):
        assert 0 < len(shown(value)) <= 60

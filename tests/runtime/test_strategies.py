"""Strategies are checked when they are made."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ortgpt.errors import OptionError
from ortgpt.strategies import Greedy, Sampling

INF, NAN = float("inf"), float("nan")

BAD = {
    "temperature": [-1, -1e-9, NAN, INF, "hot", None, True, 10**400],
    "top_k": [-1, 1.5, "5", True, NAN],
    "top_p": [-0.1, 1.1, NAN, INF, None, "0.9"],
    "min_p": [-0.1, 1.1, NAN, None],
    "typical_p": [0, 0.0, -0.1, 1.1, NAN, None],
}
GOOD = {
    "temperature": [0, 0.0, 1e-320, 2.1, 1e308],
    "top_k": [None, 0, 1, 10**9],
    "top_p": [0, 0.0, 1e-320, 1],
    "min_p": [0, 1],
    "typical_p": [1e-320, 1],
}


def cases(table: dict[str, list[Any]]) -> list[tuple[str, Any]]:
    return [(name, value) for name, values in table.items() for value in values]


@pytest.mark.parametrize(("name", "value"), cases(BAD))
def test_a_value_out_of_range_is_an_option_error_naming_it(name: str, value: Any) -> None:
    """FAULTS 34"""
    with pytest.raises(OptionError) as caught:
        Sampling(**{name: value})
    assert caught.value.option == name
    assert str(caught.value).startswith(f"{name} must be ")


@pytest.mark.parametrize(("name", "value"), cases(GOOD))
def test_the_ends_of_the_ranges_pass(name: str, value: Any) -> None:
    """FAULTS 34"""
    assert getattr(Sampling(**{name: value}), name) == value


def test_every_field_is_in_both_tables() -> None:
    names = {field.name for field in dataclasses.fields(Sampling)}
    assert set(BAD) == set(GOOD) == names


def test_plain_sampling_truncates_nothing() -> None:
    assert Sampling() == Sampling(temperature=1.0, top_k=None, top_p=1.0, min_p=0.0, typical_p=1.0)


def test_strategies_are_frozen_and_keyword_only() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Sampling().top_k = 5  # type: ignore[misc]
    with pytest.raises(TypeError):
        Sampling(0.5)  # type: ignore[misc]
    assert Greedy() == Greedy()

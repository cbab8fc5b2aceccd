"""Strategies are checked when they are made."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ortgpt.errors import OptionError
from ortgpt.strategies import FILTER_ORDER, BeamSearch, ContrastiveSearch, Greedy, Sampling

INF, NAN = float("inf"), float("nan")

BAD = {
    "temperature": [-1, -1e-9, NAN, INF, "hot", None, True, 10**400],
    "dynatemp_range": [-1, NAN, INF, "1", None, True],
    "dynatemp_exponent": [-1, NAN, INF, "1", True],
    "top_n_sigma": [-1, NAN, INF, "1", None, True],
    "top_k": [-1, 1.5, "5", True, NAN],
    "top_p": [-0.1, 1.1, NAN, INF, None, "0.9"],
    "min_p": [-0.1, 1.1, NAN, None],
    "typical_p": [0, 0.0, -0.1, 1.1, NAN, None],
    "epsilon_cutoff": [-0.1, 1.1, NAN, None],
    "eta_cutoff": [-0.1, 1.1, NAN, None],
    "xtc_probability": [-0.1, 1.1, NAN, None, True],
    "xtc_threshold": [0, -0.1, 0.51, NAN, "0.1"],
    "mirostat_tau": [-0.1, 100.1, NAN, INF, None, "5"],
    "mirostat_eta": [-0.1, 1.1, NAN, "0.1"],
    "order": ["top_k", 5, None, {"top_k": 1}],
}
# What a field needs beside it, so that its own value is at fault.
NEEDED: dict[str, dict[str, Any]] = {
    "dynatemp_exponent": {"dynatemp_range": 0.5},
    "xtc_threshold": {"xtc_probability": 0.5},
    "mirostat_eta": {"mirostat_tau": 5.0},
}
GOOD = {
    "temperature": [0, 0.0, 1e-320, 2.1, 1e308],
    "dynatemp_range": [0, 1e-320, 1e308],
    "dynatemp_exponent": [None, 0, 1e308],
    "top_n_sigma": [0, 1e-320, 1e308],
    "top_k": [None, 0, 1, 10**9],
    "top_p": [0, 0.0, 1e-320, 1],
    "min_p": [0, 1],
    "typical_p": [1e-320, 1],
    "epsilon_cutoff": [0, 1e-320, 1],
    "eta_cutoff": [0, 1e-320, 1],
    "xtc_probability": [0, 1e-320, 1],
    "xtc_threshold": [None, 1e-320, 0.5],
    "mirostat_tau": [0, 1e-320, 100],
    "mirostat_eta": [None, 0, 1],
    "order": [(), ("top_k", "temperature"), FILTER_ORDER],
}


def cases(table: dict[str, list[Any]]) -> list[tuple[str, Any]]:
    return [(name, value) for name, values in table.items() for value in values]


@pytest.mark.parametrize(("name", "value"), cases(BAD))
def test_a_value_out_of_range_is_an_option_error_naming_it(name: str, value: Any) -> None:
    """FAULTS 34"""
    with pytest.raises(OptionError) as caught:
        Sampling(**{name: value}, **NEEDED.get(name, {}))
    assert caught.value.option == name
    assert str(caught.value).startswith(f"{name} must be ")


@pytest.mark.parametrize(("name", "value"), cases(GOOD))
def test_the_ends_of_the_ranges_pass(name: str, value: Any) -> None:
    """FAULTS 34"""
    assert getattr(Sampling(**{name: value}, **NEEDED.get(name, {})), name) == value


def test_every_field_is_in_both_tables() -> None:
    names = {field.name for field in dataclasses.fields(Sampling)}
    assert set(BAD) == set(GOOD) == names


def test_plain_sampling_truncates_nothing() -> None:
    assert Sampling().active_filters == ()
    assert Sampling() == Sampling(temperature=1.0, top_k=None, top_p=1.0, min_p=0.0, typical_p=1.0)


@pytest.mark.parametrize("name", NEEDED)
def test_a_field_without_the_one_it_belongs_to_is_refused(name: str) -> None:
    with pytest.raises(OptionError, match=f"has no effect without {next(iter(NEEDED[name]))}") as caught:
        Sampling(**{name: 0.5})
    assert caught.value.option == name


TRUNCATIONS: dict[str, Any] = {
    "top_n_sigma": 1.0,
    "top_k": 5,
    "top_p": 0.9,
    "min_p": 0.1,
    "typical_p": 0.9,
    "epsilon_cutoff": 0.1,
    "eta_cutoff": 0.1,
    "xtc_probability": 0.5,
}


@pytest.mark.parametrize("name", TRUNCATIONS)
def test_mirostat_takes_the_place_of_all_truncation(name: str) -> None:
    with pytest.raises(OptionError, match=name.removesuffix("_probability")) as caught:
        Sampling(mirostat_tau=5.0, **{name: TRUNCATIONS[name]})
    assert caught.value.option == "mirostat_tau"


def test_mirostat_goes_with_a_temperature_but_with_no_order() -> None:
    assert not Sampling(mirostat_tau=5.0, temperature=0.5, dynatemp_range=0.2).is_greedy
    with pytest.raises(OptionError, match="order has no effect with mirostat_tau"):
        Sampling(mirostat_tau=5.0, order=["temperature"])


@pytest.mark.parametrize(
    ("order", "named"),
    [(["top_k", "top_q"], "order[1]"), (["top_k", "top_p", "top_k"], "order[2]"), ([5], "order[0]")],
)
def test_an_order_of_unknown_or_repeated_filters_is_refused(order: Any, named: str) -> None:
    with pytest.raises(OptionError) as caught:
        Sampling(order=order)
    assert caught.value.option == named


@pytest.mark.parametrize("name", ["temperature", *TRUNCATIONS])
def test_an_order_names_every_filter_that_is_set(name: str) -> None:
    filter_name = name.removesuffix("_probability")
    fields = {**TRUNCATIONS, "temperature": 0.5}
    without = [other for other in FILTER_ORDER if other != filter_name]
    with pytest.raises(OptionError, match=f"order leaves out {filter_name}, which is set"):
        Sampling(**{name: fields[name]}, order=without)
    assert Sampling(**{name: fields[name]}, order=[filter_name]).order == (filter_name,)
    assert Sampling(**{name: fields[name]}).active_filters == (filter_name,)


@pytest.mark.parametrize("name", ["xtc_probability", "mirostat_tau"])
def test_what_needs_a_draw_is_refused_at_temperature_zero(name: str) -> None:
    with pytest.raises(OptionError, match="no effect at temperature 0") as caught:
        Sampling(temperature=0, **{name: 0.5})
    assert caught.value.option == name
    assert not Sampling(temperature=0, dynatemp_range=1.0, **{name: 0.5}).is_greedy


def test_strategies_are_frozen_and_keyword_only() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Sampling().top_k = 5  # type: ignore[misc]
    with pytest.raises(TypeError):
        Sampling(0.5)  # type: ignore[misc]
    assert Greedy() == Greedy()


@pytest.mark.parametrize(
    ("option", "fields"),
    [
        ("num_beams", {"num_beams": 0}),
        ("num_beams", {"num_beams": 65}),
        ("num_beams", {"num_beams": True}),
        ("length_penalty", {"length_penalty": float("nan")}),
        ("early_stopping", {"early_stopping": "maybe"}),
        ("num_return_sequences", {"num_beams": 3, "num_return_sequences": 4}),
        ("num_beam_groups", {"num_beams": 5, "num_beam_groups": 2, "diversity_penalty": 1.0}),
        ("diversity_penalty", {"num_beams": 4, "num_beam_groups": 2}),
        ("diversity_penalty", {"diversity_penalty": 1.0}),
        ("sample", {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0, "sample": True}),
        ("sample", {"sample": 1}),
        ("temperature", {"sample": True, "temperature": 0}),
        ("temperature", {"temperature": 0.5}),
        ("top_k", {"top_k": 5}),
    ],
)
def test_beams_out_of_range_or_without_effect_are_refused_by_name(
    option: str, fields: dict[str, object]
) -> None:
    """FAULTS 44"""
    with pytest.raises(OptionError) as caught:
        BeamSearch(**fields)  # type: ignore[arg-type]
    assert option in caught.value.option


@pytest.mark.parametrize(
    ("option", "fields"),
    [
        ("top_k", {"top_k": 0}),
        ("top_k", {"top_k": 65}),
        ("penalty_alpha", {"penalty_alpha": 1.1}),
        ("penalty_alpha", {"penalty_alpha": float("nan")}),
    ],
)
def test_contrastive_search_out_of_range_is_refused_by_name(option: str, fields: dict[str, object]) -> None:
    with pytest.raises(OptionError) as caught:
        ContrastiveSearch(**fields)  # type: ignore[arg-type]
    assert caught.value.option == option

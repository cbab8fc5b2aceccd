"""The less common options on the command line."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import typer

from ortgpt.cli import generate
from ortgpt.cli.flags import read_option_flags, read_sampling_flags
from ortgpt.errors import OptionError
from ortgpt.options import Options, make_options
from ortgpt.strategies import Sampling

# field: (arguments, the value that the library is to get)
OPTION_FLAGS: dict[str, tuple[list[str], Any]] = {
    "dry_multiplier": (["0.8"], 0.8),
    "dry_base": (["1.5"], 1.5),
    "dry_allowed_length": (["0"], 0),
    "dry_sequence_breakers": (["\n", "a b"], ["\n", "a b"]),
    "exponential_decay_length_penalty": (["20,1.05"], (20, 1.05)),
    "forced_bos_token_id": (["0"], 0),
    "forced_eos_token_id": (["7"], 7),
    "suppress_tokens": (["5", "6,7"], [5, 6, 7]),
    "begin_suppress_tokens": (["5,6"], [5, 6]),
    "sequence_bias": (["golden key=1.5", "a=b=-inf"], {"golden key": 1.5, "a=b": -float("inf")}),
}
SAMPLING_FLAGS: dict[str, tuple[list[str], Any]] = {
    "dynatemp_range": (["0.5"], 0.5),
    "dynatemp_exponent": (["2"], 2.0),
    "top_n_sigma": (["1.5"], 1.5),
    "epsilon_cutoff": (["0.001"], 0.001),
    "eta_cutoff": (["0.002"], 0.002),
    "xtc_probability": (["0.5"], 0.5),
    "xtc_threshold": (["0.2"], 0.2),
    "mirostat_tau": (["5"], 5.0),
    "mirostat_eta": (["0"], 0.0),
    "order": (["top_k,top_p", "temperature"], ["top_k", "top_p", "temperature"]),
}


def flag(field: str) -> str:
    return "--" + field.replace("_", "-")


@pytest.fixture
def parse() -> Any:
    """parse("--flag", "value", ...) -> what the command is called with."""
    app = typer.Typer()
    app.command()(generate.generate)
    command = typer.main.get_command(app)

    def parsed(*arguments: str) -> dict[str, Any]:
        params = command.make_context("generate", ["x", "-m", "dir", *arguments]).params
        return {name: value for name, value in params.items() if generate._is_given(value)}

    return parsed


def test_every_field_of_options_and_sampling_has_a_flag() -> None:
    app = typer.Typer()
    app.command()(generate.generate)
    flags = {name for parameter in typer.main.get_command(app).params for name in parameter.opts}
    fields = {entry.name for entry in (*dataclasses.fields(Options), *dataclasses.fields(Sampling))}
    assert {flag(field) for field in fields - {"processors"}} <= flags


@pytest.mark.parametrize("field", OPTION_FLAGS)
def test_an_option_reaches_the_library_as_its_field(field: str, parse: Any) -> None:
    values, expected = OPTION_FLAGS[field]
    given = parse(*[part for value in values for part in (flag(field), value)])
    assert read_option_flags({field: given[field]}) == {field: expected}


@pytest.mark.parametrize("field", SAMPLING_FLAGS)
def test_a_sampling_option_reaches_the_strategy(field: str, parse: Any) -> None:
    values, expected = SAMPLING_FLAGS[field]
    given = parse(*[part for value in values for part in (flag(field), value)])
    assert read_sampling_flags({field: given[field]}) == {field: expected}


def test_no_breaker_at_all_is_spelled_none() -> None:
    assert read_option_flags({"dry_sequence_breakers": ["none"]}) == {"dry_sequence_breakers": []}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("exponential_decay_length_penalty", "20"),
        ("exponential_decay_length_penalty", "1.5,2"),
        ("exponential_decay_length_penalty", "a,b"),
        ("sequence_bias", ["golden"]),
        ("sequence_bias", ["golden=much"]),
        ("sequence_bias", ["=1"]),
        ("suppress_tokens", ["1,x"]),
    ],
)
def test_what_can_not_be_read_names_the_option(field: str, value: Any) -> None:
    with pytest.raises(OptionError, match=field):
        make_options(read_option_flags({field: value}))  # type: ignore[arg-type]

"""Every option of the library is a flag, and says what the library says."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import typer

from ortgpt.cli import generate
from ortgpt.cli.app import app
from ortgpt.errors import OrtgptError
from ortgpt.options import Options, make_options
from ortgpt.strategies import Greedy, Sampling

# field: (arguments, the value that the library is to get)
OPTION_FLAGS: dict[str, tuple[list[str], Any]] = {
    "max_new_tokens": (["0"], 0),
    "min_new_tokens": (["3"], 3),
    "stop": (["a", "b c"], ["a", "b c"]),
    "stop_token_ids": (["5", "6,7"], [5, 6, 7]),
    "seed": (["0"], 0),
    "n": (["2"], 2),
    "echo": ([], True),
    "repetition_penalty": (["1.5"], 1.5),
    "presence_penalty": (["-0.5"], -0.5),
    "frequency_penalty": (["0.25"], 0.25),
    "no_repeat_ngram_size": (["3"], 3),
    "bad_words": (["wolf", "big bear"], ["wolf", "big bear"]),
    "logit_bias": (["5=1.5", "6=-inf"], {5: 1.5, 6: -float("inf")}),
    "logprobs": (["0"], 0),
    "max_time": (["0"], 0.0),
}
SAMPLING_FLAGS: dict[str, tuple[str, float]] = {
    "temperature": ("0", 0.0),
    "top_k": ("0", 0),
    "top_p": ("0.9", 0.9),
    "min_p": ("0.05", 0.05),
    "typical_p": ("0.5", 0.5),
}
# What the library refuses, it refuses here too: exit code 2, the flag named.
REFUSED = [
    ("max-new-tokens", "-1"),
    ("min-new-tokens", "-1"),
    ("stop", ""),
    ("stop-token-ids", "-1"),
    ("stop-token-ids", "1,,2"),
    ("stop-token-ids", "9" * 5000),
    ("seed", str(2**63)),
    ("n", "0"),
    ("n", "129"),
    ("repetition-penalty", "0"),
    ("presence-penalty", "nan"),
    ("frequency-penalty", "inf"),
    ("no-repeat-ngram-size", "-1"),
    ("bad-words", ""),
    ("logit-bias", "5"),
    ("logit-bias", "five=1"),
    ("logit-bias", "5=many"),
    ("logit-bias", "5=nan"),
    ("logprobs", "-1"),
    ("max-time", "-1"),
    ("temperature", "-0.1"),
    ("temperature", "nan"),
    ("top-k", "-1"),
    ("top-p", "1.1"),
    ("min-p", "-0.1"),
    ("typical-p", "0"),
]


def flag(field: str) -> str:
    return "--" + field.replace("_", "-")


class Recorder:
    """A model that takes a request down and does nothing."""

    request: tuple[Any, ...] = ()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def stream(self, prompt: object, strategy: object, **options: object) -> None:
        self.request = (prompt, strategy, options)
        raise OrtgptError("recorded")


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    model = Recorder()
    monkeypatch.setattr(generate, "load_model", lambda *_: model)
    return model


def test_every_field_of_options_and_sampling_has_a_flag() -> None:
    command = typer.main.get_command(app).commands["generate"]
    flags = {name for parameter in command.params for name in parameter.opts}
    fields = {entry.name for entry in (*dataclasses.fields(Options), *dataclasses.fields(Sampling))}
    assert {flag(field) for field in fields - {"processors"}} <= flags
    assert {*OPTION_FLAGS, *SAMPLING_FLAGS} == fields - {"processors"}


@pytest.mark.parametrize("field", OPTION_FLAGS)
def test_an_option_reaches_the_library_as_its_field_and_lists_by_repetition(field, invoke, recorder) -> None:
    values, expected = OPTION_FLAGS[field]
    arguments = [part for value in values for part in (flag(field), value)] or [flag(field)]
    invoke("generate", "The fox", "-m", "x", *arguments, *["--json"] * (field == "logprobs"))
    assert recorder.request == ("The fox", Greedy(), {field: expected})
    assert make_options(recorder.request[2]) == Options(**{field: expected})


@pytest.mark.parametrize("field", SAMPLING_FLAGS)
def test_a_sampling_option_reaches_the_strategy(field, invoke, recorder) -> None:
    value, expected = SAMPLING_FLAGS[field]
    invoke("generate", "The fox", "-m", "x", "--strategy", "sample", flag(field), value)
    assert recorder.request == ("The fox", Sampling(**{field: expected}), {})


def test_without_flags_the_librarys_own_defaults_hold(invoke, recorder) -> None:
    invoke("generate", "The fox", "-m", "x")
    assert recorder.request == ("The fox", Greedy(), {})
    invoke("generate", "The fox", "-m", "x", "--strategy", "sample")
    assert recorder.request == ("The fox", Sampling(), {})


def test_the_defaults_that_help_shows_are_the_dataclasses() -> None:
    command = typer.main.get_command(app).commands["generate"]
    shown = {name: parameter.show_default for parameter in command.params for name in parameter.opts}
    for owner in (Options, Sampling):
        for entry in dataclasses.fields(owner):
            if isinstance(entry.default, int | float) and not isinstance(entry.default, bool):
                assert shown[flag(entry.name)] == str(entry.default)
    assert shown["--top-k"] is False
    assert shown["--stop-token-ids"] == "the bundle's eos"


def test_no_stop_token_at_all_is_spelled_none(invoke, recorder) -> None:
    invoke("generate", "The fox", "-m", "x", "--stop-token-ids", "none")
    assert recorder.request[2] == {"stop_token_ids": []}


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_a_value_out_of_range_is_a_usage_error_before_anything_is_loaded(
    name, value, invoke, tmp_path
) -> None:
    """FAULTS 32-34, 36-39"""
    strategy = "sample" if name.replace("-", "_") in SAMPLING_FLAGS else "greedy"
    shown = invoke(
        "generate", "x", "-m", tmp_path / "none", "--strategy", strategy, f"--{name}={value}", "--json"
    )
    assert (shown.code, shown.out) == (2, "")
    assert shown.err.startswith(f"error: --{name}")
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize("field", SAMPLING_FLAGS)
def test_an_option_of_another_strategy_is_a_usage_error_naming_both(field, invoke, tmp_path) -> None:
    shown = invoke("generate", "x", "-m", tmp_path, flag(field), SAMPLING_FLAGS[field][0])
    assert shown.code == 2
    assert f"{flag(field)} belongs to --strategy sample, not to greedy" in shown.err
    assert "hint: add --strategy sample" in shown.err


def test_logprobs_without_json_is_a_usage_error(invoke, tmp_path) -> None:
    shown = invoke("generate", "x", "-m", tmp_path, "--logprobs", "2")
    assert (shown.code, shown.err) == (
        2,
        "error: --logprobs is only shown in JSON\nhint: add --json\n",
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--temprature", "1"],
        ["--n", "two"],
        ["--strategy", "beam-me-up"],
        ["--provider", "tpu"],
        ["a second prompt"],
    ],
)
def test_unknown_flags_and_values_that_do_not_parse_are_usage_errors(
    arguments: list[str], invoke: Any, tmp_path: Path
) -> None:
    shown = invoke("generate", "x", "-m", tmp_path, *arguments)
    assert (shown.code, shown.out) == (2, "")
    assert arguments[-1].split()[0] in shown.err or arguments[0] in shown.err


def test_ids_past_the_vocabulary_are_usage_errors(invoke, storyteller_bundle) -> None:
    """FAULTS 30, 36"""
    for arguments in (
        ["x", "--logit-bias", "99999=1"],
        ["x", "--stop-token-ids", "99999"],
        ["--prompt-ids", "1,99999"],
    ):
        shown = invoke("generate", "-m", storyteller_bundle, *arguments)
        assert (shown.code, shown.out) == (2, "")
        assert "99999" in shown.err

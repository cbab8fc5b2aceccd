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
    "best_of": (["3"], 3),
    "echo": ([], True),
    "token_healing": ([], True),
    "guidance_scale": (["1.5"], 1.5),
    "negative_prompt": ([""], ""),
    "repetition_penalty": (["1.5"], 1.5),
    "presence_penalty": (["-0.5"], -0.5),
    "frequency_penalty": (["0.25"], 0.25),
    "no_repeat_ngram_size": (["3"], 3),
    "bad_words": (["wolf", "big bear"], ["wolf", "big bear"]),
    "logit_bias": (["5=1.5", "6=-inf"], {5: 1.5, 6: -float("inf")}),
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
    "prompt_lookup": ([], True),
    "num_draft_tokens": (["3"], 3),
    "logprobs": (["0"], 0),
    "max_time": (["0"], 0.0),
}
SAMPLING_FLAGS: dict[str, tuple[list[str], Any]] = {
    "temperature": (["0"], 0.0),
    "dynatemp_range": (["0.5"], 0.5),
    "dynatemp_exponent": (["2"], 2.0),
    "top_n_sigma": (["1.5"], 1.5),
    "top_k": (["0"], 0),
    "top_p": (["0.9"], 0.9),
    "min_p": (["0.05"], 0.05),
    "typical_p": (["0.5"], 0.5),
    "epsilon_cutoff": (["0.001"], 0.001),
    "eta_cutoff": (["0.002"], 0.002),
    "xtc_probability": (["0.5"], 0.5),
    "xtc_threshold": (["0.2"], 0.2),
    "mirostat_tau": (["5"], 5.0),
    "mirostat_eta": (["0"], 0.0),
    "order": (["top_k,top_p", "temperature"], ("top_k", "top_p", "temperature")),
}
# What a field needs beside it.
NEEDED: dict[str, dict[str, float | bool]] = {
    "num_draft_tokens": {"prompt_lookup": True},
    "negative_prompt": {"guidance_scale": 1.5},
    "dry_base": {"dry_multiplier": 0.5},
    "dry_allowed_length": {"dry_multiplier": 0.5},
    "dry_sequence_breakers": {"dry_multiplier": 0.5},
    "dynatemp_exponent": {"dynatemp_range": 0.5},
    "xtc_threshold": {"xtc_probability": 0.5},
    "mirostat_eta": {"mirostat_tau": 5.0},
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
    ("best-of", "0"),
    ("best-of", "129"),
    ("guidance-scale", "-1"),
    ("guidance-scale", "nan"),
    ("negative-prompt", "dark"),
    ("repetition-penalty", "0"),
    ("presence-penalty", "nan"),
    ("frequency-penalty", "inf"),
    ("no-repeat-ngram-size", "-1"),
    ("bad-words", ""),
    ("logit-bias", "5"),
    ("logit-bias", "five=1"),
    ("logit-bias", "5=many"),
    ("logit-bias", "5=nan"),
    ("num-draft-tokens", "0"),
    ("num-draft-tokens", "8"),
    ("logprobs", "-1"),
    ("max-time", "-1"),
    ("temperature", "-0.1"),
    ("temperature", "nan"),
    ("top-k", "-1"),
    ("top-p", "1.1"),
    ("min-p", "-0.1"),
    ("typical-p", "0"),
    ("dry-multiplier", "-1"),
    ("dry-base", "1.5"),
    ("exponential-decay-length-penalty", "20"),
    ("exponential-decay-length-penalty", "1.5,2"),
    ("exponential-decay-length-penalty", "20,0"),
    ("forced-bos-token-id", "-1"),
    ("forced-eos-token-id", "-1"),
    ("suppress-tokens", "1,x"),
    ("begin-suppress-tokens", "-1"),
    ("sequence-bias", "golden"),
    ("sequence-bias", "golden=much"),
    ("sequence-bias", "=1"),
    ("top-n-sigma", "-1"),
    ("dynatemp-range", "-1"),
    ("epsilon-cutoff", "1.1"),
    ("eta-cutoff", "nan"),
    ("xtc-probability", "2"),
    ("xtc-threshold", "0.1"),
    ("mirostat-tau", "-1"),
    ("mirostat-eta", "0.1"),
    ("order", "top_k,top_q"),
]


def flag(field: str) -> str:
    return "--" + field.replace("_", "-")


def arguments_of(field: str, values: list[str]) -> list[str]:
    """The flag with its values, and those that it needs beside it."""
    given = [part for value in values for part in (flag(field), value)] or [flag(field)]
    needed = NEEDED.get(field, {}).items()
    return given + [
        part for name, value in needed for part in (flag(name), *([] if value is True else [str(value)]))
    ]


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

    generate = stream


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    model = Recorder()
    monkeypatch.setattr(generate, "load_model", lambda *_, **__: model)
    return model


def test_every_field_of_options_and_sampling_has_a_flag() -> None:
    command = typer.main.get_command(app).commands["generate"]
    flags = {name for parameter in command.params for name in parameter.opts}
    fields = {entry.name for entry in (*dataclasses.fields(Options), *dataclasses.fields(Sampling))}
    assert {flag(field) for field in fields - {"processors", "constraints"}} <= flags
    assert {*OPTION_FLAGS, *SAMPLING_FLAGS, "draft"} == fields - {"processors", "constraints"}


@pytest.mark.parametrize("field", OPTION_FLAGS)
def test_an_option_reaches_the_library_as_its_field_and_lists_by_repetition(field, invoke, recorder) -> None:
    values, expected = OPTION_FLAGS[field]
    json_flag = ["--json"] * (field == "logprobs")
    invoke("generate", "The fox", "-m", "x", *arguments_of(field, values), *json_flag)
    fields = {field: expected, **NEEDED.get(field, {})}
    assert recorder.request == ("The fox", Greedy(), fields)
    assert make_options(recorder.request[2]) == Options(**fields)


def test_a_draft_bundle_is_loaded_like_the_model_and_reaches_the_library(invoke, monkeypatch) -> None:
    model, draft, loaded = Recorder(), Recorder(), []

    def load(path: Path, **how: object) -> Recorder:
        loaded.append((str(path), how))
        return {"x": model, "small": draft}[str(path)]

    monkeypatch.setattr(generate, "load_model", load)
    invoke("generate", "The fox", "-m", "x", "--draft", "small", "--num-draft-tokens", "3", "--threads", "2")
    assert model.request == ("The fox", Greedy(), {"draft": draft, "num_draft_tokens": 3})
    how = {"provider": "auto", "threads": 2, "no_fast_prefill": False}
    assert loaded == [("x", how), ("small", {**how, "whose": "the draft model: "})]


def test_draft_and_prompt_lookup_together_are_a_usage_error_before_anything_is_loaded(
    invoke, tmp_path
) -> None:
    shown = invoke("generate", "x", "-m", tmp_path / "none", "--draft", tmp_path / "no", "--prompt-lookup")
    assert (shown.code, shown.err) == (2, "error: --draft does not go with --prompt-lookup: choose one\n")


@pytest.mark.parametrize("field", SAMPLING_FLAGS)
def test_a_sampling_option_reaches_the_strategy(field, invoke, recorder) -> None:
    values, expected = SAMPLING_FLAGS[field]
    invoke("generate", "The fox", "-m", "x", "--strategy", "sample", *arguments_of(field, values))
    strategy = Sampling(**{field: expected}, **NEEDED.get(field, {}))
    assert recorder.request == ("The fox", strategy, {})
    assert strategy != Sampling() or field == "top_k"


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


def test_no_breaker_at_all_is_spelled_none(invoke, recorder) -> None:
    invoke("generate", "x", "-m", "x", "--dry-multiplier", "1", "--dry-sequence-breakers", "none")
    assert recorder.request[2] == {"dry_multiplier": 1.0, "dry_sequence_breakers": []}


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
    shown = invoke("generate", "x", "-m", tmp_path, flag(field), SAMPLING_FLAGS[field][0][0])
    assert shown.code == 2
    assert f"{flag(field)} belongs to --strategy sample" in shown.err
    assert ", not to greedy" in shown.err
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

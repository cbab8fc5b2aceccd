"""`ortgpt score`."""

from __future__ import annotations

import json

import pytest

TEXT = "The king was glad."


def test_json_is_the_librarys_score(invoke, storyteller_bundle, storyteller_model) -> None:
    shown = invoke("score", TEXT, "-m", storyteller_bundle, "--json")
    assert (shown.code, shown.err) == (0, "")
    document = json.loads(shown.out)
    assert list(document) == ["model", "token_ids", "logprobs", "total", "perplexity"]
    expected = storyteller_model.score(TEXT)
    assert document["model"] == str(storyteller_bundle)
    assert document["token_ids"] == list(expected.token_ids)
    assert document["logprobs"] == list(expected.logprobs)
    assert document["logprobs"][0] is None
    assert (document["total"], document["perplexity"]) == (expected.total, expected.perplexity)


def test_a_continuation_is_scored_given_its_prompt(invoke, storyteller_bundle, storyteller_model) -> None:
    shown = invoke("score", " was glad.", "-m", storyteller_bundle, "--prompt", "The king", "--json")
    document = json.loads(shown.out)
    assert document["total"] == storyteller_model.score(" was glad.", prompt="The king").total
    assert None not in document["logprobs"]


def test_text_names_the_three_numbers(invoke, storyteller_bundle, storyteller_model) -> None:
    shown = invoke("score", TEXT, "-m", storyteller_bundle)
    expected = storyteller_model.score(TEXT)
    assert [line.split() for line in shown.out.splitlines()] == [
        ["tokens", str(len(expected.token_ids))],
        ["log-probability", f"{expected.total:.4f}"],
        ["perplexity", f"{expected.perplexity:.4f}"],
    ]
    assert shown.err == ""


def test_the_text_comes_from_a_pipe_too(run, storyteller_bundle, storyteller_model) -> None:
    for argument in ((), ("-",)):
        shown = run("score", *argument, "-m", storyteller_bundle, "--json", stdin=TEXT.encode() + b"\n")
        assert json.loads(shown.out)["total"] == storyteller_model.score(TEXT).total


def test_nothing_to_score_has_no_perplexity_and_is_still_json(invoke, storyteller_bundle) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    shown = invoke("score", "-", "-m", storyteller_bundle, "--json", stdin="A")
    document = json.loads(shown.out, parse_constant=refuse)
    assert (document["logprobs"], document["total"], document["perplexity"]) == ([None], 0.0, None)


@pytest.mark.parametrize("stride", ["0", "512"])
def test_a_stride_out_of_range_is_a_usage_error(stride, invoke, storyteller_bundle) -> None:
    shown = invoke("score", TEXT, "-m", storyteller_bundle, "--stride", stride)
    assert (shown.code, shown.out) == (2, "")
    assert shown.err.startswith("error: --stride must be between 1 and 511")


def test_long_texts_are_scored_in_windows(invoke, storyteller_bundle, storyteller_model) -> None:
    long = "The fox was glad. " * 200
    shown = invoke("score", "-", "-m", storyteller_bundle, "--stride", "200", "--json", stdin=long)
    assert json.loads(shown.out)["total"] == storyteller_model.score(long, stride=200).total

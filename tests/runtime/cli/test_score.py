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


def test_every_line_of_a_file_is_scored(invoke, storyteller_bundle, storyteller_model, tmp_path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("The king was glad.\nA\n\nOnce upon a time there was", encoding="utf-8")
    lines = ["The king was glad.", "A", "Once upon a time there was"]
    asked = ("score", "--text-file", path, "-m", storyteller_bundle)
    for flags, prompt in (((), None), (("--prompt", "Well."), "Well.")):
        expected = storyteller_model.score_batch(lines, prompts=prompt)
        shown = invoke(*asked, *flags, "--json")
        assert (shown.code, shown.err) == (0, "")
        for line, score in zip(shown.out.splitlines(), expected, strict=True):
            document = json.loads(line)
            assert list(document) == ["model", "token_ids", "logprobs", "total", "perplexity"]
            assert document["logprobs"] == list(score.logprobs)
            assert document["perplexity"] == (None if score.logprobs == (None,) else score.perplexity)
        assert invoke(*asked, *flags).out.splitlines() == [
            f"tokens {len(score.token_ids)}  log-probability {score.total:.4f}"
            f"  perplexity {score.perplexity:.4f}"
            for score in expected
        ]


def test_a_text_comes_from_one_place_only(invoke, storyteller_bundle, tmp_path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("A\n")
    shown = invoke("score", TEXT, "--text-file", path, "-m", storyteller_bundle)
    assert (shown.code, shown.out) == (2, "")
    assert "from one place only" in shown.err


@pytest.mark.parametrize("content", [None, b"\n \n", b"\xff"])
def test_a_file_without_texts_is_a_usage_error(content, invoke, storyteller_bundle, tmp_path) -> None:
    path = tmp_path / "texts.txt"
    if content is not None:
        path.write_bytes(content)
    shown = invoke("score", "--text-file", path, "-m", storyteller_bundle)
    assert (shown.code, shown.out) == (2, "")
    assert shown.err.startswith("error: --text-file ")

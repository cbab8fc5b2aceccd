"""`ortgpt generate`: what goes to stdout, what to stderr, and the JSON document."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
from typing import Any

import pytest

from ortgpt import Sampling
from ortgpt.cli import output
from ortgpt.errors import OrtgptError
from ortgpt.results import Timings

PROMPT = "Once upon a time"
SAMPLED = ("--strategy", "sample", "--temperature", "0.9", "--top-p", "0.95", "--seed", "7")
STRATEGY = Sampling(temperature=0.9, top_p=0.95)
TIMING = r"\d+ tokens, \d+\.\d tokens/s, first after \d+\.\d{3} s, load \d+\.\d\d s\n"

NUMBER = (int, float)
DOCUMENT = {"model": str, "prompt": str, "prompt_token_ids": [int], "seed": int, "choices": [], "timings": {}}
CHOICE = {
    "index": int,
    "text": str,
    "token_ids": [int],
    "finish_reason": str,
    "stop_reason": (type(None), int, str),
    "score": float,
    "logprobs": (type(None), list),
}
LOGPROB = {"token": str, "id": int, "logprob": float, "top": list}
TIMINGS = {
    "load_s": NUMBER,
    "ttft_s": NUMBER,
    "prefill_s": NUMBER,
    "decode_s": NUMBER,
    "prompt_tokens": int,
    "generated_tokens": int,
    "tokens_per_second": NUMBER,
}


def assert_shape(value: dict[str, Any], shape: dict[str, Any]) -> None:
    """Exactly these keys in this order, with values of these types."""
    assert list(value) == list(shape)
    for key, kind in shape.items():
        if isinstance(kind, list):
            assert isinstance(value[key], list)
            assert all(type(item) in kind for item in value[key]) or not kind
        elif isinstance(kind, dict):
            assert isinstance(value[key], dict)
        else:
            assert isinstance(value[key], kind)
            assert not isinstance(value[key], bool)


def assert_document(document: dict[str, Any]) -> None:
    """Contract 4's schema, to the last key."""
    assert_shape(document, {**DOCUMENT, "prompt": (str, type(None))})
    assert_shape(document["timings"], TIMINGS)
    for choice in document["choices"]:
        assert_shape(choice, CHOICE)
        for entry in choice["logprobs"] or ():
            assert_shape(entry, LOGPROB)
            for alternative in entry["top"]:
                assert_shape(alternative, LOGPROB)
                assert alternative["top"] == []


def plain(value: object) -> Any:
    return json.loads(json.dumps(dataclasses.asdict(value)))


def test_json_has_exactly_the_contracts_schema_and_the_librarys_values(
    invoke, storyteller_bundle, storyteller_model
) -> None:
    wanted = ("--n", "2", "--logprobs", "3", "--max-new-tokens", "6")
    shown = invoke("generate", PROMPT, "-m", storyteller_bundle, *SAMPLED, *wanted, "--json", "--quiet")
    assert (shown.code, shown.err) == (0, "")
    document = json.loads(shown.out)
    assert_document(document)
    result = storyteller_model.generate(PROMPT, STRATEGY, seed=7, n=2, logprobs=3, max_new_tokens=6)
    expected = plain(result)
    assert document["model"] == str(storyteller_bundle)
    for key in ("prompt", "prompt_token_ids", "seed"):
        assert document[key] == expected[key]
    for choice, other in zip(document["choices"], expected["choices"], strict=True):
        assert choice == pytest.approx(other) if choice["logprobs"] is None else choice == other
        assert [len(entry["top"]) for entry in choice["logprobs"]] == [3] * 6
    assert document["timings"]["generated_tokens"] == 12
    assert document["timings"]["prompt_tokens"] == len(result.prompt_token_ids)


def test_json_says_what_stopped_the_text(invoke, storyteller_bundle, storyteller_model) -> None:
    first = storyteller_model.generate(PROMPT, max_new_tokens=3).token_ids
    for flags, reasons in (
        (("--stop", "nowhere to be", "--stop", " the"), ("stop", " the")),
        (("--stop-token-ids", str(first[1])), ("stop", first[1])),
        (("--max-time", "0"), ("length", "max_time")),
        (("--max-new-tokens", "2"), ("length", None)),
    ):
        document = json.loads(invoke("generate", PROMPT, "-m", storyteller_bundle, *flags, "--json").out)
        assert_document(document)
        choice = document["choices"][0]
        assert (choice["finish_reason"], choice["stop_reason"]) == reasons
        assert choice["logprobs"] is None


def test_no_tokens_at_all_is_a_document_too(invoke, storyteller_bundle) -> None:
    shown = invoke("generate", PROMPT, "-m", storyteller_bundle, "--max-new-tokens", "0", "--echo", "--json")
    (choice,) = json.loads(shown.out)["choices"]
    assert (choice["text"], choice["token_ids"], choice["score"]) == (PROMPT, [], None)


def test_prompt_ids_have_no_prompt_text(invoke, storyteller_bundle, storyteller_model) -> None:
    ids = storyteller_model.tokenizer.encode(PROMPT)
    shown = invoke("generate", "-m", storyteller_bundle, "--prompt-ids", ",".join(map(str, ids)), "--json")
    document = json.loads(shown.out)
    assert_document(document)
    assert document["prompt"] is None
    assert document["prompt_token_ids"] == list(ids)
    assert document["choices"][0]["text"] == storyteller_model.generate(PROMPT).text


def test_text_is_all_that_stdout_gets_and_the_timing_line_is_last_on_stderr(
    run, storyteller_bundle, storyteller_model
) -> None:
    shown = run("generate", PROMPT, "-m", storyteller_bundle, *SAMPLED, "--max-new-tokens", "12")
    assert shown.code == 0
    assert shown.out == storyteller_model.generate(PROMPT, STRATEGY, seed=7, max_new_tokens=12).text + "\n"
    assert re.fullmatch(TIMING, shown.err)
    assert shown.err.startswith("12 tokens,")


def test_streamed_and_whole_text_are_the_same_and_quiet_says_nothing(invoke, storyteller_bundle) -> None:
    asked = ("generate", PROMPT, "-m", storyteller_bundle, *SAMPLED, "--max-new-tokens", "12")
    streamed, whole, quiet = (invoke(*asked, *flags) for flags in ((), ("--no-stream",), ("--quiet",)))
    assert streamed.out == whole.out == quiet.out
    assert re.fullmatch(TIMING, whole.err)
    assert (quiet.code, quiet.err) == (0, "")


def test_several_sequences_are_printed_one_after_the_other(
    invoke, storyteller_bundle, storyteller_model
) -> None:
    shown = invoke(
        "generate", PROMPT, "-m", storyteller_bundle, *SAMPLED, "--n", "2", "--max-new-tokens", "6"
    )
    result = storyteller_model.generate(PROMPT, STRATEGY, seed=7, n=2, max_new_tokens=6)
    assert shown.out == "".join(choice.text + "\n" for choice in result.choices)


def test_the_best_of_many_is_printed_at_the_end(invoke, storyteller_bundle, storyteller_model) -> None:
    asked = (
        "generate",
        PROMPT,
        "-m",
        storyteller_bundle,
        *SAMPLED,
        "--best-of",
        "4",
        "--max-new-tokens",
        "6",
    )
    for n, flags in ((1, ()), (2, ("--n", "2"))):
        result = storyteller_model.generate(PROMPT, STRATEGY, seed=7, n=n, best_of=4, max_new_tokens=6)
        shown = invoke(*asked, *flags)
        assert shown.out == "".join(choice.text + "\n" for choice in result.choices)
        (document,) = map(json.loads, invoke(*asked, *flags, "--json").out.splitlines())
        assert [choice["index"] for choice in document["choices"]] == list(range(n))


def test_guidance_and_healing_are_the_librarys(invoke, storyteller_bundle, storyteller_model) -> None:
    cut = "The old wom"
    asked = ("generate", cut, "-m", storyteller_bundle, "--max-new-tokens", "8", "--token-healing")
    guided = ("--guidance-scale", "2", "--negative-prompt", "A wolf")
    healed = storyteller_model.generate(cut, token_healing=True, max_new_tokens=8)
    both = storyteller_model.generate(
        cut, token_healing=True, guidance_scale=2.0, negative_prompt="A wolf", max_new_tokens=8
    )
    assert invoke(*asked).out == healed.text + "\n"
    assert invoke(*asked, *guided).out == both.text + "\n"
    assert healed.text.startswith("an")
    assert healed.text != both.text


def test_echo_puts_the_prompt_before_the_text(invoke, storyteller_bundle, storyteller_model) -> None:
    asked = ("generate", PROMPT, "-m", storyteller_bundle, "--max-new-tokens", "4", "--echo")
    expected = PROMPT + storyteller_model.generate(PROMPT, max_new_tokens=4).text
    assert invoke(*asked).out == expected + "\n"
    assert json.loads(invoke(*asked, "--json").out)["choices"][0]["text"] == expected


def test_a_prompt_file_gives_a_json_line_per_prompt_with_seeds_that_reproduce_it(
    invoke, storyteller_bundle, storyteller_model, tmp_path
) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("The king\nA small fox who lived\n\nOnce", encoding="utf-8")
    asked = ("generate", "-m", storyteller_bundle, "--prompt-file", path, *SAMPLED, "--max-new-tokens", "8")
    lines = [json.loads(line) for line in invoke(*asked, "--json").out.splitlines()]
    assert [line["prompt"] for line in lines] == ["The king", "A small fox who lived", "Once"]
    assert [line["seed"] for line in lines] == [7, 8, 9]
    for line in lines:
        assert_document(line)
        alone = storyteller_model.generate(line["prompt"], STRATEGY, seed=line["seed"], max_new_tokens=8)
        assert line["choices"][0]["token_ids"] == list(alone.token_ids)
    text = invoke(*asked).out
    assert text == "".join(line["choices"][0]["text"] + "\n" for line in lines)


def test_prompts_that_fail_do_not_take_the_others_results_with_them(invoke, nan_bundle, tmp_path) -> None:
    """FAULTS 43"""
    path = tmp_path / "prompts.txt"
    path.write_text("a\n" + "b" * 75 + "\nc\n")
    shown = invoke("generate", "-m", nan_bundle, "--prompt-file", path, "--json", "--max-new-tokens", "2")
    assert shown.code == 1
    assert [json.loads(line)["prompt"] for line in shown.out.splitlines()] == ["a", "c"]
    assert shown.err.startswith("error: the model produced non-finite logits at step 0\nhint: ")


def test_guessed_tokens_change_nothing_but_the_time(invoke, storyteller_bundle, tmp_path) -> None:
    asked = ("generate", PROMPT, "-m", storyteller_bundle, *SAMPLED, "--max-new-tokens", "12", "--quiet")
    plain = invoke(*asked)
    for flags in (("--prompt-lookup",), ("--draft", storyteller_bundle, "--num-draft-tokens", "2")):
        assert invoke(*asked, *flags) == plain
    missing = invoke(*asked, "--draft", tmp_path / "none")
    assert (missing.code, missing.out) == (3, "")
    assert missing.err.startswith(f"error: the draft model: there is no bundle at '{tmp_path / 'none'}'")


def test_the_timing_line_counts_a_prompts_own_seconds_or_those_of_the_whole_file(capsys) -> None:
    def timed(ttft_s: float, decode_s: float, generated: int) -> Any:
        timings = Timings(0.5, ttft_s, 0.1, decode_s, 3, generated, (generated - 1) / decode_s)
        return dataclasses.make_dataclass("Timed", ["timings"])(timings)

    output.print_timings([timed(0.25, 2.0, 11)])
    assert capsys.readouterr().err == "11 tokens, 5.0 tokens/s, first after 0.250 s, load 0.50 s\n"
    output.print_timings([timed(0.25, 2.0, 11), timed(0.2, 2.0, 21), timed(2.0, 3.0, 31)], seconds=3.5)
    assert capsys.readouterr().err == "63 tokens, 18.0 tokens/s, first after 0.200 s, load 0.50 s\n"


def test_results_are_shown_in_order_each_as_soon_as_it_and_all_before_are_there(capsys) -> None:
    shown: list[str] = []
    steps: list[list[str]] = []

    def outcomes() -> Any:
        for index, outcome in ((2, "c"), (0, "a"), (3, OrtgptError("no")), (1, "b"), (4, "e")):
            yield index, outcome
            steps.append(shown.copy())

    with pytest.raises(OrtgptError, match="no"):
        output.show_in_order(outcomes(), 5, shown.append, has_bar=False)
    assert steps == [[], ["a"], ["a"], ["a", "b", "c"], ["a", "b", "c", "e"]]


@pytest.mark.parametrize("end", [KeyboardInterrupt(), OrtgptError("no memory")])
def test_what_is_there_when_the_run_ends_early_is_shown_too(end: BaseException) -> None:
    shown: list[str] = []

    def outcomes() -> Any:
        yield from ((3, "d"), (0, "a"), (2, "c"))
        raise end

    with pytest.raises(type(end)):
        output.show_in_order(outcomes(), 5, shown.append, has_bar=False)
    assert shown == ["a", "c", "d"]


def test_the_number_of_rows_changes_nothing_that_is_printed(invoke, storyteller_bundle, tmp_path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text(
        "".join(f"The {one} {two}\n" for one in ("old", "young") for two in ("fox", "king", "cat"))
    )
    asked = ("generate", "-m", storyteller_bundle, "--prompt-file", path, *SAMPLED, "--stop", "he", "--quiet")
    shown = [invoke(*asked, *rows) for rows in ((), ("--max-rows", "1"), ("--max-rows", "4"))]
    assert shown[0] == shown[1] == shown[2]
    assert shown[0].out.count("\n") >= 6


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--max-rows", "4"), "--max-rows is for several prompts"),
        (("--progress",), "--progress is for several prompts"),
        (("--prompt-file", "x", "--max-rows", "0"), "--max-rows must be between 1 and 1024"),
        (("--prompt-file", "x", "--max-rows", "1025"), "--max-rows must be between 1 and 1024"),
        (("--prompt-file", "x", "--progress", "--quiet"), "--progress does not go with --quiet"),
    ],
)
def test_flags_of_a_prompt_file_are_checked_before_anything_is_loaded(
    arguments, problem, invoke, tmp_path
) -> None:
    path = tmp_path / "x"
    path.write_text("a\n")
    asked = [path if part == "x" else part for part in arguments]
    prompt = () if "--prompt-file" in arguments else ("The fox",)
    shown = invoke("generate", *prompt, "-m", tmp_path / "none", *asked)
    assert (shown.code, shown.out) == (2, "")
    assert shown.err.startswith(f"error: {problem}")


@pytest.mark.parametrize(
    ("flags", "has_bar"),
    [
        ((), True),
        (("--no-progress",), False),
        (("--quiet",), False),
        (("--json",), False),
        (("--json", "--progress"), True),
    ],
)
def test_a_prompt_file_has_a_bar_where_stderr_is_a_terminal_and_stdout_has_the_texts_alone(
    flags, has_bar, run, storyteller_bundle, tmp_path
) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("The king\nThe fox\n")
    asked = ("generate", "-m", storyteller_bundle, "--prompt-file", path, "--max-new-tokens", "3", *flags)
    master, terminal = os.openpty()
    seen = run(*asked, stderr=terminal)
    os.close(terminal)
    with open(master, "rb") as screen:
        err = b""
        with contextlib.suppress(OSError):  # how a terminal says that nobody writes any more
            while part := screen.read1():
                err += part
    assert (b"2/2" in err) == has_bar
    assert (seen.code, seen.out.count("\n")) == (0, 2)
    assert "\x1b" not in seen.out
    assert "2/2" not in run(*asked).err


def test_a_prompt_longer_than_the_context_is_a_usage_error_naming_both_numbers(
    invoke, storyteller_bundle, tmp_path
) -> None:
    """FAULTS 31"""
    long = "fox " * 600
    path = tmp_path / "prompts.txt"
    path.write_text("The fox\n" + long)
    for source, name in ((("-",), "prompt"), (("--prompt-file", path), "prompts[1]")):
        shown = invoke("generate", "-m", storyteller_bundle, *source, "--json", stdin=long)
        assert (shown.code, shown.out) == (2, "")
        assert re.match(rf"error: {re.escape(name)} has \d+ tokens, the model's context is 512\n", shown.err)

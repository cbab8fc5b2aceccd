"""Ctrl-C and SIGTERM at every moment of a run: what there is is shown, and nothing is torn down half-way."""

from __future__ import annotations

import json
import signal
from signal import SIGINT, SIGTERM

import pytest

PROMPT = "Once upon a time"
ENDLESS = ("--max-new-tokens", "400", "--stop-token-ids", "none")  # 20 s at the pace of slow steps


@pytest.fixture(scope="module")
def story(storyteller_model) -> str:
    """The text that the interrupted commands would have come to."""
    return storyteller_model.generate(PROMPT, max_new_tokens=400, stop_token_ids=[]).text


@pytest.mark.parametrize(("signals", "code"), [([SIGINT], 130), ([SIGINT, SIGINT], 130), ([SIGTERM], 143)])
@pytest.mark.parametrize("pace", ["endless import", "endless load"])
def test_a_signal_while_loading_ends_it_without_a_word(
    pace, signals, code, start, storyteller_bundle
) -> None:
    """FAULTS 67. onnxruntime is at work in its thread, and must not be taken down with an abort."""
    paced = start(pace, "generate", PROMPT, "-m", storyteller_bundle)
    paced.wait_until_there()
    shown = paced.end(*signals)
    assert (shown.code, shown.out, shown.err) == (code, "", "")


def test_ctrl_c_while_streaming_keeps_the_text_and_adds_a_newline(start, storyteller_bundle, story) -> None:
    """FAULTS 67"""
    paced = start("slow steps", "generate", PROMPT, "-m", storyteller_bundle, *ENDLESS)
    first = paced.process.stdout.read(5).decode()
    shown = paced.end(SIGINT)
    text = first + shown.out
    assert shown.code == 130
    assert text.endswith("\n")
    assert 5 <= len(text) < len(story) // 2
    assert story.startswith(text[:-1])
    assert shown.err.count("\n") == 1
    assert " tokens/s, " in shown.err


def test_ctrl_c_twice_while_streaming_is_no_traceback(start, storyteller_bundle, story) -> None:
    """FAULTS 67"""
    paced = start("slow steps", "generate", PROMPT, "-m", storyteller_bundle, *ENDLESS)
    first = paced.process.stdout.read(5).decode()
    shown = paced.end(SIGINT, SIGINT)
    assert shown.code == 130
    assert story.startswith((first + shown.out).rstrip("\n"))
    assert "Traceback" not in shown.err
    assert "Exception" not in shown.err


def test_sigterm_while_streaming_keeps_the_text(start, storyteller_bundle, story) -> None:
    paced = start("slow steps", "generate", PROMPT, "-m", storyteller_bundle, *ENDLESS)
    first = paced.process.stdout.read(5).decode()
    shown = paced.end(SIGTERM)
    assert (shown.code, shown.err) == (143, "")
    assert story.startswith(first + shown.out)


@pytest.mark.parametrize("n", [1, 2])
def test_ctrl_c_with_json_prints_the_partial_document(n, start, storyteller_bundle, story) -> None:
    """FAULTS 67"""
    paced = start(
        "slow steps", "generate", PROMPT, "-m", storyteller_bundle, *ENDLESS, "--json", "--n", str(n)
    )
    paced.wait_until_there(8)  # the probe of the load, the prefill, six tokens
    shown = paced.end(SIGINT)
    assert shown.code == 130
    document = json.loads(shown.out)
    assert [choice["finish_reason"] for choice in document["choices"]] == ["cancelled"] * n
    for choice in document["choices"]:
        assert len(choice["token_ids"]) >= 5
        assert story.startswith(choice["text"])
    assert "Traceback" not in shown.err


def test_ctrl_c_without_streaming_prints_what_there_is(start, storyteller_bundle, story) -> None:
    """FAULTS 67"""
    paced = start("slow steps", "generate", PROMPT, "-m", storyteller_bundle, *ENDLESS, "--no-stream")
    paced.wait_until_there(8)
    shown = paced.end(SIGINT)
    assert shown.code == 130
    assert shown.out.endswith("\n")
    assert story.startswith(shown.out[:-1])
    assert len(shown.out) > 10


@pytest.mark.parametrize("verb", ["generate", "score"])
def test_ctrl_c_with_nothing_to_show_leaves_stdout_empty(verb, start, storyteller_bundle, tmp_path) -> None:
    """FAULTS 67. Half a JSON line would be worse than none."""
    path = tmp_path / "prompts.txt"
    path.write_text("The king\nThe fox\n")
    asked = ("--prompt-file", path, *ENDLESS) if verb == "generate" else ("The fox was glad. " * 2000,)
    paced = start("slow steps", verb, *asked, "-m", storyteller_bundle, "--json")
    paced.wait_until_there(4)
    shown = paced.end(SIGINT)
    assert (shown.code, shown.out, shown.err) == (130, "", "")


@pytest.mark.parametrize(("number", "code"), [(SIGINT, 130), (SIGTERM, 143)])
def test_an_interrupted_export_leaves_nothing_behind(
    number: signal.Signals, code, start, storyteller, tmp_path
) -> None:
    """FAULTS 22"""
    folder = tmp_path / "out"
    folder.mkdir()
    paced = start("endless export", "export", storyteller, "-o", folder / "bundle", "--quiet")
    paced.wait_until_there()
    assert list(folder.rglob("*.data"))  # it was in the middle of it
    shown = paced.end(number)
    assert (shown.code, shown.out, shown.err) == (code, "", "")
    assert not list(folder.rglob("*.data"))
    assert not (folder / "bundle").exists()

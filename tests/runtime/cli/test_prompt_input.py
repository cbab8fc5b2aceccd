"""Where prompts come from, and that nothing waits for a keyboard or a pipe that it does not need."""

from __future__ import annotations

import io
import json
import os
import pty
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from ortgpt.cli.prompt_input import parse_biases, parse_ids, read_prompt_file, read_stdin
from ortgpt.errors import OptionError

BRIEF = ("--max-new-tokens", "3", "--json", "--quiet")


@pytest.mark.parametrize(
    ("data", "prompts"),
    [
        (b"one\ntwo\n", ["one", "two"]),
        (b"one\ntwo", ["one", "two"]),
        (b"one\r\ntwo\r\n", ["one", "two"]),
        (b"\xef\xbb\xbfone\n", ["one"]),
        (b"\n\n  one \n \t\ntwo\n\n", ["  one ", "two"]),
        ("fünf \N{WOLF FACE}\n".encode(), ["fünf \N{WOLF FACE}"]),
        (
            "form\x0cfeed\N{LINE SEPARATOR}and\x85others\n".encode(),
            ["form\x0cfeed\N{LINE SEPARATOR}and\x85others"],
        ),
    ],
)
def test_a_line_of_a_prompt_file_is_a_prompt(data: bytes, prompts: list[str], tmp_path: Path) -> None:
    """FAULTS 61: CRLF, BOM, no final newline"""
    path = tmp_path / "prompts.txt"
    path.write_bytes(data)
    assert read_prompt_file(path) == prompts


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "holds no prompt"),
        (b"\xef\xbb\xbf\r\n \n", "holds no prompt"),
        (b"good\nb\xffd\n", r"is not UTF-8 text \(byte 6\)"),
        ("utf-16".encode("utf-16"), r"is not UTF-8 text \(byte 0\)"),
        (None, "can't be read: No such file"),
    ],
)
def test_a_prompt_file_without_prompts_is_a_usage_error(data, problem, tmp_path, invoke) -> None:
    """FAULTS 61"""
    path = tmp_path / "prompts.txt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(OptionError, match=problem):
        read_prompt_file(path)
    shown = invoke("generate", "-m", tmp_path, "--prompt-file", path)
    assert shown.code == 2
    assert shown.err.startswith("error: --prompt-file ")
    with pytest.raises(OptionError, match="Is a directory"):
        read_prompt_file(tmp_path)


@pytest.mark.parametrize(
    ("data", "text"),
    [(b"a\n", "a"), (b"a\r\n", "a"), (b"a\n\n", "a\n"), (b"a", "a"), (b"", ""), (b" a ", " a ")],
)
def test_stdin_loses_one_newline_at_the_end(data, text, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    assert read_stdin("prompt") == text


def test_ids_are_read_from_lists_and_repetitions() -> None:
    assert parse_ids("x", "1, 2,3") == [1, 2, 3]
    assert parse_ids("x", ["1,2", "3"]) == [1, 2, 3]
    assert parse_ids("x", "none") == []
    for text in ("", "1,", "a", "1.5", "-1", "0x10", "1" * 5000):
        with pytest.raises(OptionError, match="x must be"):
            parse_ids("x", text)


def test_biases_are_read_as_id_and_number() -> None:
    assert parse_biases(["5=-1.5", "6=-inf", "5=2"]) == {5: 2.0, 6: -float("inf")}
    for text in ("5", "=1", "5=", "a=1", "-1=1", "5=1=1"):
        with pytest.raises(OptionError, match="logit_bias must look like ID=VALUE"):
            parse_biases([text])


@pytest.mark.parametrize(
    "sources",
    [
        ("x", "--prompt-ids", "1"),
        ("-", "--prompt-ids", "1"),
        ("x", "--prompt-file", "f"),
        ("--prompt-ids", "1", "--prompt-file", "f"),
    ],
)
def test_two_sources_at_once_are_a_usage_error(sources: tuple[str, ...], invoke, tmp_path) -> None:
    shown = invoke("generate", *sources, "-m", tmp_path)
    assert (shown.code, shown.out) == (2, "")
    assert shown.err.startswith("error: prompt can come from one place only")


def test_the_same_prompt_from_every_source_gives_the_same_text(
    invoke, storyteller_bundle, storyteller_model, tmp_path
) -> None:
    """FAULTS 66"""
    expected = storyteller_model.generate("The f\N{LATIN SMALL LETTER O WITH DIAERESIS}x", max_new_tokens=3)
    prompt = str(expected.prompt)
    path = tmp_path / "prompts.txt"
    path.write_text(prompt, encoding="utf-8")
    for arguments, stdin in (
        ((prompt,), b"something else"),
        (("-",), prompt.encode() + b"\n"),
        ((), prompt.encode()),
        (("--prompt-ids", ",".join(map(str, expected.prompt_token_ids))), b"something else"),
        (("--prompt-file", path), b"something else"),
    ):
        shown = invoke("generate", *arguments, "-m", storyteller_bundle, *BRIEF, stdin=stdin)
        assert shown.code == 0, shown.err
        document = json.loads(shown.out)
        assert document["prompt_token_ids"] == list(expected.prompt_token_ids)
        assert document["choices"][0]["text"] == expected.text


def test_an_empty_pipe_is_the_empty_prompt(invoke, storyteller_bundle, storyteller_model) -> None:
    """FAULTS 28"""
    document = json.loads(invoke("generate", "-m", storyteller_bundle, *BRIEF).out)
    assert document["prompt"] == ""
    assert document["prompt_token_ids"] == [storyteller_model.manifest.architecture.bos_token_id]


def test_ids_and_files_leave_a_pipe_that_never_ends_alone(run, storyteller_bundle, tmp_path) -> None:
    """FAULTS 66"""
    path = tmp_path / "prompts.txt"
    path.write_text("The fox")
    reader, writer = os.pipe()
    try:
        for source in (("--prompt-ids", "1,2,3"), ("--prompt-file", path), ("The fox",)):
            shown = run("generate", *source, "-m", storyteller_bundle, *BRIEF, stdin=reader)
            assert shown.code == 0, shown.err
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("verb", ["generate", "score"])
def test_a_terminal_without_a_prompt_gets_help_and_exit_code_2(verb, run, tmp_path) -> None:
    """FAULTS 66"""
    terminal, side = pty.openpty()
    try:
        shown = run(verb, "-m", tmp_path, stdin=side)
    finally:
        os.close(terminal)
        os.close(side)
    assert (shown.code, shown.out) == (2, "")
    assert f"ortgpt {verb} [" in shown.err
    assert shown.err.splitlines()[-2:] == [
        f"error: {'prompt' if verb == 'generate' else 'text'} is missing",
        "hint: give it as an argument or through a pipe",
    ]


def test_closed_stdin_is_a_missing_prompt(run, storyteller_bundle) -> None:
    """FAULTS 66"""
    closed = {"stdin": None, "preexec_fn": lambda: os.close(0)}
    shown = run("generate", "-m", storyteller_bundle, **closed)
    assert (shown.code, shown.out) == (2, "")
    assert "error: prompt is missing" in shown.err
    shown = run("generate", "-", "-m", storyteller_bundle, **closed)
    assert (shown.code, shown.err) == (2, "error: prompt can't be read: stdin is closed\n")
    shown = run("generate", "The fox", "-m", storyteller_bundle, *BRIEF, **closed)
    assert shown.code == 0, shown.err


def test_a_prompt_that_is_not_utf8_is_a_usage_error(run, storyteller_bundle) -> None:
    """FAULTS 29"""
    shown = run("generate", "-", "-m", storyteller_bundle, stdin=b"b\xffd")
    assert (shown.code, shown.out, shown.err) == (2, "", "error: prompt is not UTF-8 text (byte 1)\n")
    shown = run("generate", os.fsdecode(b"b\xffd"), "-m", storyteller_bundle)
    assert (shown.code, shown.out) == (2, "")
    assert shown.err.startswith("error: prompt holds a lone surrogate at character 1")

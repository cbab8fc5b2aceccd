"""Constraints on the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ortgpt import Choice, Forbidden, Grammar, JSONSchema, Keywords, OptionError, Regex
from ortgpt.cli.constraint_flags import read_constraints

NOTHING: dict[str, Any] = {
    "keyword": None,
    "keyword_boost": None,
    "keyword_guarantee": None,
    "forbid": None,
    "forbid_whole_words": False,
    "json_schema": None,
    "regex": None,
    "grammar": None,
    "choice": None,
}


def test_every_flag_gives_its_constraint(tmp_path: Path) -> None:
    schema, grammar = tmp_path / "schema.json", tmp_path / "verse.lark"
    schema.write_text('\ufeff{"type": "boolean"}')
    grammar.write_text('start: "a"')
    given = {
        "keyword": ["dragon", "golden key"],
        "keyword_boost": 2.0,
        "keyword_guarantee": "False",
        "forbid": ["castle"],
        "forbid_whole_words": True,
        "json_schema": [schema],
        "regex": ["[a-z]+", "b+"],
        "grammar": [grammar],
        "choice": ["yes", "no"],
    }
    assert read_constraints(given) == [
        Keywords(["dragon", "golden key"], guarantee=False, boost=2.0),
        Forbidden(["castle"], whole_words=True),
        JSONSchema({"type": "boolean"}),
        Regex("[a-z]+"),
        Regex("b+"),
        Grammar('start: "a"'),
        Choice(["yes", "no"]),
    ]
    assert read_constraints(NOTHING) == []
    assert read_constraints({**NOTHING, "keyword": ["a"]}) == [Keywords(["a"])]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"keyword_boost": 0.0}, "keyword_boost has no effect without --keyword"),
        ({"keyword_guarantee": "true"}, "keyword_guarantee has no effect without --keyword"),
        ({"forbid_whole_words": True}, "forbid_whole_words has no effect without --forbid"),
        ({"keyword": ["a"], "keyword_guarantee": "yes"}, "must be true or false, got 'yes'"),
        ({"keyword": [" "]}, r"keywords\[0\] is empty"),
        ({"regex": ["(?=a)"]}, "regex"),
        ({"regex": [""]}, "regex"),
        ({"choice": ["a", ""]}, r"choice\[1\]"),
        ({"json_schema": [Path("missing.json")]}, "json_schema missing.json can't be read: No such file"),
        ({"grammar": [Path("/dev/zero")]}, "grammar /dev/zero has more than 1048576 bytes"),
        ({"grammar": [Path(__file__).parent]}, "grammar .* can't be read: Is a directory"),
    ],
)
def test_what_can_not_be_is_an_option_error(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(OptionError, match=problem):
        read_constraints({**NOTHING, **given})


def test_a_file_that_is_no_text_or_no_json_is_named(tmp_path: Path) -> None:
    binary, broken = tmp_path / "binary", tmp_path / "broken.json"
    binary.write_bytes(b"\xff\xfe{}")
    broken.write_text('{"type": ')
    with pytest.raises(OptionError, match="json_schema is not UTF-8 text"):
        read_constraints({**NOTHING, "json_schema": [binary]})
    with pytest.raises(OptionError, match="json_schema"):
        read_constraints({**NOTHING, "json_schema": [broken]})


def test_keywords_come_and_forbidden_words_do_not(run, storyteller_bundle: Path) -> None:
    shown = run(
        *("generate", "The king", "-m", storyteller_bundle, "--max-new-tokens", "40", "--quiet"),
        *("--keyword", "dragon", "--keyword", "golden key", "--forbid", "the"),
    )
    assert shown.code == 0, shown.err
    assert re.search(r"\bdragon\b", shown.out, re.I)
    assert re.search(r"\bgolden key\b", shown.out, re.I)
    assert "the" not in shown.out.lower()


def test_a_schema_gives_json(run, storyteller_bundle: Path, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"enum": [{"fox": 1}, {"king": 2}]}')
    shown = run("generate", "Who? ", "-m", storyteller_bundle, "--json-schema", schema, "--quiet", "--json")
    assert shown.code == 0, shown.err
    assert json.loads(json.loads(shown.out)["choices"][0]["text"]) in ({"fox": 1}, {"king": 2})


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--keyword", "dragon", "--max-new-tokens", "0"], 2, "error: --keyword need"),
        (["--keyword", "dragon", "--forbid", "drag"], 2, "error: --keyword[0]"),
        (["--choice", "yes", "--keyword", "dragon"], 1, "\nerror: the grammar has come to its end at step"),
        (["--regex", "(a{1000}){1000}"], 2, "error: --regex"),
    ],
)
def test_errors_have_their_codes_and_no_traceback(
    run, storyteller_bundle: Path, flags: list[str], code: int, said: str
) -> None:
    shown = run("generate", "x", "-m", storyteller_bundle, *flags)
    assert shown.code == code, shown.err
    assert said in "\n" + shown.err
    assert code == 2 or shown.out == "yes\n"  # the text is closed before the error
    assert "Traceback" not in shown.err

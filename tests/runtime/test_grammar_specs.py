"""Constraints on form as the caller makes them."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

import ortgpt
from ortgpt import Choice, Grammar, JSONSchema, OptionError, Regex


@pytest.mark.parametrize(
    ("make", "option", "problem"),
    [
        (lambda: JSONSchema("not json"), "json_schema", "is not JSON"),
        (lambda: JSONSchema({"$ref": "http://127.0.0.1/"}), "json_schema", "only references within"),
        (lambda: Regex("(" * 60_000), "regex", "60000 characters"),
        (lambda: Regex("(?=a)b"), "regex", "lookaround"),
        (lambda: Grammar("start: " + "(" * 100), "grammar", "nested"),
        (lambda: Grammar('start: %json {"multipleOf": 999983}'), "grammar", "multipleOf"),
        (lambda: Grammar('start: %json {"$ref": "http://127.0.0.1/"}'), "grammar", "only references within"),
        (lambda: Choice([]), "choice", "1 to 4096 texts"),
        (lambda: Choice(["a"] * 4097), "choice", "1 to 4096 texts"),
        (lambda: Choice("ab"), "choice", "must be a list"),
        (lambda: Choice(["a", ""]), r"choice[1]", "is empty"),
        (lambda: Choice(["a", 5]), r"choice[1]", "must be a string"),
        (lambda: Choice(["a" * 40_000, "b" * 40_000]), "choice", "80000 characters"),
        (lambda: Choice(["a", "\ud800"]), r"choice[1]", "surrogate"),
    ],
)
def test_what_cannot_be_used_is_refused_when_it_is_made(make: Any, option: str, problem: str) -> None:
    with pytest.raises(OptionError, match=problem) as caught:
        make()
    assert caught.value.option == option


def test_they_are_frozen_hashable_and_equal_by_content() -> None:
    for spec, twin in [
        (JSONSchema({"type": "integer"}), JSONSchema('{"type": "integer"}')),
        (Regex("a+"), Regex("a+")),
        (Grammar('start: "a"'), Grammar('start: "a"')),
        (Choice(["a", "b", "a"]), Choice(("a", "b"))),
    ]:
        assert spec == twin
        assert hash(spec) == hash(twin)
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(spec, dataclasses.fields(spec)[0].name, "x")  # type: ignore[arg-type]


def test_a_schema_does_not_change_with_the_mapping_that_it_was_made_of() -> None:
    mapping: dict[str, Any] = {"properties": {"a": {}}}
    spec = JSONSchema(mapping)
    mapping["properties"]["a"] = {"type": "integer"}
    assert spec == JSONSchema({"properties": {"a": {}}})


def test_they_are_made_without_llguidance_and_numpy() -> None:
    code = (
        "import sys; sys.modules['llguidance'] = None\n"
        "import ortgpt; ortgpt.JSONSchema({}); ortgpt.Regex('a'); ortgpt.Choice(['a'])\n"
        "ortgpt.Grammar('start: \"a\"')\n"
        "assert 'numpy' not in sys.modules"
    )
    folder = str(next(iter(ortgpt.__path__)))
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {folder!r} + '/..')\n{code}"]
    )
    assert run.returncode == 0

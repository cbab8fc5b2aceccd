"""Which specs are compiled without trying them out first."""

from __future__ import annotations

import pytest

from ortgpt import Choice, Grammar, JSONSchema, OptionError, Regex
from ortgpt.constraints import grammar_compiler
from ortgpt.constraints.grammar_compiler import GrammarCompiler
from ortgpt.constraints.grammar_source import GrammarSpec, is_plain
from ortgpt.testing import ByteTokenizer

SMALL_SCHEMA = {
    "type": "object",
    "properties": {
        "a": {"type": "string", "description": "x"},
        "b": {"type": "array", "items": {"enum": [1, 2]}},
    },
    "required": ["a"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("spec", "plain"),
    [
        (Choice(["a" * 60_000]), True),
        (Regex("[a-z]+(fox|king)?"), True),
        (Regex(r"\w+\s\w*"), True),
        (Regex("a{3}"), False),
        (Regex("a" * 65), False),
        (Regex("(?i)a"), False),
        (Regex("é"), False),
        (JSONSchema(True), True),
        (JSONSchema(SMALL_SCHEMA), True),
        (JSONSchema({"properties": {"a": {"properties": {"minimum": {"type": "integer"}}}}}), True),
        (JSONSchema({"properties": {"a": {"minimum": 3}}}), False),
        (JSONSchema({"items": {"anyOf": [{}]}}), False),
        (JSONSchema({"items": [{}]}), False),
        (JSONSchema({"type": "string", "pattern": "a"}), False),
        (JSONSchema({"type": "string", "format": "uuid"}), False),
        (JSONSchema({"$ref": "#/x"}), False),
        (JSONSchema({"x-guidance": {"whitespace_flexible": True}}), False),
        (JSONSchema({"title": "x" * 1100}), False),
        (Grammar('start: "a"'), False),
    ],
    ids=lambda value: str(value)[:40],
)
def test_only_what_cannot_grow_is_compiled_without_a_child(
    monkeypatch: pytest.MonkeyPatch, spec: GrammarSpec, plain: bool
) -> None:
    tried: list[str] = []
    monkeypatch.setattr(grammar_compiler, "check_in_child", lambda option, lark: tried.append(lark))
    try:
        GrammarCompiler(ByteTokenizer(), 257).compile(spec)
    except OptionError:
        assert not plain
    assert is_plain(spec) is plain
    assert len(tried) == (0 if plain else 1)

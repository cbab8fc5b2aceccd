"""Random walks over the masks give texts of the form asked for, judged by other programs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from grammar_samples import SCHEMAS
from grammar_walks import random_text

from ortgpt import Choice, Grammar, JSONSchema, Regex
from ortgpt.constraints.grammar import bind
from ortgpt.constraints.grammar_compiler import GrammarCompiler
from ortgpt.constraints.grammar_source import GrammarSpec
from ortgpt.interfaces import Tokenizer
from ortgpt.testing import ByteTokenizer
from ortgpt.text.tokenizer import load_tokenizer

Texts = Callable[[GrammarSpec], list[str]]

PATTERNS = [
    "[a-z]+",
    "[0-9]{3}-[0-9]{4}",
    "(fox|king|queen)( and (fox|king|queen)){0,3}",
    r"[A-Z][a-z]* (was|is) (not )?[a-z]+\.",
    "(a|b)*a(a|b){3}",
    "né(日本|🙂)+",
    r'"[^"\\]*"',
    r"https?://[a-z0-9.]+/",
    "a?b?c?",
    r"\+?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?",
    r"[a-z]+\s[a-z]+",
    ".{1,5}\n.{1,5}",
]


@pytest.fixture(scope="module", params=["bytes", "storyteller"])
def texts(request: pytest.FixtureRequest, storyteller: Path) -> Texts:
    """Several random texts of a spec, of which those that came to an end."""
    tokenizer: Tokenizer = ByteTokenizer()
    if request.param == "storyteller":
        tokenizer = load_tokenizer((storyteller / "tokenizer.json").read_bytes())
    compiler = GrammarCompiler(tokenizer, tokenizer.size)
    (stop_id,) = tokenizer.special_ids

    def walk(spec: GrammarSpec) -> list[str]:
        bound = bind(compiler.compile(spec), [stop_id])
        found = [random_text(bound, tokenizer, stop_id, seed=seed) for seed in range(6)]
        ended = [text for text in found if text is not None]
        assert ended, "no walk came to an end"
        return ended

    return walk


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:50])
def test_texts_of_a_schema_validate_and_are_compact(texts: Texts, schema: Any) -> None:
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    for text in texts(JSONSchema(schema)):
        value = json.loads(text)
        validator.validate(value)
        assert not re.search(r"[\[{,:]\s|\s[\]}]", re.sub(r'"(\\.|[^"\\])*"', '""', text)), text


def test_a_schema_can_ask_for_spaces(texts: Texts) -> None:
    schema = {
        "type": "array",
        "items": {"const": 1},
        "minItems": 3,
        "x-guidance": {"whitespace_flexible": True},
    }
    found = texts(JSONSchema(schema))
    assert any(re.search(r"\s", text) for text in found)
    assert all(set(json.loads(text)) == {1} for text in found)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_texts_of_a_pattern_match_it(texts: Texts, pattern: str) -> None:
    for text in texts(Regex(pattern)):
        assert re.fullmatch(pattern, text), text


def test_texts_of_a_choice_are_its_texts(texts: Texts) -> None:
    wanted = ["fox", "foxes", "the old king", 'q"\\/', "né", "日本🙂", "a\nb", "\t"]
    found = texts(Choice(wanted))
    assert set(found) <= set(wanted)
    assert len(set(found)) > 1


def test_texts_of_a_grammar_are_derived_by_it(texts: Texts) -> None:
    """Balanced brackets around letters: what no pattern can say, counted by hand."""
    spec = Grammar('start: item\nitem: "(" item* ")" | LETTER\nLETTER: /[a-c]/')
    for text in texts(spec):
        depth = 0
        for place, char in enumerate(text):
            depth += (char == "(") - (char == ")")
            assert depth >= 0
            assert char in "()abc"
            assert depth > 0 or place == len(text) - 1
        assert depth == 0


def test_texts_of_a_grammar_with_arithmetic_can_be_computed(texts: Texts) -> None:
    spec = Grammar('start: sum\nsum: term | sum "+" term\nterm: NUMBER | "(" sum ")"\nNUMBER: /[1-9][0-9]?/')
    for text in texts(spec):
        assert re.fullmatch(r"[0-9+()]+", text)
        assert eval(text) > 0


def test_texts_of_a_grammar_with_a_schema_inside(texts: Texts) -> None:
    spec = Grammar('start: "call " %json {"type": "array", "items": {"type": "boolean"}, "maxItems": 2} ";"')
    for text in texts(spec):
        assert text.startswith("call ")
        assert text.endswith(";")
        assert {type(item) for item in json.loads(text[5:-1])} <= {bool}

"""What of a pattern or grammar is refused by looking at it."""

from __future__ import annotations

import pytest

from ortgpt.errors import OptionError
from ortgpt.grammar_limits import (
    MAX_ALTERNATIVES,
    MAX_GRAMMAR_LENGTH,
    MAX_NESTING,
    MAX_PATTERN_LENGTH,
    MAX_REPETITION,
    check_lark,
    check_pattern,
)

FINE_PATTERNS = [
    "a",
    "[0-9]{3}-[0-9]{4}",
    r"(\d+|\w+)*\.\p{L}{2}",
    r"\(\(\(\[\{",
    r"[(|)\[\]^-]+",
    "[](]",
    "[^](|]",
    "[a[b(]]c",
    r"\x{1F600}\u{41}",
    "(?:a)(?i)b(?P<name>c)",
    "(" * MAX_NESTING + "a" + ")" * MAX_NESTING,
    "|".join("a" * MAX_ALTERNATIVES),
    "[|]" * 2000,
    "a" * MAX_PATTERN_LENGTH,
    f"a{{{MAX_REPETITION}}}",
    "(a{300}){300}",
    "(a{300}b{300}c{300}){300}",
    "a{,5}b{5,}",
    "\\01",
]
REFUSED_PATTERNS = {
    "": "is empty",
    "a" * (MAX_PATTERN_LENGTH + 1): "characters, more than",
    "(" * (MAX_NESTING + 1) + "a" + ")" * (MAX_NESTING + 1): "nested more than",
    "[" + "[a" * (MAX_NESTING + 1) + "]" * (MAX_NESTING + 2): "nested more than",
    "|".join("a" * (MAX_ALTERNATIVES + 1)): "alternatives",
    f"a{{{MAX_REPETITION + 1}}}": "repeats something 1001 times",
    f"a{{2,{MAX_REPETITION + 1}}}": "repeats something 1001 times",
    "a{" + "9" * 5000 + "}": "repeats something 9999",
    "((a{100}){100}){100}": "repeats something 1000000 times",
    "a{100}{100}{100}": "repeats something 1000000 times",
    "(x|(a{1,400})b){2,400}": "repeats something 160000 times",
    "(?=a)b": "lookaround",
    "(?!a)b": "lookaround",
    "a(?<=a)b": "lookaround",
    "a(?<!a)b": "lookaround",
    r"(a)\1": "backreference",
    r"(?P<n>a)(?P=n)": "backreference",
    r"(?<n>a)\k<n>": "backreference",
    "(a": "not closed",
    "a)": "not open",
    "[a": "not closed",
    "a\ud800": "surrogate",
}


@pytest.mark.parametrize("pattern", FINE_PATTERNS, ids=lambda pattern: pattern[:20])
def test_patterns_within_the_limits_pass_unchanged(pattern: str) -> None:
    assert check_pattern("regex", pattern) == pattern


@pytest.mark.parametrize(("pattern", "problem"), REFUSED_PATTERNS.items(), ids=lambda text: ascii(text[:20]))
def test_patterns_beyond_the_limits_are_refused(pattern: str, problem: str) -> None:
    with pytest.raises(OptionError, match=problem) as caught:
        check_pattern("regex", pattern)
    assert caught.value.option == "regex"
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("pattern", [None, 5, b"a"])
def test_a_pattern_is_text(pattern: object) -> None:
    with pytest.raises(OptionError, match="must be a string"):
        check_pattern("regex", pattern)


@pytest.mark.parametrize(
    "grammar",
    [
        'start: "a"',
        'start: "((((" "\\"(" /[(]\\/(a)/ // (((((\n# ((((\n',
        'start: item ~ 3..5\nitem: "x"{2,4} | "<b>" | /<i>/ // <u>\n',
        "start: " + "(" * MAX_NESTING + '"a"' + ")" * MAX_NESTING,
        'start: "' + "(" * 1000 + '"',
        "start: A\nA: " + " | ".join(['"a"'] * MAX_ALTERNATIVES),
    ],
    ids=lambda text: text[:20],
)
def test_grammars_within_the_limits_pass_unchanged(grammar: str) -> None:
    assert check_lark("grammar", grammar) == (grammar, [])


@pytest.mark.parametrize(
    ("grammar", "problem"),
    {
        "": "is empty",
        'start: "' + "a" * MAX_GRAMMAR_LENGTH + '"': "characters, more than",
        "start: " + "(" * (MAX_NESTING + 1) + '"a"' + ")" * (MAX_NESTING + 1): "nested more than",
        "start: " + "[" * 5000: "nested more than",
        "start: A\nA: " + " | ".join(['"a"'] * (MAX_ALTERNATIVES + 1)): "alternatives",
        'start: "a"{1,100000}': "repeats something 100000 times",
        'start: "a" ~ 5..2000': "repeats something 2000 times",
        "start: /(?=a)b/": "lookaround",
        r"start: /(a)\1/": "backreference",
        "start: /" + "(" * 65 + ")" * 65 + "/": "nested more than",
        "start: %json {": "not JSON",
        "start: %json {" + '"a":{' * 5000: "not JSON",
        'start: <|endoftext|> "a"': "names the token",
        'start: <[3]> "a"': "names the token",
        "start: \ud800": "surrogate",
    }.items(),
    ids=lambda text: ascii(text[:20]),
)
def test_grammars_beyond_the_limits_are_refused(grammar: str, problem: str) -> None:
    with pytest.raises(OptionError, match=problem) as caught:
        check_lark("grammar", grammar)
    assert caught.value.option == "grammar"
    assert len(str(caught.value)) < 200


def test_the_json_schemas_inside_a_grammar_are_given_back() -> None:
    grammar = (
        'start: "x" (a | b)\na: %json {"type": "integer", "enum": ["((", ")"]}\n'
        'b: %json { }\nC: %regex {"x": 1}'
    )
    assert check_lark("grammar", grammar)[1] == [{"type": "integer", "enum": ["((", ")"]}, {}]

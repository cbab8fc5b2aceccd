"""Compilation under supervision: what is hostile is refused, and the process lives on."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ortgpt import Choice, Grammar, JSONSchema, MissingExtraError, OptionError, OrtgptError, Regex
from ortgpt.constraints import grammar_check, grammar_compiler
from ortgpt.constraints.grammar import bind
from ortgpt.constraints.grammar_compiler import MAX_COMPILED, GrammarCompiler, on_large_stack
from ortgpt.constraints.grammar_source import GrammarSpec
from ortgpt.testing import ByteTokenizer

BYTES = ByteTokenizer()
COMPILER = GrammarCompiler(BYTES, 257)


def chained_refs(count: int) -> dict[str, Any]:
    links = {f"r{i}": {"$ref": f"#/$defs/r{i + 1}"} for i in range(count)}
    return {"$ref": "#/$defs/r0", "$defs": {**links, f"r{count}": {"type": "integer"}}}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


def doubled(levels: int) -> dict[str, Any]:
    twice = {
        f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i - 1}"}, {"$ref": f"#/$defs/d{i - 1}"}]}
        for i in range(1, levels + 1)
    }
    return {"$ref": f"#/$defs/d{levels}", "$defs": {"d0": {"type": "integer"}, **twice}}


def terminals(levels: int) -> str:
    """A terminal of 2 ** levels letters."""
    lines = [f"T{i}: T{i + 1} T{i + 1}" for i in range(levels)]
    return "\n".join(["start: T0", *lines, f'T{levels}: "a"'])


HOSTILE: dict[str, tuple[str, Callable[[], GrammarSpec]]] = {
    "60,000 parentheses": ("regex", lambda: Regex("(" * 60_000 + "a" + ")" * 60_000)),
    "60,000 parentheses in a grammar": ("grammar", lambda: Grammar("start: " + "(" * 60_000)),
    "60,000 parentheses in a schema": ("json_schema", lambda: JSONSchema({"pattern": "(" * 60_000})),
    "150 levels": ("json_schema", lambda: JSONSchema(nested(150))),
    "1,100 references": ("json_schema", lambda: JSONSchema(chained_refs(1100))),
    "a loop of references": ("json_schema", lambda: JSONSchema({"$ref": "#"})),
    "a remote reference": ("json_schema", lambda: JSONSchema({"$ref": "http://127.0.0.1:9/x"})),
    "a large multipleOf": ("json_schema", lambda: JSONSchema({"type": "integer", "multipleOf": 999_983})),
    "a large enum": ("json_schema", lambda: JSONSchema({"enum": list(range(200_000))})),
    "2 ** 20 merged schemas": ("json_schema", lambda: JSONSchema(doubled(20))),
    "lookahead": ("regex", lambda: Regex("(?=a)b")),
    "a backreference": ("regex", lambda: Regex(r"(a)\1")),
    "no JSON": ("json_schema", lambda: JSONSchema("{'a': 1}")),
    "nothing matches a pattern": ("regex", lambda: Regex(r"[^\x00-\u{10ffff}]")),
    "nothing matches a schema": (
        "json_schema",
        lambda: JSONSchema({"allOf": [{"type": "null"}, {"type": "array"}]}),
    ),
    "nothing is between the bounds": (
        "json_schema",
        lambda: JSONSchema({"type": "integer", "minimum": 3, "maximum": 1}),
    ),
    "a rule without an end": ("grammar", lambda: Grammar("start: a\na: a")),
    "no rule start": ("grammar", lambda: Grammar('begin: "a"')),
    "an unknown rule": ("grammar", lambda: Grammar("start: a")),
    "no regular expression": ("regex", lambda: Regex("a**{")),
    "word borders": ("regex", lambda: Regex(r"\bfox\b")),
    "a keyword that is not supported": (
        "json_schema",
        lambda: JSONSchema({"type": "array", "uniqueItems": True}),
    ),
    "a format that is not known": ("json_schema", lambda: JSONSchema({"type": "string", "format": "colour"})),
    "an import from elsewhere": ("grammar", lambda: Grammar("%import .secret (A)\nstart: A")),
    "a terminal of 2 ** 30 letters": ("grammar", lambda: Grammar(terminals(30))),
    "1,500 optional properties": (
        "json_schema",
        lambda: JSONSchema({"type": "object", "properties": {f"p{i}": {} for i in range(1500)}}),
    ),
}


def test_a_grammar_that_no_text_matches_is_told_so() -> None:
    with pytest.raises(OptionError, match=r"regex can't be followed: no text"):
        COMPILER.compile(Regex(r"[^\x00-\u{10ffff}]"))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_grammars_are_option_errors(name: str) -> None:
    """FAULTS 40"""
    option, make = HOSTILE[name]
    with pytest.raises(OptionError) as caught:
        COMPILER.compile(make())
    assert caught.value.option == option
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("executable", [None, "", "/nowhere/python", "frozen"])
def test_without_a_child_nothing_is_compiled_unprotected(
    monkeypatch: pytest.MonkeyPatch, executable: str | None
) -> None:
    if executable == "frozen":
        monkeypatch.setattr(sys, "frozen", True, raising=False)
    else:
        monkeypatch.setattr(sys, "executable", executable)
    compiler = GrammarCompiler(BYTES, 257)
    with pytest.raises(OrtgptError, match="child process") as caught:
        compiler.compile(Grammar('start: "a"'))
    assert caught.value.hint
    compiler.compile(Choice(["a"]))


LARGEST: list[GrammarSpec] = [
    Regex("(" * 64 + "a" + ")*" * 64),
    Regex("a" * 8192),
    Regex("|".join(map(str, range(1000, 2500)))),
    Regex("(a{300}){300}"),
    JSONSchema(nested(62)),
    JSONSchema(chained_refs(63)),
    JSONSchema({"type": "integer", "multipleOf": 10_000}),
    JSONSchema({"enum": list(range(4096))}),
    JSONSchema({"type": "string", "maxLength": 65_536}),
    JSONSchema({"type": "object", "properties": {f"p{i}": {} for i in range(400)}}),
    Grammar("start: " + "(" * 24 + '"a"' + ")*" * 24),
    Grammar("start: r0\n" + "".join(f"r{i}: r{i + 1}\n" for i in range(4000)) + 'r4000: "a"'),
    Grammar("start: R0\n" + "".join(f"R{i}: R{i + 1}\n" for i in range(4000)) + 'R4000: "a"'),
    Choice([f"{i:015}" for i in range(4096)]),
    Choice(["a" * 65_536]),
]


@pytest.mark.parametrize("spec", LARGEST, ids=lambda spec: str(spec)[:30])
def test_what_is_just_within_the_limits_is_compiled(spec: GrammarSpec) -> None:
    bound = bind(COMPILER.compile(spec), [256])
    assert np.isfinite(bound.apply(np.array([], np.int64), np.zeros(257, np.float32))).any()


def test_a_grammar_is_tried_and_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    monkeypatch.setattr(grammar_compiler, "check_in_child", lambda option, lark: tried.append(lark))
    compiler = GrammarCompiler(BYTES, 257)
    first = compiler.compile(Regex("a{3}"))
    assert compiler.compile(Regex("a{3}")) is first
    assert len(tried) == 1


def test_ten_thousand_grammars_leave_only_the_latest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAULTS 42"""
    made: list[str] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(grammar_compiler, "on_large_stack", lambda work: made.append("") or object())
    compiler = GrammarCompiler(BYTES, 257)
    for number in range(10_000):
        compiler.compile(Choice([str(number)]))
        compiler.compile(Choice(["0"]))  # used all the time, so it stays
    assert len(made) == 10_000
    kept = [compiler.compile(Choice([str(number)])) for number in range(10_000 - MAX_COMPILED + 1, 10_000)]
    assert len(made) == 10_000
    assert len({id(one) for one in kept}) == MAX_COMPILED - 1
    assert list(tmp_path.iterdir()) == []


def test_memory_does_not_grow_with_the_grammars_seen() -> None:
    """FAULTS 42"""
    compiler = GrammarCompiler(BYTES, 257)

    def compile_some(begin: int) -> int:
        for number in range(begin, begin + 400):
            bind(compiler.compile(Choice([f"{number:060}"])), [256]).is_complete(np.array([ord("0")]))
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = compile_some(0)
    assert compile_some(1000) - before < 8 << 20  # that many grammars at once take 40 MB and more


def test_a_failure_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = GrammarCompiler(BYTES, 257)
    monkeypatch.setattr(grammar_check, "WALL_SECONDS", 0.0)
    with pytest.raises(OptionError, match="too long"):
        compiler.compile(Regex("a{3}"))
    monkeypatch.undo()
    compiler.compile(Regex("a{3}"))


def test_threads_compile_at_once_and_their_stacks_stay_as_they_are() -> None:
    before = threading.stack_size(1 << 20)
    compiler = GrammarCompiler(BYTES, 257)
    specs: list[GrammarSpec] = [Regex(f"a{{{i % 5 + 1}}}") for i in range(12)]
    with ThreadPoolExecutor(6) as pool:
        compiled = list(pool.map(compiler.compile, specs))
    for spec, one in zip(specs, compiled, strict=True):
        assert isinstance(spec, Regex)
        count = int(spec.pattern[2:-1])
        assert bind(one, [256]).is_complete(np.array([ord("a")] * count))
    assert threading.stack_size(before) == 1 << 20


def test_threads_share_a_grammar() -> None:
    compiled = COMPILER.compile(Regex("(a|b)*a(a|b){10}"))

    def walk(seed: int) -> bool:
        bound, ids = bind(compiled, [256]), np.random.default_rng(seed).choice([*b"ab"], 300)
        masks = [np.isfinite(bound.apply(ids[:i], np.zeros(257, np.float32))).sum() for i in range(300)]
        return all(count in (2, 3) for count in masks)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(walk, range(12)))


def test_a_large_stack_holds_deep_recursion_and_passes_errors_on() -> None:
    assert on_large_stack(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        on_large_stack(lambda: 1 // 0)


def test_without_llguidance_the_extra_is_named() -> None:
    """FAULTS 70"""
    code = (
        "import sys; sys.modules['llguidance'] = None\n"
        "from ortgpt import Choice, MissingExtraError\n"
        "from ortgpt.constraints.grammar_compiler import GrammarCompiler\n"
        "from ortgpt.testing import ByteTokenizer\n"
        "try: GrammarCompiler(ByteTokenizer(), 257).compile(Choice(['a']))\n"
        "except MissingExtraError as error: print(error.extra, error.hint)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == 'grammar install it with: pip install "ortgpt[grammar]"', run.stderr
    assert issubclass(MissingExtraError, ImportError)

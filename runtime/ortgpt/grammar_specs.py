"""Constraints on the form of a text: frozen, checked when they are made.

All of them are followed token by token, so a text that ends before its limit satisfies them. They need the
extra `grammar`, but only when they are used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ortgpt.checks import check_sequence
from ortgpt.errors import OptionError
from ortgpt.grammar_limits import MAX_GRAMMAR_LENGTH, check_lark, check_length, check_pattern
from ortgpt.schema_limits import check_schema, read_schema

MAX_CHOICES = 4096


@dataclass(frozen=True)
class JSONSchema:
    """The text is JSON that this schema describes, without spaces between its parts.

    schema  a mapping, JSON text, or True for any JSON. At most 64 KiB and 64 levels deep, with references
            within itself ("#/$defs/name") only. Kept as compact JSON text. Its "x-guidance" object, if it
            has one, sets llguidance's options, {"whitespace_flexible": true} for example

    Raises OptionError("json_schema") for what is no schema or beyond the limits.
    """

    schema: Mapping[str, Any] | str | bool

    def __post_init__(self) -> None:
        _store(self, "schema", read_schema("json_schema", self.schema))


@dataclass(frozen=True)
class Regex:
    """The whole text matches this pattern, in the syntax of Rust's regex crate.

    pattern  at most 8,192 characters; no lookaround, no backreferences

    Raises OptionError("regex").
    """

    pattern: str

    def __post_init__(self) -> None:
        check_pattern("regex", self.pattern)


@dataclass(frozen=True)
class Grammar:
    """The text is derived by this grammar in llguidance's variant of Lark's syntax, from the rule `start`.

    lark  at most 65,536 characters

    Raises OptionError("grammar").
    """

    lark: str

    def __post_init__(self) -> None:
        _, schemas = check_lark("grammar", self.lark)
        for schema in schemas:
            check_schema("grammar", schema)


@dataclass(frozen=True)
class Choice:
    """The text is one of these.

    texts  1 to 4,096 different texts, none empty, of 65,536 characters together

    Raises OptionError("choice").
    """

    texts: Sequence[str]

    def __post_init__(self) -> None:
        texts = check_sequence("choice", self.texts)
        if not 0 < len(texts) <= MAX_CHOICES:
            raise OptionError("choice", f"must be 1 to {MAX_CHOICES} texts, got {len(texts)}")
        for index, text in enumerate(texts):
            check_length(f"choice[{index}]", text, MAX_GRAMMAR_LENGTH)
        total = sum(map(len, texts))
        if total > MAX_GRAMMAR_LENGTH:
            raise OptionError("choice", f"has {total} characters, more than {MAX_GRAMMAR_LENGTH}")
        _store(self, "texts", tuple(dict.fromkeys(texts)))


def _store(spec: object, name: str, value: object) -> None:
    object.__setattr__(spec, name, value)  # frozen: only here, to keep the checked copy

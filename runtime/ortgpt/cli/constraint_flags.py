"""Flags of the constraints, and how they become constraints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ortgpt.checks import shown
from ortgpt.cli.prompt_input import read_text_file
from ortgpt.constraint_specs import ConstraintSpec, Forbidden, Keywords
from ortgpt.errors import OptionError
from ortgpt.grammar_specs import Choice, Grammar, JSONSchema, Regex

MAX_FILE_BYTES = 1 << 20  # more than any schema or grammar may have
PANEL = "Constraints (with any strategy)"


def _flag(name: str, metavar: str, help_text: str) -> Any:
    return typer.Option(name, metavar=metavar, help=help_text, rich_help_panel=PANEL, show_default=False)


KeywordFlag = Annotated[
    list[str] | None, _flag("--keyword", "TEXT", "The text holds this word or phrase (repeatable).")
]
KeywordBoost = Annotated[
    float | None, _flag("--keyword-boost", "X", "Added to tokens that write a missing keyword; 5.")
]
KeywordGuarantee = Annotated[
    str | None, _flag("--keyword-guarantee", "true|false", "Whether the keywords come for certain; true.")
]
Forbid = Annotated[
    list[str] | None, _flag("--forbid", "TEXT", "The text never holds this word or phrase (repeatable).")
]
ForbidWholeWords = Annotated[
    bool,
    typer.Option(
        "--forbid-whole-words",
        help="Forbid whole words only, not parts of longer ones.",
        rich_help_panel=PANEL,
    ),
]
JsonSchemaFlag = Annotated[
    list[Path] | None, _flag("--json-schema", "FILE", "The text is JSON of this schema (repeatable: of all).")
]
RegexFlag = Annotated[
    list[str] | None, _flag("--regex", "PATTERN", "The text matches this pattern (repeatable: all).")
]
GrammarFlag = Annotated[
    list[Path] | None, _flag("--grammar", "FILE", "The text follows this Lark grammar (repeatable: all).")
]
ChoiceFlag = Annotated[list[str] | None, _flag("--choice", "TEXT", "The text is one of these (repeatable).")]


def read_constraints(given: Mapping[str, Any]) -> list[ConstraintSpec]:
    """The constraints that the flags ask for. Raises OptionError for one that needs another."""
    constraints: list[ConstraintSpec] = []
    if given["keyword"]:
        fields: dict[str, Any] = {}
        if given["keyword_boost"] is not None:
            fields["boost"] = given["keyword_boost"]
        if given["keyword_guarantee"] is not None:
            fields["guarantee"] = _read_bool("keyword_guarantee", given["keyword_guarantee"])
        constraints.append(Keywords(given["keyword"], **fields))
    if given["forbid"]:
        constraints.append(Forbidden(given["forbid"], whole_words=given["forbid_whole_words"]))
    for name, switch in (
        ("keyword_boost", "keyword"),
        ("keyword_guarantee", "keyword"),
        ("forbid_whole_words", "forbid"),
    ):
        # Not `in (None, False)`: a boost of 0 equals False.
        if given[name] is not None and given[name] is not False and not given[switch]:
            raise OptionError(name, f"has no effect without --{switch}")
    constraints += [
        JSONSchema(read_text_file(path, "json_schema", MAX_FILE_BYTES)) for path in given["json_schema"] or ()
    ]
    constraints += [Regex(pattern) for pattern in given["regex"] or ()]
    constraints += [
        Grammar(read_text_file(path, "grammar", MAX_FILE_BYTES)) for path in given["grammar"] or ()
    ]
    if given["choice"]:
        constraints.append(Choice(given["choice"]))
    return constraints


def _read_bool(option: str, value: str) -> bool:
    words = {"true": True, "false": False}
    if value.lower() not in words:
        raise OptionError(option, f"must be true or false, got {shown(value)}")
    return words[value.lower()]

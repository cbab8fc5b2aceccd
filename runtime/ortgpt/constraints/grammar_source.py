"""What the constraints on form are in the language of the backend, and which of them are plainly harmless."""

from __future__ import annotations

import json
import re
from typing import Any

from ortgpt.constraints.grammar_backend import pattern_as_lark
from ortgpt.grammar_specs import Choice, Grammar, JSONSchema, Regex

GrammarSpec = JSONSchema | Regex | Grammar | Choice

PLAIN_SCHEMA_LENGTH = 1024
# No repetition in braces: a compiled pattern has about as many parts as it has characters.
_PLAIN_PATTERN = re.compile(r"(?!.*\(\?)[\x20-\x7a|~]{1,64}")
_PLAIN_KEYWORDS = frozenset(
    (
        "type",
        "properties",
        "required",
        "items",
        "additionalProperties",
        "enum",
        "const",
        "title",
        "description",
    )
)


def option_of(spec: GrammarSpec) -> str:
    """The name that errors give it."""
    names = {JSONSchema: "json_schema", Regex: "regex", Grammar: "grammar", Choice: "choice"}
    return names[type(spec)]


def lark_of(spec: GrammarSpec) -> str:
    """The spec as a Lark grammar."""
    match spec:
        case JSONSchema():
            return "start: %json " + json.dumps(_with_options(_parsed(spec)))
        case Regex():
            return f"start: /{pattern_as_lark(spec.pattern)}/"
        case Grammar():
            return spec.lark
        case Choice():  # one terminal: so many rules would be slow
            return "start: CHOICE\nCHOICE: " + " | ".join(map(json.dumps, spec.texts))


def is_plain(spec: GrammarSpec) -> bool:
    """Whether it can be compiled unsupervised, because nothing in it grows: it is small and stays as small.

    That holds for literal texts, for short patterns without counted repetition, and for small schemas without
    references, combinations, patterns, formats and bounds.
    """
    match spec:
        case JSONSchema():
            return len(str(spec.schema)) <= PLAIN_SCHEMA_LENGTH and _is_plain_schema(_parsed(spec))
        case Regex():
            return _PLAIN_PATTERN.fullmatch(spec.pattern) is not None
        case Grammar():
            return False
        case Choice():
            return True


def _parsed(spec: JSONSchema) -> Any:
    return json.loads(str(spec.schema))


def _with_options(schema: Any) -> dict[str, Any]:
    """The schema with compact JSON as the default."""
    if not isinstance(schema, dict):
        return {"x-guidance": {"whitespace_flexible": False}}  # True: any JSON
    own = schema.get("x-guidance")
    return {**schema, "x-guidance": {"whitespace_flexible": False, **(own if isinstance(own, dict) else {})}}


def _is_plain_schema(schema: Any) -> bool:
    if isinstance(schema, bool):
        return True
    if not isinstance(schema, dict) or not schema.keys() <= _PLAIN_KEYWORDS:
        return False
    properties = schema.get("properties", {})
    if not isinstance(properties, dict):
        return False
    parts = [*properties.values(), schema.get("items", True), schema.get("additionalProperties", True)]
    return all(map(_is_plain_schema, parts))

"""What of a JSON schema is refused by looking at it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest

from ortgpt.errors import OptionError
from ortgpt.schema_limits import (
    MAX_COMBINED,
    MAX_COUNT,
    MAX_ENUM,
    MAX_REFS,
    MAX_SCHEMA_BYTES,
    check_schema,
    read_schema,
)


def chain(refs: int, *, backwards: bool = False) -> dict[str, Any]:
    """`refs` references, each to the next, the last to a schema."""
    links = {f"r{i}": {"$ref": f"#/$defs/r{i + 1}"} for i in range(refs - 1)}
    names = [*links.items(), (f"r{refs - 1}", {"type": "integer"})]
    return {"properties": {"a": {"$ref": "#/$defs/r0"}}, "$defs": dict(names[::-1] if backwards else names)}


def doubling(levels: int) -> dict[str, Any]:
    """2 ** levels schemas merged, in few bytes."""
    twice = {
        f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i - 1}"}, {"$ref": f"#/$defs/d{i - 1}"}]}
        for i in range(1, levels + 1)
    }
    return {"$ref": f"#/$defs/d{levels}", "$defs": {"d0": {"type": "integer"}, **twice}}


def product(factors: int) -> dict[str, Any]:
    """2 ** factors alternatives."""
    return {"allOf": [{"anyOf": [{"minimum": i}, {"maximum": -i}]} for i in range(factors)]}


def nested(levels: int) -> Any:
    schema: Any = {}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


def nested_all_of(levels: int) -> Any:
    """Two levels of JSON each, so they are spread over definitions."""
    links = {f"d{i}": {"allOf": [{"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}]}]} for i in range(levels)}
    return {"$ref": "#/$defs/d0", "$defs": links}


TREE = {"properties": {"left": {"$ref": "#"}, "right": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}}
FINE: list[Any] = [
    True,
    {},
    {"type": "object", "properties": {"$ref": {"type": "string"}, "multipleOf": {"type": "integer"}}},
    {
        "enum": [{"$ref": "http://example.org"}],
        "const": {"multipleOf": 10**6},
        "default": {"maxItems": 10**9},
    },
    {"multipleOf": 10_000, "maxLength": MAX_COUNT, "minItems": 0},
    {"enum": list(range(MAX_ENUM))},
    {"anyOf": [{}] * MAX_COMBINED},
    {"pattern": "^a{3}$", "patternProperties": {"^x": {}}},
    {"$ref": "#/$defs/a~1b~0c", "$defs": {"a/b~c": {"type": "integer"}}},
    {"$ref": "#/nowhere"},
    {"$ref": "#anchor"},
    {"allOf": [{"$ref": "#/allOf/1"}, {}]},
    TREE,
    chain(MAX_REFS),
    doubling(8),
    product(10),
    nested(64),
]
REFUSED: list[tuple[Any, str]] = [
    (False, "describes no JSON"),
    (None, "must be a JSON object"),
    ([], "must be a JSON object"),
    (5, "must be a JSON object"),
    (b"{}", "must be a JSON object"),
    ("", "not JSON"),
    ("{", "not JSON"),
    ("{'a': 1}", "not JSON"),
    ('{"minimum": NaN}', "not JSON"),
    ('{"minimum": ' + "1" * 5000 + "}", "too many digits"),
    ("[" * 10_000, "nested too deeply|not JSON"),
    ('"text"', "must be a JSON object"),
    ("false", "describes no JSON"),
    ('{"title": "' + "x" * MAX_SCHEMA_BYTES + '"}', "bytes"),
    ({"title": "x" * MAX_SCHEMA_BYTES}, "bytes"),
    ({"title": "é" * (MAX_SCHEMA_BYTES // 2)}, "bytes"),
    ({"title": "\ud800"}, "surrogate"),
    ({1: {}}, "a key that is no string"),
    ({"minimum": float("inf")}, "not JSON"),
    ({"minimum": 10**400}, "too large"),
    ({"enum": {1, 2}}, "not JSON"),
    (nested(65), "64 levels"),
    (nested(150), "64 levels"),
    ({"enum": list(range(200_000))}, "bytes|members"),
    ({"enum": list(range(MAX_ENUM + 1))}, "members"),
    ({"items": {"allOf": [{}] * (MAX_COMBINED + 1)}}, "members"),
    ({"multipleOf": 999_983}, "multipleOf 999983, more than 10000"),
    ({"properties": {"enum": {"multipleOf": 999_983}}}, "multipleOf"),
    ({"unknown": [{"deep": {"multipleOf": 999_983}}]}, "multipleOf"),
    ({"minItems": 10**6}, "minItems 1000000"),
    ({"maxLength": MAX_COUNT + 1}, "maxLength"),
    ({"pattern": "(?=a)b"}, "lookaround"),
    ({"patternProperties": {r"(a)\1": {}}}, "backreference"),
    ({"$ref": "http://127.0.0.1:9/schema"}, "only references within"),
    ({"properties": {"a": {"$ref": "other.json#/a"}}}, "only references within"),
    ({"$ref": "file:///etc/passwd"}, "only references within"),
    ({"$ref": "#"}, "refers to itself"),
    ({"allOf": [{"$ref": "#"}]}, "refers to itself"),
    ({"anyOf": [{"type": "integer"}, {"$ref": "#"}]}, "refers to itself"),
    (
        {
            "items": {"$ref": "#/$defs/a"},
            "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"oneOf": [{"$ref": "#/$defs/a"}]}},
        },
        "refers to itself",
    ),
    (chain(MAX_REFS + 1), "64 references"),
    (chain(MAX_REFS + 1, backwards=True), "64 references"),
    (chain(1100), "references|levels deep"),
    (chain(1100, backwards=True), "references|levels deep"),
    (nested_all_of(300), "levels deep"),
    (doubling(20), "combines more than"),
    (product(20), "combines more than"),
]


@pytest.mark.parametrize("schema", FINE, ids=lambda schema: json.dumps(schema)[:40])
def test_schemas_within_the_limits_are_kept_as_compact_json(schema: Any) -> None:
    text = read_schema("json_schema", schema)
    assert json.loads(text) == schema
    assert ": " not in text
    assert read_schema("json_schema", json.dumps(schema)) == text


@pytest.mark.parametrize(("schema", "problem"), REFUSED, ids=lambda value: ascii(repr(value)[:40]))
def test_schemas_beyond_the_limits_are_refused(schema: Any, problem: str) -> None:
    with pytest.raises(OptionError, match=problem) as caught:
        read_schema("json_schema", schema)
    assert caught.value.option == "json_schema"
    assert len(str(caught.value)) < 250


def test_any_mapping_will_do_and_the_order_of_its_keys_is_kept() -> None:
    schema: Mapping[str, Any] = MappingProxyType(
        {"required": ("b", "a"), "properties": MappingProxyType({"b": {}})}
    )
    assert read_schema("json_schema", schema) == '{"required":["b","a"],"properties":{"b":{}}}'


def test_a_mapping_that_holds_itself_is_refused() -> None:
    schema: dict[str, Any] = {}
    schema["items"] = schema
    with pytest.raises(OptionError, match="64 levels"):
        read_schema("json_schema", schema)


def test_a_mapping_that_holds_its_parts_many_times_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(60):
        schema = {"a": schema, "b": schema}
    with pytest.raises(OptionError, match="bytes"):
        read_schema("json_schema", schema)


def test_a_schema_inside_a_grammar_has_the_same_limits() -> None:
    with pytest.raises(OptionError, match="grammar has multipleOf") as caught:
        check_schema("grammar", {"multipleOf": 999_983})
    assert caught.value.option == "grammar"

"""JSON schemas of every kind, for texts that another program judges."""

from __future__ import annotations

from typing import Any

SCHEMAS: list[dict[str, Any] | bool] = [
    True,
    {"type": "null"},
    {"type": "boolean"},
    {"type": "integer"},
    {"type": "number"},
    {"type": "string"},
    {"type": ["integer", "null"]},
    {"enum": ["fox", 3, None, {"a": 1}]},
    {"const": {"king": ["the", "old"]}},
    {"type": "integer", "minimum": 3, "maximum": 42},
    {"type": "integer", "exclusiveMinimum": -5, "exclusiveMaximum": 5},
    {"type": "number", "minimum": 0, "maximum": 1},
    {"type": "integer", "multipleOf": 7},
    {"type": "string", "minLength": 2, "maxLength": 5},
    {"type": "string", "pattern": "^[a-z]{2}-[0-9]+$"},
    {"type": "string", "format": "date"},
    {"type": "string", "format": "ipv4"},
    {"type": "string", "format": "uuid"},
    {"type": "array", "items": {"type": "integer"}},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
    {
        "type": "array",
        "prefixItems": [{"type": "integer"}, {"type": "string"}],
        "items": False,
        "minItems": 2,
    },
    {"type": "object"},
    {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}},
    {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    {"type": "object", "additionalProperties": {"type": "integer"}},
    {"type": "object", "patternProperties": {"^x[0-9]$": {"type": "boolean"}}, "additionalProperties": False},
    {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "null"}}]},
    {"oneOf": [{"const": "a"}, {"type": "integer"}], "x-guidance": {"coerce_one_of": True}},
    {"allOf": [{"type": "integer", "minimum": 10}, {"maximum": 20}]},
    {"$ref": "#/$defs/pair", "$defs": {"pair": {"type": "array", "items": {"enum": [1, 2]}, "maxItems": 2}}},
    {
        "type": "object",
        "properties": {"value": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
        "required": ["value", "next"],
        "additionalProperties": False,
    },
    {
        "type": "object",
        "properties": {"né 日本": {"const": "🙂"}},
        "required": ["né 日本"],
        "additionalProperties": False,
    },
    {
        "type": "array",
        "items": {"type": "object", "properties": {"k": {"enum": ["x", "y"]}}, "required": ["k"]},
    },
]

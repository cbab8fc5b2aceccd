"""How large a JSON schema may be, and where that can be seen without compiling it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ortgpt.checks import shown
from ortgpt.errors import OptionError
from ortgpt.grammar_limits import check_pattern

MAX_SCHEMA_BYTES = 64 * 1024
MAX_SCHEMA_DEPTH = 64  # objects and lists inside each other
MAX_REFS = 64  # one leading to the next
MAX_COMBINED_DEPTH = 128  # references and members of allOf, anyOf, oneOf inside each other
MAX_MULTIPLE_OF = 10_000
MAX_ENUM = 4096
MAX_COMBINED = 256  # members of one allOf, anyOf or oneOf
MAX_MERGED = 1024  # schemas that an allOf merges, those of its members included; likewise alternatives
MAX_COUNT = 65_536  # minItems, maxLength and the like

_COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties", "minContains")
_COMBINED = ("allOf", "anyOf", "oneOf")
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")  # name -> schema
_DATA = ("enum", "const", "default", "examples")  # values that are no schemas
_REFS = ("$ref", "$dynamicRef", "$recursiveRef")


def read_schema(option: str, schema: object) -> str:
    """A schema as compact JSON text, its keys in the order given."""
    value: Any = schema
    if isinstance(schema, str):
        if len(schema.encode("utf-8", "surrogatepass")) > MAX_SCHEMA_BYTES:
            raise OptionError(option, f"has more than {MAX_SCHEMA_BYTES} bytes")
        try:
            value = json.loads(schema, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            problem = f"is not JSON: {error}"
            if isinstance(error, RecursionError):
                problem = "is nested too deeply"
            elif not isinstance(error, json.JSONDecodeError) and "digits" in str(error):
                problem = "holds a number of too many digits"
            raise OptionError(option, problem) from None
    if not isinstance(value, Mapping | bool):
        raise OptionError(option, f"must be a JSON object, true or false, got {shown(schema)}")
    plain = _plain(option, value, 0, [0])
    check_schema(option, plain)
    text = json.dumps(plain, ensure_ascii=False, separators=(",", ":"))
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise OptionError(option, "holds a lone surrogate, which is not text") from None
    if size > MAX_SCHEMA_BYTES:
        raise OptionError(option, f"has {size} bytes, more than {MAX_SCHEMA_BYTES}")
    return text


def check_schema(option: str, root: Any) -> None:
    """Raise OptionError where a parsed schema is beyond the limits or describes nothing at all."""
    _plain(option, root, 0, [0])
    if root is False:
        raise OptionError(option, "is false, which describes no JSON at all")
    for schema in _schemas(root):
        _check_keywords(option, schema)
    weigher = _Weigher(option, root)
    for schema in _schemas(root):
        weigher.weigh(schema)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _plain(option: str, value: Any, depth: int, seen: list[int]) -> Any:
    """A copy of JSON data made of dicts and lists; counting ends what refers to itself in Python."""
    seen[0] += 1
    if depth > MAX_SCHEMA_DEPTH:
        raise OptionError(option, f"is nested more than {MAX_SCHEMA_DEPTH} levels deep")
    if seen[0] > MAX_SCHEMA_BYTES:
        raise OptionError(option, f"has more than {MAX_SCHEMA_BYTES} bytes")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise OptionError(option, f"has a key that is no string: {shown(key)}")
        return {key: _plain(option, item, depth + 1, seen) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(option, item, depth + 1, seen) for item in value]
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int) and value.bit_length() > 1000:  # float() has its end there
        raise OptionError(option, f"holds a number that is too large: {shown(value)}")
    if isinstance(value, int | float) and math.isfinite(value):
        return value
    raise OptionError(option, f"holds what is not JSON: {shown(value)}")


def _schemas(root: Any) -> Iterator[dict[str, Any]]:
    """Every object that can be a schema, the root first; also below keywords that nobody knows."""
    todo: list[Any] = [root]
    while todo:
        value = todo.pop()
        if isinstance(value, list):
            todo += value
        elif isinstance(value, dict):
            yield value
            for key, item in value.items():
                if key in _NAMED and isinstance(item, dict):
                    todo += item.values()
                elif key not in _DATA:
                    todo.append(item)


def _check_keywords(option: str, schema: dict[str, Any]) -> None:
    for key in _COUNTS:
        _check_number(option, key, schema.get(key), MAX_COUNT)
    _check_number(option, "multipleOf", schema.get("multipleOf"), MAX_MULTIPLE_OF)
    for key, most in (("enum", MAX_ENUM), *((name, MAX_COMBINED) for name in _COMBINED)):
        members = schema.get(key)
        if isinstance(members, list) and len(members) > most:
            raise OptionError(option, f"has {key} with {len(members)} members, more than {most}")
    patterns = schema.get("patternProperties")
    for pattern in [schema.get("pattern"), *(patterns if isinstance(patterns, dict) else ())]:
        if isinstance(pattern, str) and pattern:
            check_pattern(option, pattern)
    for key in _REFS:
        reference = schema.get(key)
        if isinstance(reference, str) and not reference.startswith("#"):
            raise OptionError(
                option, f"refers to {shown(reference)}: only references within the schema are followed"
            )


def _check_number(option: str, key: str, value: Any, most: int) -> None:
    if isinstance(value, int | float) and not isinstance(value, bool) and value > most:
        raise OptionError(option, f"has {key} {shown(value)}, more than {most}")


class _Weight(NamedTuple):
    merged: int = 1  # schemas
    alternatives: int = 1  # that anyOf and oneOf give
    refs: int = 0  # that lead one to the next


class _Weigher:
    """What comes of a schema where allOf, anyOf, oneOf and $ref are resolved.

    What describes a part of the value (properties, items) does not count: it begins anew.
    """

    def __init__(self, option: str, root: Any) -> None:
        self._option, self._root = option, root
        self._known: dict[int, _Weight] = {}
        self._open: set[int] = set()

    def weigh(self, schema: Any, depth: int = 0) -> _Weight:
        if not isinstance(schema, dict):
            return _Weight()
        key = id(schema)
        if key in self._open:
            raise OptionError(self._option, "has a schema that refers to itself before it describes anything")
        if depth > MAX_COMBINED_DEPTH:
            raise OptionError(
                self._option,
                f"refers and combines more than {MAX_COMBINED_DEPTH} levels deep by $ref, allOf, ...",
            )
        if key not in self._known:
            self._open.add(key)
            self._known[key] = self._checked(self._combined(schema, depth + 1))
            self._open.discard(key)
        return self._known[key]

    def _combined(self, schema: dict[str, Any], depth: int) -> _Weight:
        parts = [self.weigh(member, depth) for member in _members(schema, "allOf")]
        reference = schema.get("$ref")
        if isinstance(reference, str):
            target = self.weigh(_target(self._root, reference), depth)
            parts.append(target._replace(refs=target.refs + 1))
        for name in ("anyOf", "oneOf"):
            options = [self.weigh(member, depth) for member in _members(schema, name)]
            if options:
                merged, alternatives, refs = zip(*options, strict=True)
                parts.append(_Weight(sum(merged), sum(alternatives), max(refs)))
        return _Weight(
            1 + sum(part.merged for part in parts),
            math.prod(part.alternatives for part in parts),
            max((part.refs for part in parts), default=0),
        )

    def _checked(self, weight: _Weight) -> _Weight:
        if weight.refs > MAX_REFS:
            raise OptionError(self._option, f"has more than {MAX_REFS} references that lead one to the next")
        if max(weight.merged, weight.alternatives) > MAX_MERGED:
            raise OptionError(
                self._option, f"combines more than {MAX_MERGED} schemas by allOf, anyOf and oneOf"
            )
        return weight


def _members(schema: dict[str, Any], key: str) -> list[Any]:
    members = schema.get(key)
    return members if isinstance(members, list) else []


def _target(root: Any, reference: str) -> Any:
    """What a JSON pointer (RFC 6901) points to; None where that is nothing, and for other references."""
    if reference != "#" and not reference.startswith("#/"):
        return None
    value = root
    for part in reference.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict):
            value = value.get(name)
        elif isinstance(value, list) and name.isdecimal() and len(name) < 6 and int(name) < len(value):
            value = value[int(name)]
        else:
            return None
    return value

"""Constraints on the form of a text: frozen, checked when they are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class JSONSchema:
    """The text is JSON that this schema describes. schema: a mapping, or JSON text."""

    schema: Mapping[str, Any] | str | bool


@dataclass(frozen=True)
class Regex:
    """The whole text matches this pattern."""

    pattern: str


@dataclass(frozen=True)
class Grammar:
    """The text is derived by this grammar in Lark's syntax, from the rule `start`."""

    lark: str


@dataclass(frozen=True)
class Choice:
    """The text is one of these."""

    texts: Sequence[str]

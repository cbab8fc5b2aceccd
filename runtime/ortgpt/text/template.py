"""The special tokens that a file's post-processor (TemplateProcessing) puts around a text."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import dropwhile, takewhile
from typing import Any

from ortgpt.checks import shown


def template_problems(templates: list[dict[str, Any]]) -> Iterator[str]:
    """Special tokens that a template names but does not define."""
    for template in templates:
        for piece in (*template["single"], *template["pair"]):
            name = _special(piece)
            if name is not None and name not in template["special_tokens"]:
                yield f"post-processor adds {shown(name)}, which it does not define"


def leading_ids(templates: list[dict[str, Any]]) -> tuple[int, ...]:
    """The ids that come before a single text; none where the template leaves the text out."""
    ids: list[int] = []
    for template in templates:
        names = list(takewhile(bool, map(_special, template["single"])))
        if len(names) < len(template["single"]):
            for name in names:
                ids += template["special_tokens"][name]["ids"]
    if any(type(token_id) is not int for token_id in ids):
        raise ValueError(f"post-processor adds the ids {shown(ids)}")
    return tuple(ids)


def adds_behind(templates: list[dict[str, Any]]) -> bool:
    """Whether special tokens come anywhere but before a single text."""
    for template in templates:
        names = list(map(_special, template["single"]))
        if all(names) or any(dropwhile(bool, names)):
            return True
    return False


def _special(piece: dict[str, Any]) -> str | None:
    name: str | None = piece.get("SpecialToken", {}).get("id")
    return name

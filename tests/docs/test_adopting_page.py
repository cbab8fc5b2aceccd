"""docs/adopting.md names what the code knows."""

from __future__ import annotations

from pathlib import Path

import pytest
from portable_exports import FAMILIES

from ortgpt.bundle.portable_operators import PORTABLE_OPERATORS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "adopting.md").read_text()
NAMES = {"gpt2": "GPT-2", "gpt_neo": "GPT-Neo"}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_that_is_tested_has_a_row(family: str) -> None:
    table = PAGE.partition("## Families")[2].partition("\n## ")[0]
    assert NAMES.get(family, family).lower() in table.lower()


def test_every_operator_of_com_microsoft_is_named() -> None:
    refused = PAGE.partition("## What is refused")[2]
    assert all(name in refused for name in PORTABLE_OPERATORS["com.microsoft"])

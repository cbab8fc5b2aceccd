"""docs/strategies.md shows every recipe, with what it writes."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import ortgpt

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "docs"), str(ROOT / "examples")]

from compare import RECIPES  # noqa: E402
from make_strategies_page import PROMPTS, generate, own_text, share_of_distinct  # noqa: E402
from strategies_text import FAMILIES  # noqa: E402

PAGE = (ROOT / "docs" / "strategies.md").read_text()


def test_every_recipe_is_in_one_family_and_in_the_table() -> None:
    named = [name for _, _, names in FAMILIES for name in names]
    assert sorted(named) == sorted(RECIPES)
    rows = re.findall(r"^\| (.+?) \|(?: -?\d+\.\d\d \|){5}$", PAGE, re.MULTILINE)
    assert rows == list(RECIPES)


def test_every_strategy_and_constraint_has_a_recipe() -> None:
    strategies = {type(strategy).__name__ for strategy, _ in RECIPES.values()}
    assert strategies == set(ortgpt._HOMES["ortgpt.strategies"])
    constraints = {
        type(one).__name__ for _, options in RECIPES.values() for one in options.get("constraints", ())
    }
    assert constraints == {"Keywords", "Forbidden", "JSONSchema", "Regex", "Grammar", "Choice"}


@pytest.mark.parametrize(
    "name", [name for name, (strategy, _) in RECIPES.items() if strategy == ortgpt.Greedy()]
)
def test_the_text_of_a_greedy_recipe_is_what_it_writes(storyteller_model: ortgpt.Model, name: str) -> None:
    text = own_text(generate(storyteller_model, name, PROMPTS[0]).text)
    shown = "\n".join(f"> {line}".rstrip() for line in f"**{PROMPTS[0]}**{text}".split("\n"))
    assert f"**{name}**\n\n{shown}\n" in PAGE


def test_distinct_n_counts_each_gram_of_a_text_once() -> None:
    assert share_of_distinct([[1, 2, 1, 2], [1, 2]], 1) == 4 / 6
    assert share_of_distinct([[1, 2, 1, 2], [1, 2]], 2) == 3 / 4
    assert share_of_distinct([[1]], 2) == 0

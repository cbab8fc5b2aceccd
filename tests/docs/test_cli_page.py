"""docs/cli.md is what the program says of itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
COMMANDS = ("generate", "adopt", "score", "inspect", "bench", "doctor", "export", "verify")


def section(command: str) -> str:
    page = (DOCS / "cli.md").read_text()
    return re.search(rf"^## ortgpt {command}$(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)[1]


def help_of(command: str) -> str:
    wide = {**os.environ, "COLUMNS": "200", "TERMINAL_WIDTH": "200", "NO_COLOR": "1", "TERM": "dumb"}
    shown = subprocess.run(
        [sys.executable, "-m", "ortgpt", command, "--help"], capture_output=True, encoding="utf-8", env=wide
    )
    assert shown.returncode == 0, shown.stderr
    return shown.stdout


def test_the_page_is_what_the_script_makes() -> None:
    made = subprocess.run(
        [sys.executable, DOCS / "make_cli_page.py"], capture_output=True, encoding="utf-8", check=True
    )
    assert (DOCS / "cli.md").read_text() == made.stdout, "python docs/make_cli_page.py > docs/cli.md"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_has_the_flags_and_words_of_the_help(command) -> None:
    shown, written = help_of(command), section(command)
    flags = re.findall(r"^\| `(?:-\w, )?(--[a-z-]+)", written, re.MULTILINE)
    assert {*flags, "--help"} == set(re.findall(r"^[│|][ *]*(--[a-z-]+)", shown, re.MULTILINE))
    texts = re.findall(r"^\| `.*` \|.*\| (.+) \|$", written, re.MULTILINE)
    assert len(texts) >= len(flags)
    assert all(text in shown for text in texts)


def test_the_page_has_every_command() -> None:
    assert set(re.findall(r"^## ortgpt (\w+)$", (DOCS / "cli.md").read_text(), re.MULTILINE)) == set(COMMANDS)

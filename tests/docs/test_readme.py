"""What README.md and docs/ show works: their Python and shell blocks are run as they stand there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FIRST_SCREEN = 32  # lines


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def pages_with(language: str) -> list[Path]:
    return [page for page in PAGES if blocks(page, language)]


def as_program(page: Path) -> str:
    """The Python blocks as one program, each line at its place in the page, for readable tracebacks."""
    lines, is_code = [], False
    for line in page.read_text().split("\n"):
        if line == "```" or line == "```python":
            is_code = line == "```python"
            line = ""
        lines.append(line if is_code else "")
    return "\n".join(lines)


@pytest.mark.parametrize("page", pages_with("python"), ids=lambda page: page.name)
def test_the_python_of_a_page_runs(page, clone_with_bundle, run) -> None:
    program = clone_with_bundle / f"{page.stem}.py"
    program.write_text(as_program(page))
    shown = run("python", "-W", "error", program, cwd=clone_with_bundle)
    assert (shown.returncode, shown.stderr) == (0, "")


@pytest.mark.parametrize("page", pages_with("sh"), ids=lambda page: page.name)
def test_the_shell_lines_of_a_page_run(page, clone, run) -> None:
    for block in blocks(page, "sh"):
        shown = run("bash", "-euo", "pipefail", "-c", block, cwd=clone)
        assert shown.returncode == 0, shown.stderr
        assert "error" not in shown.stderr


def test_the_pages_that_show_code_are_found() -> None:
    assert {"README.md", "decoding.md", "architecture.md"} <= {page.name for page in pages_with("python")}
    assert [page.name for page in pages_with("sh")] == ["README.md"]


def test_the_readmes_python_writes_its_two_texts(clone_with_bundle, storyteller_model, run) -> None:
    program = clone_with_bundle / "five_lines.py"
    program.write_text(blocks(ROOT / "README.md", "python")[0])
    shown = run("python", program, cwd=clone_with_bundle)
    streamed = storyteller_model.generate("The old king", max_new_tokens=40).text
    sampled, _, rest = shown.stdout.rpartition(f"\n{streamed}")
    assert len(sampled) > 100
    assert rest == ""


def test_the_readmes_shell_lines_show_what_they_say(clone, run, storyteller_model) -> None:
    """Export, a sampled text, a pipe, JSON, a score: a line each."""
    export, sample, pipe, as_json, score = blocks(ROOT / "README.md", "sh")[0].strip().split("\n")

    def stdout(line: str) -> str:
        shown = run("bash", "-euo", "pipefail", "-c", line, cwd=clone)
        assert shown.returncode == 0, shown.stderr
        return shown.stdout

    assert stdout(export) == ""
    assert (clone / "models" / "storyteller-fp32" / "manifest.json").exists()
    assert len(stdout(sample)) > 100
    assert stdout(pipe) == storyteller_model.generate("The old king", max_new_tokens=40).text + "\n"
    document = json.loads(stdout(as_json))
    assert document["choices"][0]["stop_reason"] == "."
    assert set(document) == {"model", "prompt", "prompt_token_ids", "seed", "choices", "timings"}
    perplexity = storyteller_model.score("The king was glad.").perplexity
    assert float(re.search(r"perplexity +(\S+)", stdout(score))[1]) == pytest.approx(perplexity, rel=1e-3)


def test_the_first_screen_has_the_commands_and_the_code() -> None:
    first = "\n".join((ROOT / "README.md").read_text().split("\n")[:FIRST_SCREEN])
    for needed in ("make demo", "make test", "ortgpt export", "ortgpt score", "--json", " | ortgpt"):
        assert needed in first
    for language in ("python", "sh"):
        lines = blocks(ROOT / "README.md", language)[0].split("\n")
        assert len([line for line in lines if line]) == 5

"""The same text and clean streams whatever the environment is; too little memory is refused, not met."""

from __future__ import annotations

import json
import re
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

PROMPT = "Der Köni\N{LEFT DOUBLE QUOTATION MARK}g \N{WOLF FACE}"
ENVIRONMENTS = {
    "the C locale": {"LANG": None, "LC_ALL": "C"},
    "the C locale, taken literally": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "ASCII, a dumb narrow terminal": {
        "PYTHONIOENCODING": "ascii",
        "NO_COLOR": "1",
        "TERM": "dumb",
        "COLUMNS": "20",
    },
    "Windows' code page, no home": {"PYTHONIOENCODING": "cp1252", "HOME": None, "TZ": "Nowhere/Odd+99"},
    "a home that can't be written": {
        "HOME": "/proc/none",
        "XDG_CACHE_HOME": "/proc/none",
        "FORCE_COLOR": "1",
    },
    "odd thread counts": {"OMP_NUM_THREADS": "0", "OPENBLAS_NUM_THREADS": "abc"},
    "onnxruntime's own variables": {"ORT_LOAD_CONFIG_FROM_MODEL": "1", "OMP_NUM_THREADS": "abc"},
}
# Run by Python at its start: tells how much address space is taken when memory is checked.
MEASURE = """
import sys
from ortgpt.inference import room

def check_memory(*_):
    with open("/proc/self/status") as status:
        print("".join(line for line in status if line.startswith("VmSize")), file=sys.stderr)

room.check_memory = check_memory
"""


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_environment_gets_the_same_text_and_clean_json(
    name, run, storyteller_bundle, storyteller_model, tmp_path
) -> None:
    """FAULTS 27, 68, 71"""
    path = tmp_path / "prompts.txt"
    path.write_text(PROMPT, encoding="utf-8")
    asked = ("--max-new-tokens", "8", "--echo", "--json")
    shown = run(
        "generate", "--prompt-file", path, "-m", storyteller_bundle, *asked, environ=ENVIRONMENTS[name]
    )
    assert shown.code == 0, shown.err
    assert shown.out.isascii()
    (choice,) = json.loads(shown.out)["choices"]
    assert choice["text"] == storyteller_model.generate(PROMPT, max_new_tokens=8, echo=True).text
    assert choice["text"].startswith(PROMPT)
    assert re.fullmatch(r"8 tokens, .* tokens/s, .*\n", shown.err)


def test_nothing_is_written_to_the_home_directory(run, storyteller_bundle, tmp_path) -> None:
    """onnxruntime would leave a device id and a database of usage events there."""
    home = tmp_path / "home"
    home.mkdir()
    asked = ("generate", "x", "-m", storyteller_bundle, "--max-new-tokens", "2", "--quiet")
    environ = {
        "HOME": str(home),
        "XDG_CACHE_HOME": None,
        "XDG_DATA_HOME": None,
        "ORT_DISABLE_TELEMETRY": None,
    }
    assert run(*asked, environ=environ).code == 0
    assert list(home.rglob("*")) == []


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_characters_that_can_not_be_shown_become_question_marks(encoding, run, storyteller_bundle) -> None:
    """FAULTS 68"""
    asked = ("--max-new-tokens", "2", "--echo", "--stop-token-ids", "none")
    environ = {"PYTHONIOENCODING": encoding}
    shown = run("generate", "\N{WOLF FACE}ł x", "-m", storyteller_bundle, *asked, environ=environ)
    assert shown.code == 0, shown.err
    assert shown.out.startswith("?? x")
    shown = run("generate", "x", "-m", "\N{WOLF FACE}", environ=environ)
    assert (shown.code, shown.err.splitlines()[0]) == (3, "error: there is no bundle at '?'")


def test_help_and_usage_errors_are_plain_where_the_terminal_is(run) -> None:
    """FAULTS 68"""
    environ = {"PYTHONIOENCODING": "ascii", "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "20"}
    shown = run("generate", "--help", environ=environ)
    assert (shown.code, shown.err) == (0, "")
    assert "--temperature" in shown.out.replace("\n", "")
    assert "\x1b" not in shown.out
    shown = run("generate", "x", "--top-p", "much", environ=environ)
    assert (shown.code, shown.out) == (2, "")
    assert "\x1b" not in shown.err


@pytest.fixture
def address_space(run: Callable[..., object], storyteller_bundle: Path, tmp_path: Path) -> int:
    """Bytes of address space that the command has taken when it comes to loading the weights."""
    (tmp_path / "sitecustomize.py").write_text(MEASURE)
    asked = ("generate", "x", "-m", storyteller_bundle, "--max-new-tokens", "0", "--quiet")
    shown = run(*asked, environ={"PYTHONPATH": str(tmp_path)})
    return int(shown.err.split()[1]) * 1024


def test_too_little_memory_is_refused_with_needed_and_available(
    run, storyteller_bundle, address_space
) -> None:
    """FAULTS 72"""
    asked = ("generate", "x", "-m", storyteller_bundle, "--max-new-tokens", "2", "--quiet")

    def limited(megabytes: int) -> Callable[[], None]:
        limit = address_space + megabytes * 1_000_000
        return lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    shown = run(*asked, preexec_fn=limited(40))
    assert (shown.code, shown.out) == (4, "")
    error, hint = shown.err.splitlines()
    match = re.fullmatch(r"error: loading 24 MB of weights needs (\d+) MB, (\d+) MB are available", error)
    assert match is not None
    assert int(match[2]) < int(match[1]) < 100
    assert hint == "hint: free some memory, raise the limit, or use a smaller model"
    assert run(*asked, preexec_fn=limited(800)).code == 0


def test_a_limit_of_one_gibibyte_holds_the_small_model(run, storyteller_bundle) -> None:
    """FAULTS 72"""
    wrapper = ("bash", "-c", 'ulimit -v 1048576; exec "$@"', "bash")
    asked = ("generate", "x", "-m", storyteller_bundle, "--max-new-tokens", "2", "--quiet")
    assert run(*asked, wrapper=wrapper) == run(*asked)

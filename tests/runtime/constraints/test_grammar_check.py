"""What kills a compiler kills a child, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ortgpt import OptionError, OrtgptError
from ortgpt.constraints import grammar_check
from ortgpt.constraints.grammar_check import check_in_child

CHAIN = {f"r{i}": {"$ref": f"#/$defs/r{i + 1}"} for i in range(40_000)}
# What the limits would let through on a bad day, straight to the child.
DEADLY = {
    "takes too long": 'start: %json {"type": "integer", "multipleOf": 999983}',
    "too large or too deep": "start: %json " + json.dumps({"$ref": "#/$defs/r0", "$defs": CHAIN}),
}


@pytest.mark.parametrize("problem", DEADLY)
def test_a_grammar_that_kills_the_compiler_kills_a_child(problem: str) -> None:
    with pytest.raises(OptionError, match=problem) as caught:
        check_in_child("grammar", DEADLY[problem])
    assert caught.value.option == "grammar"


def test_a_child_that_does_not_answer_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    assert grammar_check.WALL_SECONDS < 2
    monkeypatch.setattr(grammar_check, "WALL_SECONDS", 0.2)
    monkeypatch.setattr(grammar_check, "_START", "import time; time.sleep(600)")
    with pytest.raises(OptionError, match="too long"):
        check_in_child("grammar", 'start: "a"')


@pytest.mark.parametrize(
    ("code", "reported"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", OptionError),
        ("import os; os.abort()", OptionError),
        ("raise SystemExit(3)", OrtgptError),
        ("print('hello')", OrtgptError),
    ],
)
def test_a_child_that_dies_is_reported(
    monkeypatch: pytest.MonkeyPatch, code: str, reported: type[Exception]
) -> None:
    monkeypatch.setattr(grammar_check, "_START", code)
    with pytest.raises(reported) as caught:
        check_in_child("grammar", 'start: "a"')
    assert type(caught.value) is reported


def test_the_child_gets_no_environment_and_no_paths_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORTGPT_SECRET", "x")
    monkeypatch.setenv("PYTHONSTARTUP", "/nowhere")
    show = "import os, sys, json; json.dump(repr([sorted(os.environ), sys.path]), sys.stdout)"
    monkeypatch.setattr(grammar_check, "_START", show)
    with pytest.raises(OptionError, match=r"can't be followed") as caught:
        check_in_child("grammar", 'start: "a"')
    assert "SECRET" not in str(caught.value)
    assert "PYTHON" not in str(caught.value)
    assert os.getcwd() not in str(caught.value).replace(sys.prefix, "").replace(sys.base_prefix, "")


def test_children_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_in_child("grammar", 'start: "a"')
    with pytest.raises(OptionError):
        check_in_child("grammar", DEADLY["too large or too deep"])
    assert list(tmp_path.iterdir()) == []


def test_the_child_has_limits_of_its_own() -> None:
    code = (
        "import resource; from ortgpt.constraints.grammar_child import set_limits; set_limits()\n"
        "kinds = resource.RLIMIT_CORE, resource.RLIMIT_AS, resource.RLIMIT_CPU\n"
        "print([resource.getrlimit(kind)[0] for kind in kinds])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    core, memory, seconds = json.loads(run.stdout)
    assert core == 0
    assert memory <= 1 << 30
    assert seconds <= 1

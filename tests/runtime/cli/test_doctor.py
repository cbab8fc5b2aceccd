"""`ortgpt doctor`, on machines of every kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import metadata

import pytest

from ortgpt.cli import doctor
from ortgpt.inference import session

Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """install(name=version, ...): the engines that seem to be there."""
    version = metadata.version

    def install_(**engines: str) -> None:
        def fake(name: str) -> str:
            if name not in doctor.ENGINES:
                return version(name)
            found = engines.get(name.replace("-", "_"))
            if found is None:
                raise metadata.PackageNotFoundError(name)
            return found

        monkeypatch.setattr(metadata, "version", fake)

    return install_


def test_json_alone_is_on_stdout(run) -> None:
    shown = run("doctor", "--json")
    assert (shown.code, shown.err) == (0, "no problems found\n")
    facts = json.loads(shown.out)
    assert {name: type(value) for name, value in facts.items()} == {
        "ortgpt": str,
        "python": str,
        "platform": str,
        "numpy": str,
        "tokenizers": str,
        "onnxruntime": str,
        "onnxruntime-gpu": type(None),
        "providers": list,
        "threads": int,
        "available_memory_mb": int,
        "export": str,
        "problems": list,
    }
    assert "CPUExecutionProvider" in facts["providers"]
    assert facts["threads"] >= 1
    assert facts["problems"] == []


def test_text_shows_the_same_facts(invoke) -> None:
    shown = invoke("doctor", "--quiet")
    assert (shown.code, shown.err) == (0, "")
    names = [line.split()[0] for line in shown.out.splitlines()]
    assert names == [name for name in doctor.collect() if name != "problems"]


def test_no_engine_is_a_problem_with_its_remedy(invoke, install) -> None:
    """FAULTS 24"""
    install()
    shown = invoke("doctor", "--json")
    assert shown.code == 4
    facts = json.loads(shown.out)
    assert facts["problems"] == ['onnxruntime is not installed: pip install "ortgpt[cpu]"']
    assert (facts["onnxruntime"], facts["providers"], facts["threads"]) == (None, [], None)
    assert shown.err == f"error: {facts['problems'][0]}\n"


def test_two_engines_overwrite_each_other(invoke, install) -> None:
    """FAULTS 24"""
    install(onnxruntime="1.32.0", onnxruntime_gpu="1.31.1")
    shown = invoke("doctor", "--json")
    assert shown.code == 4
    facts = json.loads(shown.out)
    assert (facts["onnxruntime"], facts["onnxruntime-gpu"]) == ("1.32.0", "1.31.1")
    (problem,) = facts["problems"]
    assert "both installed" in problem
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in problem


def test_the_gpu_engine_alone_is_no_problem(install) -> None:
    install(onnxruntime_gpu="1.32.0")
    assert doctor.collect()["problems"] == []


def test_an_engine_that_is_too_old_is_a_problem_with_its_remedy(invoke, install, monkeypatch) -> None:
    """FAULTS 24"""
    install(onnxruntime="1.20.1")
    monkeypatch.setattr(session.onnxruntime, "__version__", "1.20.1")
    shown = invoke("doctor", "--json")
    assert shown.code == 4
    assert json.loads(shown.out)["problems"] == [
        'onnxruntime 1.31 or newer is needed, 1.20.1 is installed: pip install -U "onnxruntime>=1.31"'
    ]


def test_a_missing_export_package_is_said_with_its_remedy(monkeypatch) -> None:
    """FAULTS 70"""
    assert doctor.collect()["export"] == "ready"
    monkeypatch.setattr(doctor, "EXPORT_PACKAGES", ("onnx", "no_such_package"))
    assert doctor.collect()["export"] == 'pip install "ortgpt[export]"'

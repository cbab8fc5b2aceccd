"""`ortgpt doctor`, on machines of every kind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from ortgpt.cli import doctor
from ortgpt.inference import cuda, session, wheels

Install = Callable[..., None]
INSTALL_ONE = 'pip install "ortgpt[cpu]", or for NVIDIA devices: pip install "ortgpt[gpu]"'
CHANGE_TO_GPU = 'pip uninstall -y onnxruntime && pip install "ortgpt[gpu]"'


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """install(name=version, ...): the engines that seem to be there."""
    version = metadata.version

    def install_(**engines: str) -> None:
        def fake(name: str) -> str:
            if name not in wheels.WHEELS:
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
        "cuda": type(None),
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
    assert facts["problems"] == [f"onnxruntime is not installed: {INSTALL_ONE}"]
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


def test_the_cpus_engine_is_a_problem_only_where_cuda_is_wanted(invoke) -> None:
    """FAULTS 24"""
    for provider in ("auto", "cpu"):
        assert invoke("doctor", "--provider", provider).code == 0
    shown = invoke("doctor", "--provider", "cuda", "--json")
    assert shown.code == 4
    assert json.loads(shown.out)["problems"] == [
        f"the installed onnxruntime is the one for the CPU: {CHANGE_TO_GPU}"
    ]


@pytest.fixture
def cuda_engine(install: Install, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An engine for CUDA, whose library loads."""
    install(onnxruntime_gpu="1.32.0")
    monkeypatch.setattr(session, "available_providers", lambda: [cuda.PROVIDER, "CPUExecutionProvider"])
    monkeypatch.setattr(cuda, "find_load_problem", lambda _: None)
    return monkeypatch


def test_cuda_is_ready_when_something_small_has_begun_there(cuda_engine: pytest.MonkeyPatch) -> None:
    cuda_engine.setattr(session, "open_graph", lambda *_: None)
    facts = doctor.collect("cuda")
    assert (facts["cuda"], facts["problems"]) == ("ready", [])


@pytest.mark.parametrize(
    ("missing", "remedy"),
    [
        ("libcublasLt.so.13", 'pip install "onnxruntime-gpu[cuda,cudnn]", or install CUDA and cuDNN'),
        ("libcuda.so.1", "the driver of the NVIDIA device is not there: install it, or use provider cpu"),
    ],
)
def test_libraries_that_cuda_lacks_are_named_with_what_brings_them(
    missing: str, remedy: str, cuda_engine: pytest.MonkeyPatch
) -> None:
    """FAULTS 24"""
    problem = f"{missing}: cannot open shared object file: No such file or directory"
    cuda_engine.setattr(cuda, "find_load_problem", lambda _: problem)
    for provider in ("auto", "cuda"):
        facts = doctor.collect(provider)
        assert facts["cuda"] == f"CUDA can't be loaded: {problem}"
        assert facts["problems"] == [f"CUDA can't be loaded: {problem}: {remedy}"]
    assert doctor.collect("cpu")["problems"] == []


def test_a_device_that_refuses_is_a_problem_with_its_reason(cuda_engine: pytest.MonkeyPatch) -> None:
    """FAULTS 24"""

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA failure 100: no CUDA-capable device is detected ; GPU=-1 ; file=x")

    cuda_engine.setattr(session.onnxruntime, "InferenceSession", refuse)
    (problem,) = doctor.collect()["problems"]
    assert problem.startswith("CUDA can't be used: no CUDA-capable device is detected: see what nvidia-smi")


def test_an_engine_that_is_too_old_is_a_problem_with_its_remedy(invoke, install, monkeypatch) -> None:
    """FAULTS 24"""
    monkeypatch.setattr(session.onnxruntime, "__version__", "1.20.1")
    for name in ("onnxruntime", "onnxruntime-gpu"):
        install(**{name.replace("-", "_"): "1.20.1"})
        shown = invoke("doctor", "--json")
        assert shown.code == 4
        assert json.loads(shown.out)["problems"] == [
            f'onnxruntime 1.31 or newer is needed, 1.20.1 is installed: pip install -U "{name}>=1.31"'
        ]


def test_a_missing_export_package_is_said_with_its_remedy(monkeypatch) -> None:
    """FAULTS 70"""
    assert doctor.collect()["export"] == "ready"
    monkeypatch.setattr(doctor, "EXPORT_PACKAGES", ("onnx", "no_such_package"))
    assert doctor.collect()["export"] == 'pip install "ortgpt[export]"'


# Packages in a folder of their own, before those that are really there, in a process of their own

FAKE_ENGINE = """
__version__ = {version!r}
def get_available_providers(): return {providers!r}
"""
CPU, GPU = ["CPUExecutionProvider"], ["CUDAExecutionProvider", "CPUExecutionProvider"]


def first(folder: Path) -> dict[str, str]:
    """The environment of a process that looks for modules in the folder before all others."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))}


@pytest.fixture
def site(tmp_path: Path, run: Any) -> Callable[..., tuple[int, list[str], str]]:
    """site(wheels, module=source) -> (exit code, problems, all that is on stderr) of doctor among these."""

    def ask(*asked: str, module: str | None, **installed: str) -> tuple[int, list[str], str]:
        for name, version in installed.items():
            folder = tmp_path / f"{name}-{version}.dist-info"
            folder.mkdir()
            (folder / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n"
            )
        if module is not None:
            (tmp_path / "onnxruntime.py").write_text(module)
        # The real engine is hidden: its files, and what is known of it.
        (tmp_path / "sitecustomize.py").write_text(
            "import sys\n"
            "from importlib import metadata\n"
            f"own = {str(tmp_path)!r}\n"
            "version = metadata.version\n"
            "def own_version(name):\n"
            "    if not name.startswith('onnxruntime'): return version(name)\n"
            "    for found in metadata.distributions(name=name, path=[own]): return found.version\n"
            "    raise metadata.PackageNotFoundError(name)\n"
            "metadata.version = own_version\n"
            "class Hidden:\n"
            "    def find_spec(self, name, path=None, target=None):\n"
            f"        if name == 'onnxruntime' and {module is None}:\n"
            "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
            "sys.meta_path.insert(0, Hidden())\n"
        )
        shown = run("doctor", "--json", *asked, environ=first(tmp_path))
        return shown.code, json.loads(shown.out)["problems"], shown.err

    return ask


def test_nothing_installed_at_all(site) -> None:
    """FAULTS 24"""
    code, problems, err = site(module=None)
    assert (code, problems) == (4, [f"onnxruntime is not installed: {INSTALL_ONE}"])
    assert "Traceback" not in err


def test_a_wheel_whose_files_went_with_another_one(site) -> None:
    """FAULTS 24: both were installed, one was uninstalled."""
    code, problems, _ = site(module=None, onnxruntime_gpu="1.31.1")
    assert code == 4
    assert problems == [
        "onnxruntime-gpu is installed, but its files are gone: "
        "pip install --force-reinstall --no-deps onnxruntime-gpu"
    ]


def test_a_wheel_whose_files_another_one_has_overwritten(site) -> None:
    """FAULTS 24"""
    module = FAKE_ENGINE.format(version="1.31.1", providers=CPU)
    code, problems, _ = site(module=module, onnxruntime_gpu="1.31.1")
    assert code == 4
    assert problems == [
        "onnxruntime-gpu is installed, but what is imported is another wheel, without CUDA: "
        "pip install --force-reinstall --no-deps onnxruntime-gpu"
    ]


def test_both_wheels_are_said_even_where_the_engine_works(site) -> None:
    """FAULTS 24"""
    module = FAKE_ENGINE.format(version="1.31.1", providers=CPU)
    code, problems, _ = site(module=module, onnxruntime="1.32.0", onnxruntime_gpu="1.31.1")
    assert code == 4
    (problem,) = problems
    assert "both installed" in problem


def test_too_old_a_wheel_for_cuda(site) -> None:
    """FAULTS 24"""
    module = FAKE_ENGINE.format(version="1.19.2", providers=GPU)
    code, problems, _ = site(module=module, onnxruntime_gpu="1.19.2")
    assert code == 4
    assert problems == [
        'onnxruntime 1.31 or newer is needed, 1.19.2 is installed: pip install -U "onnxruntime-gpu>=1.31"'
    ]


def test_an_engine_that_can_not_be_imported(site) -> None:
    code, problems, err = site(module="raise ImportError('libfoo.so is missing')", onnxruntime="1.32.0")
    assert code == 4
    assert problems == ["onnxruntime is installed but can't be loaded: libfoo.so is missing"]
    assert "Traceback" not in err


def test_a_current_wheel_for_the_cpu(site) -> None:
    module = FAKE_ENGINE.format(version="1.99.0", providers=CPU)
    assert site(module=module, onnxruntime="1.99.0")[:2] == (0, [])
    wanted = site("--provider", "cuda", module=module)
    assert wanted[:2] == (4, [f"the installed onnxruntime is the one for the CPU: {CHANGE_TO_GPU}"])


def test_a_model_without_an_engine_is_one_sentence_with_both_commands(
    site, run, storyteller_bundle, tmp_path
) -> None:
    """FAULTS 70"""
    site(module=None)
    shown = run("generate", "x", "-m", storyteller_bundle, environ=first(tmp_path))
    assert shown.code == 1
    assert shown.err.splitlines() == [
        "error: ortgpt needs the package 'onnxruntime', which is not installed",
        f"hint: install it with: {INSTALL_ONE}",
    ]


def test_the_package_is_imported_without_an_engine(site, tmp_path) -> None:
    """FAULTS 70: options, strategies and errors need none."""
    site(module=None)
    code = "import ortgpt; print(ortgpt.Sampling(top_p=0.9).top_p, ortgpt.Options().max_new_tokens > 0)"
    shown = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **first(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (shown.stdout, shown.stderr) == ("0.9 True\n", "")

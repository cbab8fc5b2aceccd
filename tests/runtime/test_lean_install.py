"""The whole runtime in an environment with nothing but `ortgpt[cpu]`, as a user installs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import ortgpt

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-lean" / "bin" / "python"
# Not huggingface_hub: tokenizers brings it along.
ABSENT = ("torch", "transformers", "onnx", "safetensors", "optimum", "ml_dtypes", "llguidance")


def run(*command: str, **options: str) -> subprocess.CompletedProcess[str]:
    assert PYTHON.exists(), "make test sets .venv-lean up; run it instead of pytest alone"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run([str(PYTHON), *command], capture_output=True, text=True, env=environment, **options)


def test_nothing_heavy_is_installed() -> None:
    code = "import importlib.util, sys; print([n for n in sys.argv[1:] if importlib.util.find_spec(n)])"
    assert run("-c", code, *ABSENT).stdout.strip() == "[]"


def test_every_verb_of_the_library_works(storyteller_bundle: Path, storyteller_model: ortgpt.Model) -> None:
    code = (
        "import json, sys, ortgpt\n"
        "with ortgpt.load(sys.argv[1], threads=1) as model:\n"
        "    strategy = ortgpt.Sampling(temperature=0.8, top_k=50, top_p=0.9, min_p=0.01, typical_p=0.95)\n"
        "    options = dict(max_new_tokens=12, repetition_penalty=1.2, no_repeat_ngram_size=3,\n"
        "                   stop=['zzz'], bad_words=['and'], logprobs=2, n=2, seed=1)\n"
        "    choices = len(model.generate('The fox', strategy, **options).choices)\n"
        "    text = ''.join(event.text for event in model.stream('The fox', max_new_tokens=12))\n"
        "    batch = len(model.generate_batch(['The fox', 'A king and'], strategy, max_new_tokens=5))\n"
        "    print(json.dumps([choices, text, batch, model.score('The fox was glad.').total]))\n"
    )
    shown = run("-c", code, str(storyteller_bundle))
    assert shown.returncode == 0, shown.stderr
    choices, text, batch, total = json.loads(shown.stdout)
    assert (choices, batch) == (2, 2)
    assert text == storyteller_model.generate("The fox", max_new_tokens=12).text
    assert total == pytest.approx(
        storyteller_model.score("The fox was glad.").total,
        abs=0.01,
    )


def test_the_command_line_works(storyteller_bundle: Path) -> None:
    shown = run("-m", "ortgpt", "generate", "The fox", "-m", str(storyteller_bundle), "--json", "--seed", "1")
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["choices"][0]["text"]
    assert run("-m", "ortgpt", "inspect", str(storyteller_bundle), "--verify").returncode == 0
    assert run("-m", "ortgpt", "doctor", "--json").returncode == 0
    assert run("-m", "ortgpt", "score", "The fox", "-m", str(storyteller_bundle)).returncode == 0
    brief = ("--rounds", "1", "--rows", "2", "--new-tokens", "4", "--prefill-tokens", "16", "--threads", "1")
    assert run("-m", "ortgpt", "bench", str(storyteller_bundle), *brief).returncode == 0


def test_the_model_that_comes_along_writes(tmp_path: Path) -> None:
    shown = run("-m", "ortgpt", "generate", "Once upon a time", "--quiet", cwd=str(tmp_path))
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.strip()


def test_export_names_the_missing_extra(storyteller: Path, tmp_path: Path) -> None:
    """FAULTS 70"""
    shown = run("-m", "ortgpt", "export", str(storyteller), "-o", str(tmp_path / "bundle"))
    assert shown.returncode == 1
    assert 'pip install "ortgpt[export]"' in shown.stderr
    assert "Traceback" not in shown.stderr
    assert not (tmp_path / "bundle").exists()


def test_a_directory_of_another_exporter_is_adopted(
    make_portable: Callable[..., Path], tmp_path: Path
) -> None:
    directory = shutil.copytree(make_portable("llama"), tmp_path / "llama")
    shown = run("-m", "ortgpt", "adopt", str(directory))
    assert shown.returncode == 0, shown.stderr
    assert run("-m", "ortgpt", "generate", "king", "-m", str(directory)).returncode == 0

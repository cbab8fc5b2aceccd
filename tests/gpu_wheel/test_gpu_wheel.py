"""The runtime on onnxruntime's wheel for CUDA, whether or not this machine has a device.

`make test-gpu-wheel` runs it, in an environment with that wheel.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import ortgpt
from ortgpt.errors import ProviderError
from ortgpt.inference import cuda
from ortgpt.inference.session import available_providers, check_cuda

PROMPT = "Once upon a time there was a little fox who"


def is_ready() -> bool:
    try:
        check_cuda()
    except ProviderError:
        return False
    return True


@pytest.fixture(scope="module")
def half(storyteller_fp16: Path) -> Path:
    return storyteller_fp16


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ortgpt", *map(str, command)], capture_output=True, text=True, check=False
    )


def test_the_wheel_offers_cuda() -> None:
    assert available_providers()[-1] == "CPUExecutionProvider"
    assert cuda.PROVIDER in available_providers()


def test_doctor_says_whether_cuda_is_ready_or_what_is_missing() -> None:
    """FAULTS 24"""
    shown = run("doctor", "--provider", "cuda", "--json")
    facts = json.loads(shown.stdout)
    if is_ready():
        assert (shown.returncode, facts["cuda"], facts["problems"]) == (0, "ready", [])
        return
    assert shown.returncode == 4
    assert facts["cuda"].startswith(("CUDA can't be loaded: lib", "CUDA can't be used: "))
    (problem,) = facts["problems"]
    assert any(remedy in problem for remedy in (cuda.INSTALL_LIBRARIES, cuda.INSTALL_DRIVER, "nvidia-smi"))


def test_cuda_runs_or_says_in_two_lines_why_not(half: Path) -> None:
    """FAULTS 24: onnxruntime would write its own lines, and go on with the CPU."""
    shown = run("generate", PROMPT, "-m", half, "--provider", "cuda", "--max-new-tokens", "8", "--quiet")
    if is_ready():
        assert (shown.returncode, shown.stderr) == (0, "")
        return
    assert (shown.returncode, shown.stdout) == (4, "")
    error, hint = shown.stderr.splitlines()
    assert error.startswith("error: CUDA can't be ")
    assert hint.startswith("hint: ")


def test_auto_takes_the_cpu_with_one_line_or_cuda(half: Path) -> None:
    """FAULTS 24"""
    shown = run("generate", PROMPT, "-m", half, "--max-new-tokens", "8")
    assert shown.returncode == 0
    lines = shown.stderr.splitlines()
    if not is_ready():
        warning, *lines = lines
        assert warning.startswith("warning: running on the CPU, which has to convert fp16")
        assert "CUDA can't be" in warning
    (figures,) = lines
    assert figures.startswith("8 tokens")


def test_a_float32_bundle_stays_on_the_cpu(storyteller_bundle: Path) -> None:
    with ortgpt.load(storyteller_bundle, threads=1) as model:
        assert model.provider == "cpu"
        assert len(model.generate(PROMPT, max_new_tokens=20).token_ids) == 20
    with pytest.raises(ProviderError, match="can't run on CUDA"):
        ortgpt.load(storyteller_bundle, provider="cuda")


def test_float16_writes_on_this_wheels_cpu_what_float32_does(half: Path, storyteller_bundle: Path) -> None:
    with (
        ortgpt.load(half, provider="cpu", threads=1) as model,
        ortgpt.load(storyteller_bundle, provider="cpu", threads=1) as exact,
    ):
        for strategy in (ortgpt.Greedy(), ortgpt.BeamSearch(num_beams=3)):
            texts = [one.generate(PROMPT, strategy, max_new_tokens=30).text for one in (model, exact)]
            assert texts[0] == texts[1]

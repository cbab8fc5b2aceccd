"""`ortgpt export` as a process: exit codes, streams, help."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def ortgpt(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ortgpt", *map(str, arguments)]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", **environment}
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


def test_export_says_where_the_bundle_is_how_large_and_how_close(checkpoint, tmp_path) -> None:
    result = ortgpt("export", checkpoint, "-o", tmp_path / "bundle")
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"{tmp_path / 'bundle'}: fp32, 0.")
    assert "max logits difference" in last
    assert "against numpy" in last
    assert (tmp_path / "bundle" / "manifest.json").exists()


def test_quiet_says_nothing(checkpoint, tmp_path) -> None:
    result = ortgpt("export", checkpoint, "-o", tmp_path / "bundle", "--quiet", "--verify", "none")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_unverified_bundles_are_called_so(checkpoint, tmp_path) -> None:
    result = ortgpt("export", checkpoint, "-o", tmp_path / "bundle", "--verify", "none")
    assert "not verified" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--precision", "fp16", "--row-invariant"], 2, "error: --row-invariant can't be had with fp16"),
        (["--precision", "fp64"], 2, "fp64"),
        (["--precision", "int8-dynamic", "--row-invariant"], 2, "error: --row-invariant can't be had"),
        (["--perplexity-text", "README.md"], 2, "error: --perplexity-text compares a precision with fp32"),
        (
            ["--precision", "int8", "--perplexity-text", "missing"],
            2,
            "error: --perplexity-text missing can't",
        ),
        (
            ["--via", "optimum", "--precision", "int8"],
            2,
            "error: --precision must be fp32 or int8-dynamic via",
        ),
        (["--verify", "maybe"], 2, "maybe"),
        (["--onnxruntime-floor", "1.2"], 2, "1.2"),
        (["--revision", "main"], 2, "error: --revision is for hub ids"),
    ],
)
def test_usage_errors_exit_with_2(arguments, code, message, checkpoint, tmp_path) -> None:
    result = ortgpt("export", checkpoint, "-o", tmp_path / "bundle", *arguments)
    assert result.returncode == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "bundle").exists()


def test_a_bad_checkpoint_exits_with_3_and_a_failed_download_with_1(checkpoint, tmp_path) -> None:
    (checkpoint / "config.json").write_text('{"model_type": "bert"}')
    result = ortgpt("export", checkpoint, "-o", tmp_path / "bundle")
    assert result.returncode == 3
    error, hint = result.stderr.splitlines()
    assert error.startswith("error: ")
    assert "model_type = 'bert'" in error
    assert "--via optimum" in hint
    result = ortgpt("export", "org/model", "-o", tmp_path / "bundle", HF_HOME=str(tmp_path / "cache"))
    assert result.returncode == 1
    assert "downloading 'org/model' failed" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_existing_bundle_exits_with_2_and_force_replaces_it(checkpoint, tmp_path) -> None:
    arguments = ["export", checkpoint, "-o", tmp_path / "bundle", "--verify", "none"]
    assert ortgpt(*arguments).returncode == 0
    result = ortgpt(*arguments)
    assert result.returncode == 2
    assert "hint: --force replaces it" in result.stderr
    assert ortgpt(*arguments, "--force").returncode == 0


def test_help_shows_examples_and_imports_nothing_heavy() -> None:
    result = ortgpt("export", "--help", COLUMNS="120")
    assert "ortgpt export models/storyteller -o models/storyteller-fp32" in result.stdout
    script = (
        "import sys; sys.argv = ['ortgpt', 'export', '--help']\n"
        "import atexit; from ortgpt.cli.main import main\n"
        "heavy = {'onnx', 'safetensors', 'onnxruntime', 'huggingface_hub', 'torch', 'numpy'}\n"
        "atexit.register(lambda: print(sorted(heavy & set(sys.modules)), file=sys.stderr))\n"
        "main()\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.stderr.strip() == "[]"


def test_a_home_that_cannot_be_written_does_not_matter_to_a_local_export(checkpoint, tmp_path) -> None:
    """FAULTS 71"""
    result = ortgpt("export", checkpoint, "-o", tmp_path / "bundle", HOME="/proc/none", TZ="Nowhere/Odd")
    assert result.returncode == 0, result.stderr

"""`ortgpt verify`: its report, its JSON, its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from ortgpt.cli.main import report
from ortgpt_export.verify_command import verify


class Shown:
    """What the command left behind."""

    def __init__(self, *arguments: str | Path) -> None:
        app = typer.Typer(pretty_exceptions_enable=False)
        app.command()(verify)
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        self.out, self.err, self.code = result.stdout, result.stderr, result.exit_code
        self.error = result.exception if isinstance(result.exception, Exception) else None
        if self.error is not None:
            self.code = report(self.error)


def test_the_report_has_a_line_for_every_check_and_the_text(
    storyteller_bundle: Path, storyteller: Path
) -> None:
    shown = Shown(storyteller_bundle, "--against", storyteller, "--prompt", "The king")
    assert shown.code == 0, shown.error
    first, head, *checks = shown.out.partition("\n\n")[0].splitlines()
    assert first == "fp32, fused dialect, on cpu, against numpy"
    assert head.split() == ["measured", "limit"]
    assert [line.partition("  ")[0] for line in checks] == [
        "logits",
        "hidden states",
        "distributions",
        "cache, in pieces",
        "cache, step by step",
        "rows in a batch",
        "greedy text",
    ]
    assert "BEYOND" not in shown.out
    assert "The king|" in shown.out
    assert shown.err.splitlines()[0] == "comparing: logits"


def test_json_alone_is_on_stdout(storyteller_bundle: Path, storyteller: Path) -> None:
    shown = Shown(storyteller_bundle, "--against", storyteller, "--json", "--quiet", "--reference", "torch")
    assert (shown.code, shown.err) == (0, "")
    document = json.loads(shown.out)
    assert {key: document[key] for key in ("dialect", "precision", "provider", "reference", "passed")} == {
        "dialect": "fused",
        "precision": "fp32",
        "provider": "cpu",
        "reference": "torch",
        "passed": True,
    }
    assert set(document["checks"][0]) == {"name", "measured", "unit", "limit", "details", "passed"}
    assert document["text"]


def test_beyond_the_limits_is_1_after_the_whole_report(make_bundle: Callable[..., Path]) -> None:
    bundle, other = make_bundle(), make_bundle(seed=5)
    shown = Shown(bundle, "--against", other.parent / "checkpoint", "--json", "--quiet")
    assert shown.code == 1
    assert str(shown.error).startswith(f"{bundle} is beyond its limits: logits, hidden states")
    document = json.loads(shown.out)
    assert document["passed"] is False
    assert document["checks"][0]["passed"] is False
    assert "BEYOND" in Shown(bundle, "--against", other.parent / "checkpoint", "--quiet").out


def test_a_bad_bundle_or_checkpoint_is_3_and_bad_usage_2(
    storyteller_bundle: Path, storyteller: Path, tmp_path: Path
) -> None:
    assert Shown(storyteller, "--against", storyteller).code == 3
    assert Shown(tmp_path / "nowhere", "--against", storyteller).code == 3
    assert Shown(storyteller_bundle, "--against", tmp_path).code == 3
    assert Shown(storyteller_bundle, "--against", tmp_path / "nowhere").code == 3
    assert Shown(storyteller_bundle).code == 2
    assert Shown(storyteller_bundle, "--against", storyteller, "--reference", "jax").code == 2
    assert Shown(storyteller_bundle, "--against", storyteller, "--prompt", "word " * 600).code == 2


@pytest.mark.parametrize("package", ["safetensors", "ml_dtypes"])
def test_a_missing_package_names_verify_and_the_extra(package: str, tmp_path: Path) -> None:
    """FAULTS 70: in a process of its own, where nothing has imported it yet."""
    script = (
        "import sys; sys.modules[sys.argv[1]] = None\n"
        "from pathlib import Path\n"
        "from ortgpt.errors import MissingExtraError\n"
        "from ortgpt_export.verify_command import verify\n"
        "try: verify(Path(sys.argv[2]), Path(sys.argv[2]))\n"
        "except MissingExtraError as error: print(error.extra, error)\n"
    )
    command = [sys.executable, "-c", script, package, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stdout == f"export verify needs the package '{package}', which is not installed\n"


def test_cuda_that_is_not_there_is_4(
    storyteller_bundle: Path, storyteller: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ortgpt.inference.session.available_providers", lambda: ["CPUExecutionProvider"])
    assert Shown(storyteller_bundle, "--against", storyteller, "--provider", "cuda").code == 4

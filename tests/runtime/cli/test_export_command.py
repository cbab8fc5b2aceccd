"""`ortgpt export` beside the other commands: from a checkpoint to text, and what goes wrong on the way."""

from __future__ import annotations

import json


def test_an_exported_bundle_generates(run, storyteller, storyteller_model, tmp_path) -> None:
    bundle = tmp_path / "bundle"
    exported = run("export", storyteller, "-o", bundle)
    assert (exported.code, exported.out) == (0, "")
    assert exported.err.splitlines()[-1].startswith(f"{bundle}: fp32, ")
    shown = run("generate", "The fox", "-m", bundle, "--max-new-tokens", "8", "--json", "--quiet")
    (choice,) = json.loads(shown.out)["choices"]
    assert choice["token_ids"] == list(storyteller_model.generate("The fox", max_new_tokens=8).token_ids)
    again = run("export", storyteller, "-o", bundle)
    assert (again.code, again.out) == (2, "")
    assert str(bundle) in again.err
    assert "hint: --force" in again.err


def test_a_missing_source_is_named_and_leaves_nothing(invoke, tmp_path) -> None:
    shown = invoke("export", "none/of/these", "-o", tmp_path / "bundle")
    assert shown.code == 3
    assert shown.out == ""
    assert "none/of/these" in shown.err
    assert not (tmp_path / "bundle").exists()


def test_a_bundle_is_no_source(invoke, storyteller_bundle, tmp_path) -> None:
    shown = invoke("export", storyteller_bundle, "-o", tmp_path / "bundle")
    assert shown.code == 3
    assert not (tmp_path / "bundle").exists()


def test_a_place_that_can_not_be_written_is_an_error_without_a_traceback(run, storyteller) -> None:
    """FAULTS 22"""
    shown = run("export", storyteller, "-o", "/proc/none/bundle", "--quiet")
    assert (shown.code, shown.out) == (1, "")
    assert shown.err.startswith("error: /proc/none")
    assert "Traceback" not in shown.err

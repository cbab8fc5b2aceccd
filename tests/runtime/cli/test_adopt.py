"""`ortgpt adopt`."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

MakeBundle = Callable[..., Path]


@pytest.fixture
def directory(make_portable: MakeBundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(make_portable("gpt2"), tmp_path / "exported"))


def test_one_line_says_what_was_adopted_and_the_bundle_runs(invoke: Any, directory: Path) -> None:
    shown = invoke("adopt", directory)
    assert (shown.code, shown.out) == (0, "")
    facts = r"gpt2, fp32, 0\.\d MB, model\.onnx by pytorch \S+, not verified, [\d.]+ s"
    assert re.fullmatch(rf"{re.escape(str(directory))}: {facts}\n", shown.err)
    shown = invoke("generate", "king", "-m", directory, "--max-new-tokens", "4", "--json")
    assert shown.code == 0
    assert len(json.loads(shown.out)["choices"][0]["token_ids"]) == 4
    assert invoke("inspect", directory, "--verify").code == 0


def test_quiet_says_nothing(invoke: Any, directory: Path) -> None:
    shown = invoke("adopt", directory, "--quiet")
    assert (shown.code, shown.out, shown.err) == (0, "", "")


def test_a_manifest_stays_unless_forced(invoke: Any, directory: Path) -> None:
    assert invoke("adopt", directory).code == 0
    shown = invoke("adopt", directory)
    assert shown.code == 3
    assert shown.err == f"error: {directory}: it has a manifest.json already\nhint: --force replaces it\n"
    assert invoke("adopt", directory, "--force").code == 0


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_a_bundle_of_an_export_is_one_already(
    force: tuple[str, ...],
    invoke: Any,
    storyteller_bundle: Path,
    make_via_optimum: MakeBundle,
    tmp_path: Path,
) -> None:
    for bundle in (storyteller_bundle, make_via_optimum("gpt2")):
        directory = Path(shutil.copytree(bundle, tmp_path / bundle.name))
        before = (directory / "manifest.json").read_bytes()
        shown = invoke("adopt", directory, *force)
        assert shown.code == 3
        assert shown.err.startswith(f"error: {directory}: it is a bundle already\n")
        assert (directory / "manifest.json").read_bytes() == before


def test_a_checkpoint_is_to_be_exported(invoke: Any, storyteller: Path) -> None:
    shown = invoke("adopt", storyteller)
    assert shown.code == 3
    assert shown.err == (
        f"error: {storyteller} is a checkpoint, not a directory with a graph\n"
        f"hint: a checkpoint is turned into a bundle by: ortgpt export {storyteller} -o OUT\n"
    )


def test_of_several_graphs_one_is_named(invoke: Any, directory: Path) -> None:
    shutil.copy(directory / "model.onnx", directory / "other.onnx")
    shown = invoke("adopt", directory)
    assert shown.code == 3
    assert "it holds several graphs: model.onnx, other.onnx\nhint: choose one with --file NAME" in shown.err
    assert invoke("adopt", directory, "--file", "third.onnx").code == 2
    assert invoke("adopt", directory, "--file", "other.onnx").code == 0


def test_a_directory_that_was_not_adopted_is_refused_with_the_way_out(invoke: Any, directory: Path) -> None:
    shown = invoke("generate", "king", "-m", directory)
    assert shown.code == 3
    assert shown.err.endswith(
        f"has no manifest.json: another program exported it\n"
        f"hint: it is made a bundle by: ortgpt adopt {directory}\n"
    )


@pytest.mark.parametrize("path", ["missing/directory", "README.md"])
def test_what_is_no_directory_is_named(invoke: Any, path: str) -> None:
    shown = invoke("adopt", path)
    assert shown.code == 3
    assert path in shown.err

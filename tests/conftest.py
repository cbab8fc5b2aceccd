"""Checkpoints, bundles and models that many tests share, each made once per test process or run."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from checkpoints import make_checkpoint

import ortgpt
from ortgpt.inference.wheels import installed_wheels
from ortgpt.manifest import parse_version
from ortgpt_export.exporter import export_checkpoint

ROOT = Path(__file__).resolve().parents[1]

MakeBundle = Callable[..., Path]
# Where the engine is older than what bundles are for by default, as onnxruntime-gpu often is.
FLOOR: dict[str, Any] = (
    {"onnxruntime_floor": "1.31"} if parse_version(onnxruntime.__version__) < (1, 32) else {}
)
# `make test-gpu-wheel` runs these, in an environment of its own.
collect_ignore = [] if installed_wheels()["onnxruntime-gpu"] else ["gpu_wheel"]
# The others are config.json's.
EXPORT_OPTIONS = {"onnxruntime_floor", "precision", "row_invariant", "fast_prefill", "via"}


@pytest.fixture(scope="session")
def storyteller() -> Path:
    """The checkpoint that ships with the project."""
    return ROOT / "models" / "storyteller"


@pytest.fixture(scope="session")
def storyteller_bundle(storyteller: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = tmp_path_factory.mktemp("bundles") / "storyteller-fp32"
    export_checkpoint(str(storyteller), bundle, verify="none", **FLOOR)
    return bundle


@pytest.fixture(scope="session")
def storyteller_via_optimum(storyteller: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = tmp_path_factory.mktemp("bundles") / "storyteller-optimum"
    export_checkpoint(str(storyteller), bundle, via="optimum", verify="none")
    return bundle


@pytest.fixture(scope="session")
def storyteller_fp16(storyteller: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = tmp_path_factory.mktemp("bundles") / "storyteller-fp16"
    export_checkpoint(str(storyteller), bundle, precision="fp16", verify="none")
    return bundle


@pytest.fixture(scope="session")
def storyteller_model(storyteller_bundle: Path) -> Iterator[ortgpt.Model]:
    with ortgpt.load(storyteller_bundle, threads=1) as model:
        yield model


@pytest.fixture(scope="session")
def make_storyteller(storyteller: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeBundle:
    """make_storyteller(precision=..., row_invariant=False) -> its bundle, measured unless row-invariant.

    It takes seconds, so that all test processes of a run share what the first has made.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent

    def make(*, precision: str, row_invariant: bool = False) -> Path:
        bundle = folder / f"storyteller-{precision}{'-row-invariant' if row_invariant else ''}"
        verify = "none" if row_invariant else "numpy"
        with (folder / f"{bundle.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not bundle.exists():  # it comes whole, by a rename
                export_checkpoint(
                    str(storyteller),
                    bundle,
                    precision=precision,
                    row_invariant=row_invariant,
                    verify=verify,
                    **FLOOR,
                )
        return bundle

    return make


@pytest.fixture(scope="session")
def make_bundle(tmp_path_factory: pytest.TempPathFactory) -> MakeBundle:
    """make_bundle(precision="fp32", row_invariant=False, via="graph", **config) -> directory.

    The bundle of a random GPT-2; its checkpoint lies beside it.
    """
    made: dict[str, Path] = {}

    def make(**options: Any) -> Path:
        key = repr(sorted(options.items()))
        if key not in made:
            folder = tmp_path_factory.mktemp("random")
            options = {**FLOOR, **options}
            export = {name: options.pop(name) for name in EXPORT_OPTIONS & set(options)}
            checkpoint = make_checkpoint(folder / "checkpoint", **options)
            made[key] = folder / "bundle"
            export_checkpoint(str(checkpoint), made[key], verify="none", **export)
        return made[key]

    return make


@pytest.fixture(scope="session")
def make_portable(tmp_path_factory: pytest.TempPathFactory) -> MakeBundle:
    """make_portable("llama", merged=True, ...) -> a directory as Optimum writes it, without a manifest.

    Options are those of portable_exports.make_portable_directory; the checkpoint lies beside it.
    """
    from portable_exports import make_portable_directory  # brings torch along

    made: dict[str, Path] = {}

    def make(family: str = "gpt2", **options: Any) -> Path:
        key = repr((family, sorted(options.items())))
        if key not in made:
            made[key] = make_portable_directory(tmp_path_factory.mktemp(family), family, **options)
        return made[key]

    return make


@pytest.fixture(scope="session")
def make_via_optimum(tmp_path_factory: pytest.TempPathFactory) -> MakeBundle:
    """make_via_optimum("llama", precision="fp32", **config) -> the bundle; its checkpoint lies beside it.

    Families and config are those of portable_exports.make_portable_checkpoint.
    """
    from portable_exports import make_portable_checkpoint  # brings torch along

    made: dict[str, Path] = {}

    def make(family: str, *, precision: str = "fp32", **config: Any) -> Path:
        key = repr((family, precision, sorted(config.items())))
        if key not in made:
            folder = tmp_path_factory.mktemp(family)
            checkpoint = make_portable_checkpoint(folder / "checkpoint", family, **config)
            made[key] = folder / "bundle"
            export_checkpoint(str(checkpoint), made[key], via="optimum", precision=precision, verify="none")
        return made[key]

    return make


@pytest.fixture(scope="session")
def tiny_model(make_bundle: MakeBundle) -> Iterator[ortgpt.Model]:
    """A random model of bytes: fast, and it writes every kind of broken UTF-8."""
    with ortgpt.load(make_bundle(), threads=1) as model:
        yield model

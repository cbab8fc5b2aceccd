"""The storyteller inside the package: what `ortgpt.load()` and `ortgpt generate` take without a model."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import ortgpt
from ortgpt.bundle.bundle import open_bundle
from ortgpt.bundle.weights import map_initializers
from ortgpt.bundled import BUNDLED_MODEL
from ortgpt_export.exporter import export_checkpoint

ROOT = Path(__file__).resolve().parents[2]
MEGABYTE = 10**6


def test_load_without_a_path_is_storyteller_in_int8() -> None:
    with ortgpt.load(threads=1) as model:
        assert model.manifest.precision == "int8"
        assert model.generate("Once upon a time", max_new_tokens=12).text


def test_it_is_what_the_export_makes_of_the_checkpoint(storyteller: Path, tmp_path: Path) -> None:
    """`make storyteller` writes it. Other processors calibrate to other last bits: digests may differ."""
    fresh = tmp_path / "bundle"
    made = export_checkpoint(str(storyteller), fresh, precision="int8")
    bundled = open_bundle(BUNDLED_MODEL)
    kept = bundled.manifest
    assert kept.architecture == made.architecture
    assert kept.provenance.source_sha256 == made.provenance.source_sha256
    assert (kept.block_size, kept.row_invariant) == (made.block_size, made.row_invariant)
    assert kept.quality is not None
    assert made.quality is not None
    assert kept.quality.kl_divergence == pytest.approx(made.quality.kl_divergence, rel=0.2)
    old, new = map_initializers(bundled), map_initializers(open_bundle(fresh))
    assert old.keys() == new.keys()
    for name, values in new.items():
        if values.dtype == np.uint8:
            steps = np.abs(old[name].astype(np.int16) - values)
            assert steps.max() <= 1, name
            assert (steps > 0).mean() < 0.001, name
        else:
            np.testing.assert_allclose(old[name], values, rtol=1e-3, atol=1e-6, err_msg=name)


def test_the_command_line_writes_without_a_model(tmp_path: Path) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "ortgpt", "generate", "Once upon a time", "--max-new-tokens", "5", "--quiet"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.strip()


def test_the_wheel_carries_it(tmp_path: Path) -> None:
    """The lean environment's packages come from such a wheel as well; here its content and size."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        names = set(packed.namelist())
    assert {f"ortgpt/storyteller/{path.name}" for path in BUNDLED_MODEL.iterdir()} <= names
    assert wheel.stat().st_size < 8 * MEGABYTE

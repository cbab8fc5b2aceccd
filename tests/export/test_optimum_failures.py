"""`--via optimum` when something is wrong: one sentence, and nothing is left."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from portable_exports import FAMILIES, make_portable_checkpoint
from safetensors.numpy import load_file, save_file

from ortgpt.errors import BundleError, CheckpointError, MissingExtraError, OrtgptError
from ortgpt.manifest import Manifest
from ortgpt_export import optimum_job, optimum_trace

Change = Callable[..., None]
Export = Callable[..., Manifest]


@pytest.mark.parametrize("verify", ["numpy", "torch"])
def test_one_wrong_weight_in_the_graph_stops_the_export(
    export: Export, verify, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = optimum_job.write_portable_graph

    def spoiled(traced: Any, *rest: Any, **options: Any) -> bytes:
        values = traced.values

        def change(name: str) -> Any:
            return values(name) + 0.5 if name.endswith("h.1.ln_1.weight") else values(name)

        traced.values = change
        return real(traced, *rest, **options)

    monkeypatch.setattr(optimum_job, "write_portable_graph", spoiled)
    monkeypatch.setattr("ortgpt.generator.PROBE_TOLERANCE", 1e9)  # not what is to find it here
    with pytest.raises(BundleError, match=rf"differ from the {verify} reference by .* nothing was written"):
        export(checkpoint, tmp_path / "out" / "bundle", verify=verify)
    assert os.listdir(tmp_path / "out") == []


def test_a_disk_that_is_too_small_is_said_before_optimum_begins(
    export: Export, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = SimpleNamespace(free=1 << 20)
    monkeypatch.setattr("ortgpt_export.bundle_writer.shutil.disk_usage", lambda _: usage)
    monkeypatch.setattr(optimum_job, "trace", lambda *_, **__: pytest.fail("it began"))
    with pytest.raises(OrtgptError, match=r"needs [\d,]+ MB, but only 1 MB are free there"):
        export(llama, tmp_path / "out" / "bundle")
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize("stage", ["trace", "write_portable_graph", "measure_parity"])
def test_an_export_that_is_interrupted_leaves_nothing(
    export: Export, stage, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(optimum_job, stage, interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(llama, tmp_path / "out" / "bundle")
    assert os.listdir(tmp_path / "out") == []


def test_another_model_is_refused_in_one_sentence(
    export: Export, llama: Path, tmp_path: Path, edit_config: Change
) -> None:
    for model_type in ("bert", "no-such-model"):
        edit_config(llama, model_type=model_type)
        with pytest.raises(CheckpointError, match=f"'{model_type}' is not a model that Optimum exports"):
            export(llama, tmp_path / "out" / "bundle")
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize("verify", ["none", "torch"])
def test_a_graph_that_the_runtime_would_refuse_is_not_written(export: Export, verify, tmp_path: Path) -> None:
    """Experts are chosen by operators that no bundle may hold."""
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    shape = FAMILIES["qwen3"] | experts
    checkpoint = make_portable_checkpoint(tmp_path / "checkpoint", "qwen3_moe", **shape)
    with pytest.raises(
        CheckpointError, match=r"graph of this qwen3_moe can't be run by ortgpt: .*'TopK' is not"
    ):
        export(checkpoint, tmp_path / "out" / "bundle", verify=verify)
    assert os.listdir(tmp_path / "out") == []


def test_a_failure_of_optimum_is_one_sentence(
    export: Export, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import optimum.exporters.onnx

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no symbolic for aten::mystery\nmore of it")

    monkeypatch.setattr(optimum.exporters.onnx, "onnx_export_from_model", fail)
    with pytest.raises(CheckpointError) as caught:
        export(llama, tmp_path / "out" / "bundle")
    assert str(caught.value) == (
        "Optimum can't export this llama: RuntimeError: no symbolic for aten::mystery"
    )
    assert os.listdir(tmp_path / "out") == []


def test_weights_that_are_not_finite_are_refused(export: Export, llama: Path, tmp_path: Path) -> None:
    path = llama / "model.safetensors"
    weights = load_file(path)
    weights["model.norm.weight"][3] = np.nan
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="holds NaN or infinite values"):
        export(llama, tmp_path / "bundle")


@pytest.mark.parametrize("package", ["torch", "transformers", "optimum.exporters.onnx"])
def test_a_missing_package_names_the_extra(
    export: Export, package, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 70"""

    def find(name: str) -> object:
        if name == package:
            raise ModuleNotFoundError(name)
        return object()

    monkeypatch.setattr(optimum_trace, "find_spec", find)
    needed = package.partition(".")[0]
    with pytest.raises(MissingExtraError, match=f"--via optimum needs the package '{needed}'") as caught:
        export(checkpoint, tmp_path / "out" / "bundle")
    assert caught.value.extra == "optimum"
    assert not (tmp_path / "out").exists()

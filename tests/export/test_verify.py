"""The proof at export: a bundle that computes something else is not written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ortgpt
from ortgpt.errors import BundleError, CheckpointError, ProviderError
from ortgpt_export import job
from ortgpt_export.config import GPT2Config
from ortgpt_export.exporter import export_checkpoint
from ortgpt_export.verify import torch_reference


@pytest.mark.parametrize("verify", ["numpy", "torch"])
def test_the_report_is_in_the_manifest(verify, checkpoint, tmp_path) -> None:
    parity = export_checkpoint(str(checkpoint), tmp_path / "bundle", verify=verify).parity
    assert parity != "skipped"
    assert (parity.reference, parity.prompt_tokens, parity.cached_steps) == (verify, 24, 16)
    assert 0 < parity.max_abs_logits_difference <= 2e-4
    assert 0 < parity.max_abs_hidden_difference <= 2e-4
    assert parity.greedy_agreement == 1.0


def test_none_is_written_down_as_skipped(checkpoint, tmp_path) -> None:
    assert export_checkpoint(str(checkpoint), tmp_path / "bundle", verify="none").parity == "skipped"


@pytest.mark.parametrize("verify", ["numpy", "torch"])
@pytest.mark.parametrize(
    ("name", "index"),
    [("h.1.attn.c_attn.weight", (3, 40)), ("wpe.weight", (39, 0)), ("h.0.mlp.c_fc.bias", (5,))],
)
def test_one_wrong_weight_in_the_graph_stops_the_export(
    name, index, verify, checkpoint, tmp_path, monkeypatch
) -> None:
    """wpe's row 39 is read by the last cached step only."""
    real = job.write_graph

    def spoiled(weights: Any, *rest: Any, **options: Any) -> bytes:
        changed = {key: values.copy() for key, values in weights.items()}
        changed[name][index] += 0.5
        return real(changed, *rest, **options)

    monkeypatch.setattr(job, "write_graph", spoiled)
    # a bundle's own probe must not be what finds it
    monkeypatch.setattr("ortgpt.generator.PROBE_TOLERANCE", 1e9)
    with pytest.raises(BundleError, match=rf"differ from the {verify} reference by .* nothing was written"):
        export_checkpoint(str(checkpoint), tmp_path / "out" / "bundle", verify=verify)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_reference_that_is_not_finite_stops_the_export(checkpoint, tmp_path, monkeypatch) -> None:
    def not_finite(weights: Any, config: GPT2Config) -> Any:
        return lambda ids: (
            np.full((len(ids), config.vocab_size), np.nan),
            np.zeros((len(ids), config.n_embd)),
        )

    monkeypatch.setattr(job, "numpy_reference", not_finite)
    with pytest.raises(BundleError, match="by nan"):
        export_checkpoint(str(checkpoint), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_checkpoint_that_torch_can_t_compute_is_one_sentence(tmp_path: Path) -> None:
    """Heads of 16, of which 64 numbers are to be turned."""
    from portable_exports import make_portable_checkpoint  # brings torch along

    shape = {"n_layer": 1, "n_head": 2, "n_embd": 32, "n_positions": 64, "rotary_dim": 64}
    reference = torch_reference(make_portable_checkpoint(tmp_path, "gptj", **shape))
    with pytest.raises(
        CheckpointError, match=r"can't be computed by transformers: RuntimeError: .+"
    ) as caught:
        reference(np.arange(4))
    assert len(str(caught.value).splitlines()) == 1


def test_an_older_onnxruntime_here_is_told_of_the_other_floor(checkpoint, tmp_path, monkeypatch) -> None:
    def too_old(*_: Any, **__: Any) -> ortgpt.Model:
        raise ProviderError("onnxruntime 1.32 or newer is needed")

    monkeypatch.setattr(ortgpt, "load", too_old)
    with pytest.raises(ProviderError) as caught:
        export_checkpoint(str(checkpoint), tmp_path / "bundle")
    assert "--onnxruntime-floor 1.31" in str(caught.value.hint)
    assert not (tmp_path / "bundle").exists()


def test_the_storyteller_agrees_with_both_references(storyteller: Path, tmp_path: Path) -> None:
    for verify in ("numpy", "torch"):
        parity = export_checkpoint(str(storyteller), tmp_path / verify, verify=verify).parity
        assert parity != "skipped"
        assert parity.max_abs_logits_difference <= 2e-4
        assert parity.greedy_agreement == 1.0

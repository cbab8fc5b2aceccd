"""A bundle against its checkpoint: what is sound passes, and every kind of fault is found by its check."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import ortgpt
from ortgpt.errors import CheckpointError, OptionError
from ortgpt.inference.fused_decoder import FusedDecoder
from ortgpt.interfaces import Outputs
from ortgpt_export.quality import KL_LIMITS
from ortgpt_export.verification import Verification, verify_bundle

MakeBundle = Callable[..., Path]
CHECKS = (
    "logits",
    "hidden states",
    "distributions",
    "cache, in pieces",
    "cache, step by step",
    "rows in a batch",
    "greedy text",
)


def beyond(result: Verification) -> list[str]:
    return [check.name for check in result.checks if not check.passed]


@pytest.mark.parametrize("reference", ["numpy", "torch", None])
def test_a_sound_float32_bundle_passes_every_check(
    reference: str | None, storyteller_bundle: Path, storyteller: Path, storyteller_model: ortgpt.Model
) -> None:
    result = verify_bundle(storyteller_bundle, storyteller, reference=reference, prompt="The king")
    assert result.passed
    assert beyond(result) == []
    assert tuple(check.name for check in result.checks) == CHECKS
    assert (result.reference, result.provider) == (reference or "numpy", "cpu")
    measured = {check.name: check for check in result.checks}
    assert 0 < measured["logits"].measured < 2e-4 == measured["logits"].limit
    assert measured["rows in a batch"].measured == 0
    assert measured["greedy text"].details == "32 of 32 tokens are the reference's"
    expected = storyteller_model.generate("The king", max_new_tokens=32, stop_token_ids=[])
    assert result.text == expected.text


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_other_precisions_are_judged_by_their_distributions(
    precision: str, make_storyteller: MakeBundle, storyteller: Path
) -> None:
    result = verify_bundle(make_storyteller(precision=precision), storyteller)
    assert beyond(result) == []
    checks = {check.name: check for check in result.checks}
    assert checks["logits"].limit is None
    assert checks["logits"].measured > 2e-4
    assert 0 < checks["distributions"].measured < checks["distributions"].limit


@pytest.mark.parametrize(("precision", "factor"), [("int8", 1.05), ("int4", 1.2)])
def test_a_bundle_that_lost_more_than_its_manifest_says_is_found(
    precision: str, factor: float, make_storyteller: MakeBundle, storyteller: Path, tmp_path: Path
) -> None:
    """One matrix of the checkpoint is not the one that was exported: too little for the precision's limit."""
    bundle = make_storyteller(precision=precision)
    checkpoint = Path(shutil.copytree(storyteller, tmp_path / "checkpoint"))
    weights = load_file(checkpoint / "model.safetensors")
    name = next(name for name in weights if name.endswith("h.0.mlp.c_fc.weight"))
    weights[name] = (weights[name] * factor).astype(weights[name].dtype)
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    result = verify_bundle(bundle, checkpoint)
    assert beyond(result) == ["distributions"]
    assert result.checks[2].measured < KL_LIMITS[precision]


@pytest.mark.parametrize(
    ("measured", "limit"), [(None, 0.02), (0.001, 0.003), (1e-5, 1e-3), (0.015, 0.02), (0.0, 1e-3)]
)
def test_the_limit_is_three_times_what_the_manifest_says_and_never_above_the_precisions(
    measured: float | None, limit: float, make_storyteller: MakeBundle, storyteller: Path, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(make_storyteller(precision="int8"), tmp_path / "bundle"))
    manifest = json.loads((bundle / "manifest.json").read_text())
    if measured is None:
        manifest["quality"] = None
    else:
        manifest["quality"]["kl_divergence"] = measured
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    checks = {check.name: check for check in verify_bundle(bundle, storyteller).checks}
    assert checks["distributions"].limit == pytest.approx(limit)
    assert checks["cache, in pieces"].limit == 0.02, "the bundle against itself"


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_graphs_of_the_portable_dialect_are_verified_alike(family: str, make_via_optimum: MakeBundle) -> None:
    bundle = make_via_optimum(family)
    result = verify_bundle(bundle, bundle.parent / "checkpoint")
    assert beyond(result) == []
    assert result.manifest.dialect == "portable"
    assert result.reference == ("numpy" if family == "gpt2" else "torch")
    assert {check.name for check in result.checks if check.measured is None} == set()


def test_hidden_states_that_a_graph_does_not_give_are_said_to_be_missing(
    storyteller_bundle: Path, storyteller: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init = FusedDecoder.__init__

    def blind(self: FusedDecoder, *given: Any, **options: Any) -> None:
        init(self, *given, **options)
        self.capabilities = ortgpt.interfaces.Capabilities(False, True, True, True)

    monkeypatch.setattr(FusedDecoder, "__init__", blind)
    result = verify_bundle(storyteller_bundle, storyteller)
    assert beyond(result) == []
    hidden = result.checks[1]
    assert (hidden.name, hidden.measured, hidden.details) == ("hidden states", None, "the graph gives none")


@pytest.mark.parametrize("options", [{"n_positions": 4}, {"n_positions": 16, "eos_token_id": None}])
def test_short_contexts_are_compared_as_far_as_they_go(options: Any, make_bundle: MakeBundle) -> None:
    bundle = make_bundle(**options)
    result = verify_bundle(bundle, bundle.parent / "checkpoint")
    assert beyond(result) == []
    assert tuple(check.name for check in result.checks) == CHECKS


def test_the_weights_of_another_model_are_found(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle, other = make_bundle(), make_bundle(seed=5)
    result = verify_bundle(bundle, other.parent / "checkpoint")
    assert not result.passed
    assert {"logits", "hidden states", "greedy text"} <= set(beyond(result))
    # The bundle's cache is sound all the same.
    assert not {name for name in beyond(result) if name.startswith(("cache", "rows"))}


def spoil(monkeypatch: pytest.MonkeyPatch, when: Callable[[FusedDecoder, Any], bool]) -> None:
    """Add a thousandth to some logits of every call for which `when(decoder, new ids)` holds."""
    extend = FusedDecoder.extend

    def spoilt(self: FusedDecoder, token_ids: Any, **options: Any) -> Outputs:
        is_spoilt = when(self, token_ids)
        outputs = extend(self, token_ids, **options)
        if is_spoilt:
            outputs.logits[..., ::2] += 1e-3
        return outputs

    monkeypatch.setattr(FusedDecoder, "extend", spoilt)


FAULTS: dict[str, tuple[Callable[[FusedDecoder, Any], bool], set[str]]] = {
    "rows beside others": (lambda decoder, _: decoder.num_rows == 4, {"rows in a batch"}),
    "steps on a long past": (
        lambda decoder, ids: decoder.num_rows == 1 and decoder.lengths[0] > 45 and len(ids[0]) == 1,
        {"cache, step by step", "cache, in pieces", "rows in a batch"},  # the last piece is a step
    ),
    "pieces on a past": (
        lambda decoder, ids: decoder.num_rows == 1 and decoder.lengths[0] > 0 and len(ids[0]) == 7,
        {"cache, in pieces"},
    ),
    "all": (lambda *_: True, {"logits"}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_cache_is_found_by_its_check(
    fault: str, storyteller_bundle: Path, storyteller: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    when, names = FAULTS[fault]
    spoil(monkeypatch, when)
    found = set(beyond(verify_bundle(storyteller_bundle, storyteller)))
    assert found == names


def test_not_a_number_is_beyond_every_limit(
    storyteller_bundle: Path, storyteller: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ortgpt.interfaces.Outputs
    extend = FusedDecoder.extend

    def broken(self: FusedDecoder, token_ids: Any, **options: Any) -> Outputs:
        outputs = extend(self, token_ids, **options)
        return run(np.full_like(outputs.logits, np.nan), outputs.hidden) if options.get("hidden") else outputs

    monkeypatch.setattr(FusedDecoder, "extend", broken)
    assert "logits" in beyond(verify_bundle(storyteller_bundle, storyteller))


def test_a_checkpoint_of_another_shape_is_refused(
    storyteller: Path, make_bundle: MakeBundle, storyteller_bundle: Path
) -> None:
    for reference in ("numpy", "torch"):
        with pytest.raises(CheckpointError, match="has a vocabulary of 4096, the bundle one of"):
            verify_bundle(make_bundle(), storyteller, reference=reference)
    short = make_bundle(n_positions=100)
    with pytest.raises(CheckpointError, match="has a context of 100"):
        verify_bundle(make_bundle(), short.parent / "checkpoint")


def test_the_numpy_reference_of_another_family_is_refused_with_the_one_that_knows_it(
    storyteller_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(OptionError, match=r"^reference numpy knows GPT-2 only, .* 'llama'$") as caught:
        verify_bundle(storyteller_bundle, tmp_path, reference="numpy")
    assert caught.value.hint == "take --reference torch"


def test_what_is_no_checkpoint_or_no_reference_is_refused_by_name(
    storyteller_bundle: Path, storyteller: Path, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match="reference must be one of torch, numpy, got 'jax'"):
        verify_bundle(storyteller_bundle, storyteller, reference="jax")
    for reference in (None, "numpy", "torch"):
        with pytest.raises(CheckpointError, match="nowhere"):
            verify_bundle(storyteller_bundle, tmp_path / "nowhere", reference=reference)
        with pytest.raises(CheckpointError, match=r"config\.json"):
            verify_bundle(storyteller_bundle, tmp_path, reference=reference)
    with pytest.raises(OptionError, match=r"prompt has \d+ tokens, the context is 512"):
        verify_bundle(storyteller_bundle, storyteller, prompt="word " * 600)

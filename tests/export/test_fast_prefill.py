"""--fast-prefill: a second graph in the bundle, which stores only what the first one does not hold."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from checkpoints import make_checkpoint

import ortgpt
from ortgpt.bundle.bundle import Bundle, open_bundle
from ortgpt.bundle.weights import map_initializers
from ortgpt.errors import BundleError, OptionError
from ortgpt_export import quality
from ortgpt_export.cli import summary
from ortgpt_export.exporter import export_checkpoint
from ortgpt_export.external_data import ALIGNMENT
from ortgpt_export.quality import kl_divergence, next_logits, sample_texts

MakeBundle = Callable[..., Path]

WIDTH, LAYERS = 32, 2  # of make_checkpoint's models
MATRICES = {"attn.c_attn": 3 * WIDTH, "attn.c_proj": WIDTH, "mlp.c_fc": 4 * WIDTH, "mlp.c_proj": WIDTH}


@pytest.fixture(params=["int8", "int4"])
def precision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def fast(make_bundle: MakeBundle, precision: str) -> Bundle:
    return open_bundle(make_bundle(precision=precision, fast_prefill=True))


def tensors(graph: Path) -> dict[str, onnx.TensorProto]:
    proto = onnx.load(graph, load_external_data=False).graph
    return {tensor.name: tensor for tensor in proto.initializer}


def location(tensor: onnx.TensorProto) -> str:
    return next((pair.value for pair in tensor.external_data if pair.key == "location"), "inline")


def test_the_bundle_has_two_more_files_which_its_manifest_lists(fast: Bundle) -> None:
    more = {"prefill.onnx", "prefill.onnx.data"}
    assert more < set(os.listdir(fast.directory))
    assert more < set(fast.manifest.files)
    assert fast.manifest.fast_prefill
    assert not fast.manifest.row_invariant


def test_the_second_data_file_holds_the_layers_columns_and_nothing_else(make_bundle: MakeBundle) -> None:
    fast = open_bundle(make_bundle(precision="int8", fast_prefill=True))
    stored = tensors(fast.directory / "prefill.onnx")
    own = {name for name, tensor in stored.items() if location(tensor) == "prefill.onnx.data"}
    layers = {f"h.{layer}.{matrix}.weight" for layer in range(LAYERS) for matrix in MATRICES}
    assert own == layers | {name + ".scales" for name in layers}
    inputs = dict.fromkeys(MATRICES, WIDTH) | {"mlp.c_proj": 4 * WIDTH}
    sizes = [size for name, out in MATRICES.items() for size in (inputs[name] * out, 4 * out)] * LAYERS
    begin = sum(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes[:-1])
    assert fast.manifest.files["prefill.onnx.data"].size == begin + sizes[-1]


def test_what_both_graphs_hold_alike_is_stored_once(fast: Bundle) -> None:
    first, second = (tensors(fast.directory / name) for name in ("decoder.onnx", "prefill.onnx"))
    shared = {name for name, tensor in second.items() if location(tensor) == "decoder.onnx.data"}
    assert {"wte.weight", "wte.weight.scales", "wte.weight.blocks", "wpe.weight", "ln_f.bias"} < shared
    # GPTQ's biases make up for its own rounding, and int4's norms have no outliers taken from them.
    of_layers = {"h.1.attn.c_attn.bias", "h.1.mlp.c_proj.bias", "h.0.ln_2.weight"}
    assert (of_layers < shared) is (fast.manifest.precision == "int8")
    for name in shared:
        assert second[name] == first[name]


def test_the_second_graph_is_that_of_int8_dynamic(make_bundle: MakeBundle, precision: str) -> None:
    fast = open_bundle(make_bundle(precision=precision, fast_prefill=True))
    dynamic = open_bundle(make_bundle(precision="int8-dynamic"))
    assert fast.prefill_graph is not None
    found, expected = map_initializers(fast, fast.prefill_graph), map_initializers(dynamic)
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, strict=True)
    graphs = [onnx.ModelProto.FromString(graph).graph for graph in (fast.prefill_graph, dynamic.graph)]
    assert graphs[0].node == graphs[1].node


def test_the_first_graph_is_that_of_the_plain_bundle_to_the_last_byte(
    make_bundle: MakeBundle, precision: str
) -> None:
    fast = open_bundle(make_bundle(precision=precision, fast_prefill=True)).manifest.files
    plain = open_bundle(make_bundle(precision=precision)).manifest.files
    for name in plain:
        assert fast[name] == plain[name]


def test_a_head_of_its_own_is_stored_once_too(
    checkpoint: Path, edit_config: Callable[..., None], edit_weights: Callable[..., None], tmp_path: Path
) -> None:
    edit_config(checkpoint, tie_word_embeddings=False)
    edit_weights(checkpoint, lambda w: w | {"lm_head.weight": w["transformer.wte.weight"] + 1})
    export_checkpoint(
        str(checkpoint), tmp_path / "bundle", precision="int8", fast_prefill=True, verify="none"
    )
    second = tensors(tmp_path / "bundle" / "prefill.onnx")
    for name in ("lm_head.weight", "lm_head.weight.scales", "lm_head.weight.blocks"):
        assert location(second[name]) == "decoder.onnx.data"
    ortgpt.load(tmp_path / "bundle").close()


@pytest.mark.parametrize("options", [{"n_head": 3, "n_embd": 36}, {"onnxruntime_floor": "1.31"}])
def test_padded_heads_and_older_onnxruntimes_get_it_as_well(make_bundle: MakeBundle, options: dict) -> None:
    bundle = make_bundle(precision="int8", fast_prefill=True, **options)
    with ortgpt.load(bundle, threads=1) as model:
        assert model.fast_prefill
        assert len(model.generate(list(range(20)), max_new_tokens=4, stop_token_ids=[]).token_ids) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp32"}, "fast_prefill goes with int8 and int4, not with fp32"),
        ({"precision": "int8-dynamic"}, "fast_prefill goes with int8 and int4, not with int8-dynamic"),
        (
            {"precision": "int8", "row_invariant": True},
            "fast_prefill does not go with row_invariant: all rows of a call share a scale",
        ),
    ],
)
def test_what_it_does_not_go_with_is_refused_before_any_work(
    options: dict, message: str, tmp_path: Path
) -> None:
    with pytest.raises(OptionError) as caught:
        export_checkpoint("nowhere", tmp_path / "bundle", fast_prefill=True, **options)
    assert (str(caught.value), caught.value.option) == (message, "fast_prefill")
    assert os.listdir(tmp_path) == []


def test_the_quality_is_that_of_the_graph_that_loses_more(precision: str, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint")
    manifest = export_checkpoint(str(checkpoint), tmp_path / "bundle", precision=precision, fast_prefill=True)
    export_checkpoint(str(checkpoint), tmp_path / "fp32", verify="none")
    losses = []
    with ortgpt.load(tmp_path / "fp32") as reference:
        texts = sample_texts(reference)
        expected = [next_logits(reference, text) for text in texts]
        for fast_prefill in (False, True):
            with ortgpt.load(tmp_path / "bundle", fast_prefill=fast_prefill) as model:
                pairs = zip(expected, (next_logits(model, text) for text in texts), strict=True)
                losses.append(float(np.concatenate([kl_divergence(p, q) for p, q in pairs]).mean()))
    assert losses[0] != losses[1]
    assert manifest.quality is not None
    assert manifest.quality.kl_divergence == pytest.approx(max(losses), rel=1e-6)


def test_the_second_graph_may_lose_what_int8_dynamic_may(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(int8: float, dynamic: float) -> float:
        """The loss of the second graph, which is the greater one, when there are such limits."""
        monkeypatch.setattr(quality, "KL_LIMITS", {"int8": int8, "int8-dynamic": dynamic})
        manifest = export_checkpoint(
            str(checkpoint), tmp_path / "bundle", precision="int8", fast_prefill=True, force=True
        )
        assert manifest.quality is not None
        return manifest.quality.kl_divergence

    loss = export(1.0, 0.0)
    export(0.95 * loss, 1.0)
    with pytest.raises(BundleError, match="may lose"):
        export(0.95 * loss, 0.95 * loss)
    with pytest.raises(BundleError, match="may lose"):
        export(0.0, 1.0)  # the first graph has no such licence


def test_a_bundle_with_two_graphs_can_be_replaced(checkpoint: Path, tmp_path: Path) -> None:
    for fast_prefill in (True, True, False):
        export_checkpoint(
            str(checkpoint),
            tmp_path / "bundle",
            precision="int8",
            fast_prefill=fast_prefill,
            verify="none",
            force=True,
        )
        assert (tmp_path / "bundle" / "prefill.onnx").exists() is fast_prefill


def test_the_last_line_names_it(fast: Bundle, precision: str) -> None:
    assert f": {precision} with fast prefill, " in summary(fast.directory, fast.manifest, 1.0)

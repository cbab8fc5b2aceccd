"""The graph via Optimum, on onnxruntime without the runtime's decoder: the answers are transformers'."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from portable_exports import export_with_optimum
from transformers import AutoModelForCausalLM

from ortgpt.manifest_reader import read_manifest
from ortgpt_export.exporter import export_checkpoint

MakeBundle = Callable[..., Path]
LENGTH, PROMPT = 48, 20
# What differs between families, and within one: windows, factors, a head of its own, states of another width.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {}),
    "gpt2 scaled by layer": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    "gpt2 unscaled": ("gpt2", {"scale_attn_weights": False}),
    "gpt2 with a head of its own": ("gpt2", {"tie_word_embeddings": False}),
    "gpt_neo": ("gpt_neo", {}),
    "opt": ("opt", {}),
    "opt with narrow embeddings": ("opt", {"word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "llama": ("llama", {}),
    "llama with a tied table": ("llama", {"tie_word_embeddings": True}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "mistral": ("mistral", {}),
    "mistral with a window": ("mistral", {"sliding_window": 8}),
    "gemma": ("gemma", {}),
    "phi": ("phi", {}),
}


class PlainRow:
    """One row on the bare graph of a bundle, cache and all by hand."""

    def __init__(self, bundle: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(bundle / "decoder.onnx"), options)
        self._inputs = [value.name for value in self._session.get_inputs()]
        self._past = {
            value.name: np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32)
            for value in self._session.get_inputs()
            if value.name.startswith("past_key_values.")
        }
        self._length = 0

    def extend(self, token_ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """(logits (new, vocab), hidden (new, width)) of new tokens."""
        total = self._length + len(token_ids)
        feeds = {
            "input_ids": np.array([token_ids]),
            "attention_mask": np.ones((1, total), np.int64),
            "position_ids": np.arange(self._length, total)[None],
        }
        feeds = {name: value for name, value in feeds.items() if name in self._inputs} | self._past
        names = [value.name for value in self._session.get_outputs()]
        results = dict(zip(names, self._session.run(None, feeds), strict=True))
        self._past = {name: results[name.replace("past_key_values", "present")] for name in self._past}
        self._length = total
        return results["logits"][0], results["hidden_states"][0]


def run(bundle: Path, token_ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """A prompt at once, the others one by one."""
    row = PlainRow(bundle)
    steps = [row.extend(token_ids[:PROMPT])] + [row.extend([i]) for i in token_ids[PROMPT:]]
    return np.concatenate([step[0] for step in steps]), np.concatenate([step[1] for step in steps])


def some_ids(vocab_size: int) -> list[int]:
    ids: list[int] = np.random.default_rng(1).integers(0, vocab_size, LENGTH).tolist()
    return ids


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_states_are_those_of_transformers(name, make_via_optimum: MakeBundle) -> None:
    family, config = MODELS[name]
    bundle = make_via_optimum(family, **config)
    model = AutoModelForCausalLM.from_pretrained(bundle.parent / "checkpoint", attn_implementation="eager")
    ids = some_ids(model.config.vocab_size)
    with torch.no_grad():
        expected = model.eval()(torch.tensor([ids]), output_hidden_states=True)
    logits, hidden = run(bundle, ids)
    np.testing.assert_allclose(logits, expected.logits[0].numpy(), atol=2e-5)
    np.testing.assert_allclose(hidden, expected.hidden_states[-1][0].numpy(), atol=2e-5)
    assert np.ptp(logits, axis=-1).min() > 0.1, "logits that are all alike would agree with anything"


@pytest.mark.parametrize(("family", "config"), [("gpt2", {}), ("llama", {"tie_word_embeddings": True})])
def test_a_tied_table_is_stored_once(family, config, make_via_optimum: MakeBundle) -> None:
    """Optimum stores it twice, the second time transposed."""
    bundle = make_via_optimum(family, **config)
    vocab, width = 257, 32
    tables = [t for t in stored(bundle) if sorted(t.dims) == [width, vocab]]
    assert [list(t.dims) for t in tables] == [[vocab, width]]
    size = sum(p.stat().st_size for p in (bundle.parent / "checkpoint").glob("*.safetensors"))
    slack = 4096 * len(stored(bundle))  # whole pages
    assert (bundle / "decoder.onnx.data").stat().st_size < size + slack


def test_a_head_of_its_own_is_stored_beside_the_table(make_via_optimum: MakeBundle) -> None:
    tables = [t for t in stored(make_via_optimum("llama")) if list(t.dims) == [257, 32]]
    assert len(tables) == 2


def test_equal_constants_are_stored_once(make_via_optimum: MakeBundle) -> None:
    """GPT-Neo has a mask as long and wide as the context in every layer: two kinds, four layers."""
    bundle = make_via_optimum("gpt_neo", num_layers=4, attention_types=[[["global", "local"], 2]])
    masks = [t for t in stored(bundle) if t.data_type == onnx.TensorProto.BOOL]
    assert len(masks) == 2
    graph = onnx.load(bundle / "decoder.onnx", load_external_data=False).graph
    assert not [t for node in graph.node for a in node.attribute if len((t := a.t).raw_data) >= 1024]


def test_the_same_checkpoint_gives_the_same_bytes_twice(make_via_optimum: MakeBundle, tmp_path) -> None:
    bundle = make_via_optimum("qwen2")
    export_checkpoint(str(bundle.parent / "checkpoint"), tmp_path / "again", via="optimum", verify="none")
    for path in bundle.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def test_weights_that_optimum_keeps_beside_its_graph_give_the_same_bundle(
    make_via_optimum: MakeBundle, tmp_path, monkeypatch
) -> None:
    """As it does with models of more than 2 GB."""
    monkeypatch.setenv("FORCE_ONNX_EXTERNAL_DATA", "1")
    for family in ("gpt_neo", "llama"):
        bundle = make_via_optimum(family)
        export_checkpoint(str(bundle.parent / "checkpoint"), tmp_path / family, via="optimum", verify="none")
        for path in bundle.iterdir():
            assert path.read_bytes() == (tmp_path / family / path.name).read_bytes(), path.name


def test_the_manifest_says_what_the_graph_takes(make_via_optimum: MakeBundle) -> None:
    for family, takes_positions in (("llama", True), ("gemma", False)):
        manifest = read_manifest((make_via_optimum(family) / "manifest.json").read_bytes())
        graph = manifest.portable
        assert graph is not None
        assert (graph.file, graph.data_files) == ("decoder.onnx", ("decoder.onnx.data",))
        assert (graph.cache, graph.ids_type, graph.cache_branch) == ("pairs", "int64", False)
        assert graph.attention_mask
        assert graph.hidden_states
        assert graph.position_ids is takes_positions


def test_layers_in_int8_are_those_of_onnxruntime_s_own_quantiser(
    make_via_optimum: MakeBundle, tmp_path
) -> None:
    """A scale per output, around zero: weight by weight what quantize_dynamic makes of Optimum's graph."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    bundle = make_via_optimum("llama", precision="int8-dynamic")
    export_with_optimum(bundle.parent / "checkpoint", tmp_path)
    quantize_dynamic(
        tmp_path / "model.onnx",
        tmp_path / "int8.onnx",
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        extra_options={"MatMulConstBOnly": True},
    )
    initializers = {
        t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / "int8.onnx").graph.initializer
    }
    theirs = {n.removesuffix("_quantized"): v for n, v in initializers.items() if n.endswith("_quantized")}
    ours = {t.name: t for t in stored(bundle) if t.data_type == onnx.TensorProto.INT8}
    assert len(ours) == 14, "two layers of q, k, v, o, gate, up and down"
    for name, tensor in ours.items():
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor, str(bundle)), theirs[name], name)


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
def test_int8_holds_no_large_weight_in_float(family, make_via_optimum: MakeBundle) -> None:
    for tensor in stored(make_via_optimum(family, precision="int8-dynamic")):
        is_matrix = len(tensor.dims) == 2 and "scales" not in tensor.name
        is_positions = tensor.dims[0] in (64, 66)
        assert tensor.data_type != onnx.TensorProto.FLOAT or not is_matrix or is_positions, tensor.name


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama", "gpt_neo", "qwen3"])
def test_int8_is_near_fp32(family, make_via_optimum: MakeBundle) -> None:
    ids = some_ids(257)
    exact, rounded = (
        torch.from_numpy(run(make_via_optimum(family, precision=precision), ids)[0]).log_softmax(-1)
        for precision in ("fp32", "int8-dynamic")
    )
    divergence = float((exact.exp() * (exact - rounded)).sum(-1).mean())
    assert 0 < divergence < 0.05


def stored(bundle: Path) -> list[onnx.TensorProto]:
    """The tensors in the bundle's data file."""
    graph = onnx.load(bundle / "decoder.onnx", load_external_data=False).graph
    return [t for t in graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]

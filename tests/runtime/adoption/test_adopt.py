"""ortgpt.adopt: directories of Optimum become bundles that write what transformers writes."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from portable_exports import FAMILIES
from tokenizer_shapes import llama2, opt
from transformers import AutoModelForCausalLM, AutoTokenizer

import ortgpt
from ortgpt.errors import BundleError, BundleIntegrityError, OptionError
from ortgpt.manifest_reader import read_manifest

MakeBundle = Callable[..., Path]


@pytest.fixture
def make_copy(make_portable: MakeBundle, tmp_path: Path) -> MakeBundle:
    """make_copy("llama", merged=True) -> a directory of one's own, without a manifest"""

    def make(family: str = "gpt2", **options: Any) -> Path:
        return Path(shutil.copytree(make_portable(family, **options), tmp_path / "copy"))

    return make


def greedy_ids(checkpoint: Path, prompt: list[int], count: int) -> list[int]:
    model = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    ids = torch.tensor([prompt])
    mask = torch.ones_like(ids)
    made = model.generate(ids, attention_mask=mask, max_new_tokens=count, do_sample=False, pad_token_id=0)
    return made[0, len(prompt) :].tolist()


def our_ids(directory: Path, prompt: list[int], count: int) -> list[int]:
    with ortgpt.load(directory, threads=1) as model:
        choice = model.generate(prompt, max_new_tokens=count).choices[0]
    return list(choice.token_ids)


VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((family, {}) for family in FAMILIES),
    ("gpt2", {"merged": True}),
    ("llama", {"merged": True}),
    ("gpt2", {"stacked": True}),
    ("gpt2", {"position_ids": False}),
    ("opt", {"position_ids": False}),
    ("gpt2", {"hidden_states": True}),
]


@pytest.mark.parametrize(("family", "options"), VARIANTS)
def test_an_adopted_directory_writes_what_transformers_writes(
    make_portable: MakeBundle, make_copy: MakeBundle, family: str, options: dict[str, Any]
) -> None:
    directory = make_copy(family, **options)
    checkpoint = make_portable(family, **options).with_name("checkpoint")
    manifest = ortgpt.adopt(directory)
    assert manifest == read_manifest((directory / "manifest.json").read_bytes())
    prompt = list(b"Once upon a time")
    expected = greedy_ids(checkpoint, prompt, 12)
    assert our_ids(directory, prompt, 12) == expected
    assert len(set(expected)) > 1


def test_the_manifest_says_what_the_directory_holds(make_copy: MakeBundle) -> None:
    directory = make_copy("qwen3", merged=True)
    manifest = ortgpt.adopt(directory)
    shape, graph = manifest.architecture, manifest.portable
    assert graph is not None
    assert (shape.model_type, shape.layers, shape.heads, shape.kv_heads) == ("qwen3", 2, 4, 2)
    assert (shape.head_size, shape.cache_head_size, shape.width, shape.context) == (16, 16, 32, 64)
    assert (shape.vocab_size, shape.tokenizer_size) == (257, 257)
    assert (shape.bos_token_id, shape.eos_token_ids) == (256, (256,))
    assert (manifest.dialect, manifest.precision, manifest.parity) == ("portable", "fp32", "skipped")
    assert manifest.row_invariant is False
    assert (graph.file, graph.data_files) == ("decoder_model_merged.onnx", ())
    assert (graph.cache, graph.ids_type) == ("pairs", "int64")
    assert (graph.attention_mask, graph.position_ids, graph.cache_branch, graph.hidden_states) == (
        True,
        True,
        True,
        False,
    )
    assert manifest.provenance.source == "copy"
    assert manifest.provenance.exporter == "optimum-onnx"
    assert set(manifest.files) == {"decoder_model_merged.onnx", "tokenizer.json"}
    for name, entry in manifest.files.items():
        assert entry.sha256 == hashlib.sha256((directory / name).read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("family", "options", "facts"),
    [
        ("gpt2", {"stacked": True}, {"cache": "stacked", "ids_type": "int32"}),
        ("gpt2", {"hidden_states": True}, {"hidden_states": True}),
        ("gemma", {}, {"position_ids": False}),
    ],
)
def test_what_exporters_do_differently_is_recognised(
    make_copy: MakeBundle, family: str, options: dict[str, Any], facts: dict[str, Any]
) -> None:
    graph = ortgpt.adopt(make_copy(family, **options)).portable
    assert {name: getattr(graph, name) for name in facts} == facts


def test_the_probe_is_the_models_own_answer(make_portable: MakeBundle, make_copy: MakeBundle) -> None:
    directory = make_copy("llama")
    probe = ortgpt.adopt(directory).probe
    checkpoint = make_portable("llama").with_name("checkpoint")
    assert list(probe.token_ids) == AutoTokenizer.from_pretrained(checkpoint)(probe.text)["input_ids"]
    model = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    with torch.no_grad():
        logits = model(torch.tensor([probe.token_ids])).logits[0, -1]
    assert probe.argmax == int(logits.argmax())


@pytest.mark.parametrize("merged", [False, True])
def test_dynamically_quantised_weights_are_named(make_copy: MakeBundle, merged: bool) -> None:
    directory = make_copy("gpt2", int8=True, merged=merged)
    assert ortgpt.adopt(directory).precision == "int8-dynamic"
    assert len(our_ids(directory, [1, 2, 3], 4)) == 4


@pytest.mark.parametrize(("bits", "precision"), [(4, "int4"), (8, "int8")])
def test_weights_in_blocks_are_named(make_copy: MakeBundle, bits: int, precision: str) -> None:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    directory = make_copy("llama")
    path = directory / "model.onnx"
    quantiser = MatMulNBitsQuantizer(onnx.load(path), bits=bits, block_size=32, is_symmetric=True)
    quantiser.process()
    onnx.save(quantiser.model.model, path)
    manifest = ortgpt.adopt(directory)
    assert (manifest.precision, manifest.block_size) == (precision, 32)
    assert our_ids(directory, [1, 2, 3], 4)


@pytest.mark.parametrize(("make", "bos"), [(opt, "</s>"), (llama2, "<s>")])
def test_a_prompt_begins_as_transformers_begins_it(
    make_portable: MakeBundle, make_copy: MakeBundle, make: Callable[[], Any], bos: str
) -> None:
    tokenizer = make()
    ids = {"vocab_size": tokenizer.get_vocab_size(), "bos_token_id": tokenizer.token_to_id(bos)}
    directory = make_copy("llama", **ids)
    checkpoint = make_portable("llama", **ids).with_name("checkpoint")
    for folder in (directory, checkpoint):
        tokenizer.save(str(folder / "tokenizer.json"))
    ortgpt.adopt(directory)
    prompt = AutoTokenizer.from_pretrained(checkpoint)("the king")["input_ids"]
    assert prompt[0] == ids["bos_token_id"]
    with ortgpt.load(directory, threads=1) as model:
        result = model.generate("the king", max_new_tokens=8)
        score, whole = model.score("the king"), model.score(prompt)
        with model.transcript("the king") as transcript:
            transcript.append(" said")
            assert transcript.token_ids == (*prompt, *model.tokenizer.encode(" said"))
    assert list(result.prompt_token_ids) == prompt
    assert list(result.choices[0].token_ids) == greedy_ids(checkpoint, prompt, 8)
    assert list(score.token_ids) == prompt[1:]
    assert score.logprobs == whole.logprobs[1:]


def test_a_directory_without_a_manifest_is_not_loaded_and_the_hint_says_how(make_copy: MakeBundle) -> None:
    directory = make_copy()
    with pytest.raises(BundleError, match=r"has no manifest\.json: another program exported it") as caught:
        ortgpt.load(directory)
    assert caught.value.hint == f"it is made a bundle by: ortgpt adopt {directory}"


def test_a_manifest_is_replaced_by_force_only(make_copy: MakeBundle) -> None:
    directory = make_copy()
    first = ortgpt.adopt(directory)
    (directory / "manifest.json").write_text("broken")
    with pytest.raises(BundleError, match=r"it has a manifest\.json already") as caught:
        ortgpt.adopt(directory)
    assert caught.value.hint == "--force replaces it"
    assert (directory / "manifest.json").read_text() == "broken"
    assert ortgpt.adopt(directory, force=True) == first


def remove(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).unlink()


def edit_config(**changes: Any) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        path = directory / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def link_outside(directory: Path) -> None:
    (directory / "model.onnx").rename(directory.parent / "model.onnx")
    (directory / "model.onnx").symlink_to(directory.parent / "model.onnx")


def edit_graph(edit: Callable[[Any], None]) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        model = onnx.load(directory / "model.onnx")
        edit(model.graph)
        (directory / "model.onnx").write_bytes(model.SerializeToString())

    return change


def forget_past(graph: Any) -> None:
    for values in (graph.input, graph.output):
        kept = [value for value in values if not value.name.startswith(("past", "present"))]
        del values[:]
        values.extend(kept)


def halve(graph: Any) -> None:
    for value in graph.input:
        if value.name.startswith("past"):
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16


def spoil(graph: Any) -> None:
    for tensor in graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = np.full_like(numpy_helper.to_array(tensor), np.nan)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def cut_past(graph: Any) -> None:
    """The first layer's values go in as they came, without the new ones' past."""
    for node in graph.node:
        if "past_key_values.0.value" in node.input:
            zero = "past_zeroed"
            node.input[list(node.input).index("past_key_values.0.value")] = zero
            place = list(graph.node).index(node)
            graph.node.insert(place, onnx.helper.make_node("Sub", ["past_key_values.0.value"] * 2, [zero]))
            return


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove("config.json"), "config.json is missing"),
        (remove("tokenizer.json"), "tokenizer.json is missing"),
        (remove("model.onnx"), "it holds no .onnx file"),
        (lambda directory: (directory / "model.onnx").write_bytes(b"x"), "not a readable ONNX graph"),
        (link_outside, "model.onnx is a link that leaves the bundle"),
        (edit_config(vocab_size=258), "output logits must be float32 [rows, width, 258]"),
        (edit_config(n_layer=3), "too few for the manifest's 3 layers"),
        (edit_config(n_head=3), "config.json says 3 heads, but the graph's cache is one of 2"),
        (edit_config(n_head=4), "config.json says 4 heads, but the graph's cache is one of 2"),
        (edit_config(num_key_value_heads=3), "config.json: 2 heads can't share num_key_value_heads = 3"),
        (edit_config(vocab_size=200), "tokenizer.json has 257 ids, config.json a vocab_size of 200"),
        (edit_config(num_key_value_heads=1), "must be float32 [rows, 1, past, 16]"),
        (edit_config(head_dim=8), "must be float32 [rows, 2, past, 8]"),
        (edit_config(n_positions=65), "position_ids must look up a table of at least 65 rows"),
        (edit_graph(forget_past), "takes no past (no input past_key_values.0.key)"),
        (edit_graph(halve), "has a cache of float16: only float32 is run"),
        (edit_graph(spoil), "the model's logits are not finite"),
        (edit_graph(cut_past), "its cache does not continue a text"),
    ],
)
def test_what_can_t_be_run_is_refused_and_nothing_is_written(
    make_copy: MakeBundle, spoil: Callable[[Path], None], message: str
) -> None:
    directory = make_copy()
    for name in ("generation_config.json",):
        (directory / name).unlink()
    spoil(directory)
    with pytest.raises(BundleError) as caught:
        ortgpt.adopt(directory)
    assert str(caught.value).startswith(f"{directory}: ")
    assert message in str(caught.value)
    assert not [path.name for path in directory.iterdir() if "manifest" in path.name]


@pytest.mark.parametrize(
    ("family", "multi_query", "fits"),
    [
        ("gpt2", None, False),
        ("gpt_neox", None, False),
        ("falcon", None, True),
        ("falcon", True, True),
        ("falcon", False, False),
        ("gpt_bigcode", True, True),
        ("gpt_bigcode", False, False),
    ],
)
def test_heads_share_keys_and_values_unsaid_in_families_that_are_known_for_it(
    make_copy: MakeBundle, family: str, multi_query: bool | None, fits: bool
) -> None:
    """FAULTS 16: a graph whose cache has 1 head of 16."""
    shape = {"num_key_value_heads": 1, "num_attention_heads": 2}
    directory = make_copy("llama", **shape)
    path = directory / "config.json"
    config = json.loads(path.read_text()) | {"model_type": family, "multi_query": multi_query}
    del config["num_key_value_heads"]
    path.write_text(json.dumps(config))
    if fits:
        assert ortgpt.adopt(directory).architecture.kv_heads == 1
        return
    with pytest.raises(BundleError, match="says 2 heads, but the graph's cache is one of 1"):
        ortgpt.adopt(directory)


def test_heads_that_do_not_make_up_the_width_are_refused(make_copy: MakeBundle) -> None:
    """FAULTS 16: 2 of keys and values could serve 8 heads."""
    directory = make_copy("llama")
    edit_config(num_attention_heads=8, head_dim=None)(directory)
    with pytest.raises(BundleError, match="8 heads in a width of 32, but the graph's cache has heads of 8"):
        ortgpt.adopt(directory)
    edit_config(num_attention_heads=8, head_dim=8)(directory)
    assert ortgpt.adopt(directory).architecture.head_size == 8


def test_an_end_outside_the_vocabulary_is_dropped_with_a_note(
    make_copy: MakeBundle, caplog: pytest.LogCaptureFixture
) -> None:
    directory = make_copy()
    (directory / "generation_config.json").write_text('{"eos_token_id": [999999, 256]}')
    manifest = ortgpt.adopt(directory)
    note = "generation_config.json: eos_token_id 999999 is outside the vocabulary of 257 ids and was dropped"
    assert (manifest.architecture.eos_token_ids, manifest.notes) == ((256,), (note,))
    assert [record.getMessage() for record in caplog.records] == [note]
    with ortgpt.load(directory) as model:
        assert model.manifest.notes == (note,)


def test_a_graph_without_a_past_is_refused_with_the_line_that_exports_one(make_copy: MakeBundle) -> None:
    directory = make_copy()
    edit_graph(forget_past)(directory)
    with pytest.raises(BundleError) as caught:
        ortgpt.adopt(directory)
    assert "optimum-cli export onnx --model SOURCE --task text-generation-with-past" in str(caught.value.hint)


def test_one_of_several_graphs_is_chosen_by_name(make_copy: MakeBundle, make_portable: MakeBundle) -> None:
    directory = make_copy()
    shutil.copy(make_portable("gpt2", int8=True) / "model.onnx", directory / "model_quantized.onnx")
    with pytest.raises(BundleError, match=r"several graphs: model\.onnx, model_quantized\.onnx"):
        ortgpt.adopt(directory)
    manifest = ortgpt.adopt(directory, file="model_quantized.onnx")
    assert (manifest.graph_name, manifest.precision) == ("model_quantized.onnx", "int8-dynamic")
    with pytest.raises(OptionError, match="file must be one of"):
        ortgpt.adopt(directory, file="other.onnx", force=True)


def test_a_file_that_changes_after_its_adoption_is_noticed(make_copy: MakeBundle) -> None:
    """FAULTS 8, 9"""
    directory = make_copy()
    ortgpt.adopt(directory)
    with (directory / "model.onnx").open("r+b") as file:
        file.seek(-100, 2)
        file.write(b"\0")
    with pytest.raises(BundleIntegrityError, match=r"model\.onnx has SHA-256"):
        ortgpt.load(directory)


def test_another_models_tokenizer_is_noticed(make_copy: MakeBundle) -> None:
    """FAULTS 19"""
    directory = make_copy()
    ortgpt.adopt(directory)
    path = directory / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocab = tokenizer["model"]["vocab"]
    vocab["a"], vocab["e"] = vocab["e"], vocab["a"]
    path.write_text(json.dumps(tokenizer))
    manifest = json.loads((directory / "manifest.json").read_text())
    data = path.read_bytes()
    manifest["files"]["tokenizer.json"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleIntegrityError, match="the probe has other ids"):
        ortgpt.load(directory)

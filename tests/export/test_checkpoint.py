"""Weights: every way in which a checkpoint can hold them, and every way in which it can be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import GPT2LMHeadModel

from ortgpt.errors import CheckpointError
from ortgpt_export.checkpoint import Checkpoint, open_checkpoint
from ortgpt_export.config import parse_config, read_config

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
WTE = "transformer.wte.weight"


def read_all(directory: Path) -> dict[str, np.ndarray]:
    with open_checkpoint(directory, read_config(directory)) as weights:
        return dict(weights)


def refused(directory: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_all(directory)
    return str(caught.value)


def shard(directory: Path, count: int = 3) -> None:
    """Split the single file into shards with an index, as transformers does."""
    weights = load_file(directory / SINGLE)
    (directory / SINGLE).unlink()
    weight_map = {
        name: f"model-{i % count + 1:05}-of-{count:05}.safetensors" for i, name in enumerate(weights)
    }
    for file_name in set(weight_map.values()):
        part = {name: weights[name] for name, file in weight_map.items() if file == file_name}
        save_file(part, directory / file_name)
    write_index(directory, weight_map)


def write_index(directory: Path, weight_map: object) -> None:
    (directory / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_the_weights_are_those_that_transformers_reads(checkpoint) -> None:
    weights = read_all(checkpoint)
    theirs = GPT2LMHeadModel.from_pretrained(checkpoint).transformer.state_dict()
    assert weights.keys() == theirs.keys()
    for name, values in theirs.items():
        np.testing.assert_array_equal(weights[name], values.numpy())


def test_sharded_equals_single(checkpoint) -> None:
    single = read_all(checkpoint)
    shard(checkpoint)
    sharded = read_all(checkpoint)
    assert sharded.keys() == single.keys()
    assert all((sharded[name] == single[name]).all() for name in single)


def test_shards_that_transformers_writes_are_read(checkpoint, tmp_path) -> None:
    model = GPT2LMHeadModel.from_pretrained(checkpoint)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="40KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    single, sharded = read_all(checkpoint), read_all(tmp_path / "sharded")
    assert sharded.keys() == single.keys()
    assert all((sharded[name] == single[name]).all() for name in single)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_smaller_floats_are_widened_exactly(dtype, checkpoint, edit_weights) -> None:
    wide = load_file(checkpoint / SINGLE)
    edit_weights(checkpoint, lambda weights: {n: w.astype(dtype) for n, w in weights.items()})
    for name, values in read_all(checkpoint).items():
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, wide["transformer." + name].astype(dtype).astype(np.float32))


def test_a_checkpoint_holds_no_tensor_in_memory(checkpoint) -> None:
    with open_checkpoint(checkpoint, read_config(checkpoint)) as weights:
        assert weights["wte.weight"] is not weights["wte.weight"]
        assert weights.nbytes == sum(values.nbytes for values in weights.values())


def test_every_problem_is_listed_at_once(checkpoint, edit_weights) -> None:
    def spoil(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        del weights["transformer.h.1.ln_2.bias"]
        weights["transformer.h.0.attn.c_attn.weight"] = weights["transformer.h.0.attn.c_attn.weight"].T.copy()
        weights["transformer.wpe.weight"] = weights["transformer.wpe.weight"].astype(np.float64)
        weights["transformer.h.0.crossattention.c_attn.weight"] = np.zeros((2, 2), np.float32)
        return weights

    edit_weights(checkpoint, spoil)
    message = refused(checkpoint)
    assert "h.1.ln_2.bias is missing" in message
    assert "h.0.attn.c_attn.weight has shape [96, 32], not [32, 96]" in message
    assert "wpe.weight has type F64" in message
    assert "'h.0.crossattention.c_attn.weight' is not part" in message


def test_a_float8_tensor_is_refused_by_name_and_type(checkpoint, edit_weights) -> None:
    edit_weights(checkpoint, lambda w: w | {WTE: w[WTE].astype(ml_dtypes.float8_e4m3fn)})
    assert "wte.weight has type F8_E4M3" in refused(checkpoint)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(value, checkpoint, edit_weights) -> None:
    """FAULTS 17"""

    def spoil(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        weights["transformer.h.1.mlp.c_fc.bias"][3] = value
        return weights

    edit_weights(checkpoint, spoil)
    assert "transformer.h.1.mlp.c_fc.bias holds NaN or infinite values" in refused(checkpoint)


def test_denormal_weights_are_read(checkpoint, edit_weights) -> None:
    edit_weights(checkpoint, lambda w: w | {WTE: np.full_like(w[WTE], 1e-40)})
    assert (read_all(checkpoint)["wte.weight"] == np.float32(1e-40)).all()


def test_a_tensor_under_both_names_is_refused(checkpoint, edit_weights) -> None:
    edit_weights(checkpoint, lambda w: w | {"wte.weight": w[WTE]})
    assert "both" in refused(checkpoint)


def test_an_untied_model_without_a_head_is_refused(checkpoint, edit_config) -> None:
    edit_config(checkpoint, tie_word_embeddings=False)
    assert "lm_head.weight is missing" in refused(checkpoint)


def test_a_tied_model_with_another_head_is_refused_by_the_config_key(checkpoint, edit_weights) -> None:
    edit_weights(checkpoint, lambda w: w | {"lm_head.weight": w[WTE] + 1})
    assert "tie_word_embeddings = true" in refused(checkpoint)


def test_a_head_equal_to_the_table_is_shared_even_when_untied(checkpoint, edit_config, edit_weights) -> None:
    edit_config(checkpoint, tie_word_embeddings=False)
    edit_weights(checkpoint, lambda w: w | {"lm_head.weight": w[WTE].copy()})
    assert "lm_head.weight" not in read_all(checkpoint)


def test_a_shared_table_saved_under_the_head_s_name_is_found(checkpoint, edit_weights) -> None:
    table = load_file(checkpoint / SINGLE)[WTE]
    edit_weights(checkpoint, lambda w: {n: v for n, v in w.items() if n != WTE} | {"lm_head.weight": w[WTE]})
    np.testing.assert_array_equal(read_all(checkpoint)["wte.weight"], table)


PATHS = [
    "../model.safetensors",
    "/etc/passwd",
    "a/b.safetensors",
    "C:\\x.safetensors",
    "",
    "a\0.safetensors",
    3,
]


@pytest.mark.parametrize("file_name", PATHS)
def test_an_index_may_name_plain_files_only(file_name, checkpoint) -> None:
    shard(checkpoint)
    weight_map = json.loads((checkpoint / INDEX).read_text())["weight_map"]
    write_index(checkpoint, {**weight_map, WTE: file_name})
    assert refused(checkpoint).startswith(f"{INDEX}: weight_map: ")


def test_an_index_may_not_name_a_pickle(checkpoint) -> None:
    shard(checkpoint)
    write_index(checkpoint, {WTE: "pytorch_model.bin"})
    assert "is not a safetensors file" in refused(checkpoint)


def test_a_tensor_that_is_not_in_its_shard_is_named(checkpoint) -> None:
    shard(checkpoint)
    weight_map = json.loads((checkpoint / INDEX).read_text())["weight_map"]
    other = next(name for name in weight_map.values() if name != weight_map[WTE])
    write_index(checkpoint, {**weight_map, WTE: other})
    assert f"'{WTE}' is not in {other}" in refused(checkpoint)


def test_a_missing_shard_is_named(checkpoint) -> None:
    shard(checkpoint)
    (checkpoint / "model-00002-of-00003.safetensors").unlink()
    assert refused(checkpoint).startswith("model-00002-of-00003.safetensors is missing")


@pytest.mark.parametrize("weight_map", [None, [], {}, "x"])
def test_an_index_without_a_weight_map_is_refused(weight_map, checkpoint) -> None:
    shard(checkpoint)
    write_index(checkpoint, weight_map)
    assert "weight_map must map" in refused(checkpoint)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "weights.npz", "weights.npy"]
)
def test_other_formats_are_never_read_and_the_hint_says_how_to_convert(name, checkpoint) -> None:
    """FAULTS 20: the bomb would go off if anything unpickled it."""
    (checkpoint / SINGLE).unlink()
    (checkpoint / name).write_bytes(b"cos\nsystem\n(S'touch exploded'\ntR.")
    with pytest.raises(CheckpointError, match=f"only {name}: such files are never read") as caught:
        read_all(checkpoint)
    assert "safe_serialization=True" in str(caught.value.hint)
    assert "AutoModelForCausalLM" in str(caught.value.hint), "whatever the family"
    assert not Path("exploded").exists()


def test_safetensors_win_where_a_pickle_lies_beside_them(checkpoint) -> None:
    (checkpoint / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    assert "wte.weight" in read_all(checkpoint)


def test_the_conversion_in_the_hint_works(checkpoint, tmp_path) -> None:
    old = tmp_path / "old"
    model = GPT2LMHeadModel.from_pretrained(checkpoint)
    model.save_pretrained(old, safe_serialization=False)
    with pytest.raises(CheckpointError) as caught:
        read_all(old)
    lines = [line.strip() for line in str(caught.value.hint).splitlines()[1:]]
    exec("\n".join(lines).replace("DIR", str(old)), {})
    single, converted = read_all(checkpoint), read_all(old)
    assert all(torch.equal(torch.from_numpy(converted[n]), torch.from_numpy(single[n])) for n in single)


def test_a_directory_without_weights_is_refused(checkpoint) -> None:
    (checkpoint / SINGLE).unlink()
    assert f"neither {SINGLE} nor {INDEX}" in refused(checkpoint)


def test_a_file_cut_after_it_was_checked_is_a_checkpoint_error(checkpoint) -> None:
    config = read_config(checkpoint)
    with open_checkpoint(checkpoint, config) as weights:
        (checkpoint / SINGLE).write_bytes(b"")
        with pytest.raises(CheckpointError, match=r"model.safetensors can't be read"):
            weights["wte.weight"]


def test_the_longest_list_of_problems_is_cut(checkpoint) -> None:
    config = parse_config(
        {"model_type": "gpt2", "n_layer": 700, "n_embd": 32, "n_head": 2, "vocab_size": 257}
    )
    with pytest.raises(CheckpointError, match=r"and \d,?\d+ more$") as caught:
        open_checkpoint(checkpoint, config)
    assert len(str(caught.value)) < 5000


def test_checkpoint_is_a_mapping(checkpoint) -> None:
    with open_checkpoint(checkpoint, read_config(checkpoint)) as weights:
        assert isinstance(weights, Checkpoint)
        assert len(weights) == len(list(weights)) == 2 + 12 * 2 + 2
        assert weights.get("lm_head.weight") is None

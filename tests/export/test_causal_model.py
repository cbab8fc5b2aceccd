"""What transformers gets to see of a checkpoint, and what is refused before a graph is traced."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ortgpt.errors import CheckpointError
from ortgpt_export.causal_model import CausalConfig, load_causal_model, read_causal_config, stage_checkpoint

Change = Callable[..., None]


@pytest.fixture
def stage(tmp_path: Path) -> Callable[[Path], Path]:
    def make(directory: Path) -> Path:
        folder = tmp_path / "staged"
        folder.mkdir()
        stage_checkpoint(directory, folder)
        return folder

    return make


class Alarm:
    """A pickle that leaves a mark when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_nothing_but_configuration_and_safetensors_is_staged(llama: Path, stage) -> None:
    (llama / "modeling_mine.py").write_text("raise SystemExit")
    (llama / "pytorch_model.bin").write_bytes(b"")
    assert sorted(path.name for path in stage(llama).iterdir()) == ["config.json", "model.safetensors"]


def test_keys_that_name_code_are_not_staged(llama: Path, stage, edit_config: Change) -> None:
    edit_config(
        llama,
        auto_map={"AutoModelForCausalLM": "modeling_mine.Mine"},
        attn_implementation="some-org/some-kernel",
        _attn_implementation_internal="some-org/some-kernel",
    )
    folder = stage(llama)
    assert "some-org" not in (folder / "config.json").read_text()
    assert "auto_map" not in json.loads((folder / "config.json").read_text())
    assert load_causal_model(folder).config._attn_implementation in ("sdpa", "eager")


def test_a_pickle_is_never_read(llama: Path, stage, tmp_path: Path) -> None:
    """FAULTS 20: neither beside safetensors nor alone."""
    mark = tmp_path / "was-read"
    (llama / "pytorch_model.bin").write_bytes(pickle.dumps(Alarm(mark)))
    load_causal_model(stage(llama))
    assert not mark.exists()
    (llama / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"only pytorch_model\.bin: such files are never read"):
        stage_checkpoint(llama, tmp_path)
    assert not mark.exists()


def test_the_model_is_the_one_in_the_files(llama: Path, stage) -> None:
    """In float32, whatever config.json says it is."""
    weights = load_file(llama / "model.safetensors")
    model = load_causal_model(stage(llama))
    for name, values in model.state_dict().items():
        np.testing.assert_array_equal(values.numpy(), weights[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: {n: v for n, v in w.items() if n != "model.norm.weight"},
            r"model\.norm\.weight is missing",
        ),
        (lambda w: {n: v for n, v in w.items() if "layers.1" not in n}, r"is missing and 4 more"),
        (
            lambda w: w | {"lm_head.weight": w["lm_head.weight"][:, :5].copy()},
            r"lm_head\.weight has another shape",
        ),
    ],
    ids=["one missing", "many missing", "another shape"],
)
def test_weights_that_do_not_fit_are_refused(change, message, llama: Path, stage) -> None:
    """transformers makes up at random what it does not find."""
    path = llama / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=message):
        load_causal_model(stage(llama))


def test_a_damaged_header_is_refused_before_transformers_sees_it(llama: Path, tmp_path: Path) -> None:
    path = llama / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="is not a sound safetensors file"):
        stage_checkpoint(llama, tmp_path)


def stage_and_read(directory: Path, folder: Path) -> CausalConfig:
    stage_checkpoint(directory, folder)
    return read_causal_config(folder, directory)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": None}, "model_type = None is not a name"),
        ({"is_encoder_decoder": True}, "an encoder is not part"),
        ({"add_cross_attention": True}, "cross-attention needs an encoder"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantised weights can't be read"),
        ({"model_type": "no-such-model"}, "can't be read by transformers"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "follows the text's length"),
        ({"max_position_embeddings": 0}, "max_position_embeddings = 0 is not between"),
        ({"vocab_size": "many"}, "vocab_size = 'many'"),
        ({"eos_token_id": "end"}, "eos_token_id = 'end' is not a token id"),
    ],
    ids=str,
)
def test_what_config_says_that_cannot_be_honoured_is_named(
    changes, message, llama: Path, tmp_path: Path, edit_config: Change
) -> None:
    edit_config(llama, **changes)
    (llama / "generation_config.json").unlink()
    with pytest.raises(CheckpointError, match=message) as caught:
        stage_and_read(llama, tmp_path)
    assert "\n" not in str(caught.value)


def test_ids_come_from_the_generation_config_where_it_has_them(llama: Path, stage) -> None:
    (llama / "generation_config.json").write_text('{"eos_token_id": [3, 5], "bos_token_id": 7}')
    config = read_causal_config(stage(llama), llama)
    assert (config.bos_token_id, config.eos_token_ids) == (7, (3, 5))


@pytest.mark.parametrize(
    ("family", "changes", "attention"),
    [
        ("gpt2", {}, None),
        ("gpt2", {"scale_attn_weights": False}, "eager"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "eager"),
        ("llama", {}, None),
        ("gemma2", {}, "eager"),
    ],
)
def test_attention_is_eager_where_torch_s_own_would_ignore_a_key(
    family, changes, attention, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family, **changes}))
    assert read_causal_config(tmp_path, tmp_path).attention == attention

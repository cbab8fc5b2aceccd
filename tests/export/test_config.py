"""config.json: what is honoured, and that everything else is refused by its key."""

from __future__ import annotations

import json

import pytest
from checkpoints import make_config

from ortgpt.errors import CheckpointError
from ortgpt_export.config import parse_config, read_config

REFUSED = [
    ("model_type", "llama"),
    ("model_type", None),
    ("add_cross_attention", True),
    ("is_encoder_decoder", True),
    ("quantization_config", {"bits": 4}),
    ("pruned_heads", {"0": [1]}),
    ("activation_function", "mish"),
    ("activation_function", ["gelu"]),
    ("activation_function", None),
    ("n_embd", 33),
    ("n_embd", 0),
    ("n_embd", "32"),
    ("n_embd", 32.0),
    ("n_head", -2),
    ("n_head", True),
    ("n_layer", 0),
    ("n_layer", 10**9),
    ("n_layer", None),
    ("n_positions", 0),
    ("n_positions", 2**40),
    ("n_ctx", "64"),
    ("n_inner", 0),
    ("n_inner", 1.5),
    ("vocab_size", 0),
    ("vocab_size", []),
    ("hidden_size", 64),  # contradicts n_embd
    ("num_hidden_layers", 3),
    ("layer_norm_epsilon", float("nan")),
    ("layer_norm_epsilon", float("inf")),
    ("layer_norm_epsilon", -1e-5),
    ("layer_norm_epsilon", "1e-5"),
    ("layer_norm_epsilon", None),
    ("scale_attn_weights", 1),
    ("scale_attn_weights", None),
    ("scale_attn_by_inverse_layer_idx", "no"),
    ("tie_word_embeddings", 0),
    ("bos_token_id", "<s>"),
    ("bos_token_id", [1, 2]),
    ("eos_token_id", 1.5),
    ("eos_token_id", [1, True]),
]


@pytest.mark.parametrize(("key", "value"), REFUSED, ids=[f"{k}={v}" for k, v in REFUSED])
def test_what_cannot_be_honoured_is_refused_by_key_and_value(key, value) -> None:
    with pytest.raises(CheckpointError, match=rf"config.json: .*{key} = ") as caught:
        parse_config(make_config(**{key: value}))
    assert repr(value)[:20] in str(caught.value)


def test_another_family_is_told_of_the_export_that_knows_it() -> None:
    with pytest.raises(CheckpointError) as caught:
        parse_config(make_config(model_type="granite"))
    assert str(caught.value) == (
        "config.json: model_type = 'granite' is not \"gpt2\", and --via graph knows GPT-2 only"
    )
    assert "--via optimum" in str(caught.value.hint)
    assert "ortgpt[optimum]" in str(caught.value.hint)


def test_the_usual_keys_are_read() -> None:
    config = parse_config(make_config(n_layer=3, n_head=4, n_embd=20, n_inner=7, scale_attn_weights=False))
    assert (config.n_layer, config.n_head, config.n_embd, config.head_size) == (3, 4, 20, 5)
    assert (config.n_inner, config.scale_attn_weights, config.n_positions) == (7, False, 64)
    assert (config.bos_token_id, config.eos_token_ids, config.notes) == (256, (256,), ())


def test_missing_keys_have_the_defaults_of_transformers() -> None:
    from transformers import GPT2Config

    ours, theirs = parse_config({"model_type": "gpt2"}), GPT2Config()
    for key in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "layer_norm_epsilon"):
        assert getattr(ours, key) == getattr(theirs, key)
    for key in (
        "scale_attn_weights",
        "scale_attn_by_inverse_layer_idx",
        "tie_word_embeddings",
        "bos_token_id",
    ):
        assert getattr(ours, key) == getattr(theirs, key)
    assert ours.eos_token_ids == (theirs.eos_token_id,)
    assert ours.n_inner == 4 * theirs.n_embd


def test_the_names_of_other_models_are_read_as_transformers_does() -> None:
    data = make_config()
    for ours, theirs in (("n_embd", "hidden_size"), ("n_layer", "num_hidden_layers")):
        data[theirs] = data.pop(ours)
    assert parse_config(data) == parse_config(make_config())


def test_n_ctx_is_the_context_where_nothing_else_is_said() -> None:
    data = make_config(n_ctx=48)
    del data["n_positions"]
    assert parse_config(data).n_positions == 48


def test_n_ctx_that_differs_is_noted_and_n_positions_wins() -> None:
    config = parse_config(make_config(n_ctx=48))
    assert config.n_positions == 64
    assert any("n_ctx = 48" in note for note in config.notes)


def test_switches_that_change_nothing_are_accepted() -> None:
    harmless = {"reorder_and_upcast_attn": True, "attn_pdrop": 0.1, "pruned_heads": {}, "use_cache": False}
    assert parse_config(make_config(**harmless)) == parse_config(make_config())


@pytest.mark.parametrize(
    ("config_ids", "generation_ids", "expected"),
    [
        (5, None, (5,)),
        (5, 6, (6,)),
        (5, [6, 7, 6], (6, 7)),
        ([1, 2], None, (1, 2)),
        (None, None, ()),
        (None, 3, (3,)),
    ],
)
def test_generation_config_s_eos_ids_win(config_ids, generation_ids, expected) -> None:
    config = parse_config(make_config(eos_token_id=config_ids), {"eos_token_id": generation_ids})
    assert config.eos_token_ids == expected


def test_ids_outside_the_vocabulary_are_dropped_and_noted() -> None:
    config = parse_config(make_config(bos_token_id=-1, eos_token_id=[4, 257, 50256]))
    assert config.bos_token_id is None
    assert config.eos_token_ids == (4,)
    assert len(config.notes) == 3
    assert all(
        any(f"{token_id} is outside" in note for note in config.notes) for token_id in (-1, 257, 50256)
    )


def test_a_model_without_eos_is_noted() -> None:
    assert any("eos" in note for note in parse_config(make_config(eos_token_id=None)).notes)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'"gpt2"', b"\xff\xfe\x00", b"[" * 100_000, b'{"n_layer": ' + b"1" * 5000 + b"}"],
    ids=["empty", "half", "list", "string", "not text", "deep", "5,000 digits"],
)
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_a_file_that_is_not_a_json_object_is_named(name, content, tmp_path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(make_config()))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"^{name} "):
        read_config(tmp_path)


def test_a_missing_config_and_a_directory_in_its_place_are_named(tmp_path) -> None:
    with pytest.raises(CheckpointError, match=r"config.json is missing"):
        read_config(tmp_path)
    (tmp_path / "config.json").mkdir()
    with pytest.raises(CheckpointError, match=r"config.json is missing"):
        read_config(tmp_path)

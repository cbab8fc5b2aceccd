"""config.json and generation_config.json, as many families write them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from portable_exports import FAMILIES
from transformers import AutoConfig

from ortgpt.adoption.config_files import read_model_config
from ortgpt.errors import BundleError

LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "hidden_size": 64,
    "max_position_embeddings": 128,
    "vocab_size": 300,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def read(config: dict[str, Any], generation: dict[str, Any] | None = None) -> Any:
    return read_model_config(
        json.dumps(config).encode(), None if generation is None else json.dumps(generation).encode()
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_familys_numbers_are_those_of_transformers_whatever_it_calls_them(family: str) -> None:
    """Under transformers' common names, which every configuration class answers to."""
    theirs = AutoConfig.for_model(family, **FAMILIES[family])
    ours = read_model_config(theirs.to_json_string(use_diff=True).encode())
    assert (ours.layers, ours.heads) == (theirs.num_hidden_layers, theirs.num_attention_heads)
    assert (ours.width, ours.vocab_size) == (theirs.hidden_size, theirs.vocab_size)
    assert ours.context == theirs.max_position_embeddings
    assert ours.bos_token_id == theirs.bos_token_id
    assert list(ours.eos_token_ids) == [one for one in [theirs.eos_token_id] if one is not None]


def test_numbers_that_are_not_said_are_left_open() -> None:
    found = read({key: value for key, value in LLAMA.items() if key != "num_key_value_heads"})
    assert (found.kv_heads, found.head_size) == (None, None)
    found = read(LLAMA | {"head_dim": 16})
    assert (found.kv_heads, found.head_size) == (2, 16)
    assert read(LLAMA | {"head_dim": None}).head_size is None


@pytest.mark.parametrize(
    ("config", "generation", "bos", "eos"),
    [
        ({}, None, 1, (2,)),
        ({}, {"eos_token_id": [5, 6]}, 1, (5, 6)),
        ({}, {"eos_token_id": None, "bos_token_id": 9}, 9, (2,)),
        ({"eos_token_id": [3, 4]}, {}, 1, (3, 4)),
        ({"bos_token_id": None, "eos_token_id": None}, None, None, ()),
    ],
)
def test_ids_come_from_the_generation_config_where_it_names_them(
    config: dict[str, Any], generation: dict[str, Any] | None, bos: int | None, eos: tuple[int, ...]
) -> None:
    found = read(LLAMA | config, generation)
    assert (found.bos_token_id, found.eos_token_ids) == (bos, eos)


def test_ids_outside_the_vocabulary_are_dropped_with_a_note_that_names_their_file() -> None:
    found = read(LLAMA | {"bos_token_id": -1}, {"eos_token_id": [300, 2, 2, 10**30]})
    assert (found.bos_token_id, found.eos_token_ids) == (None, (2,))
    bos, *eos = found.notes
    assert bos == "config.json: bos_token_id -1 is outside the vocabulary of 300 ids and was dropped"
    assert [note.startswith("generation_config.json: eos_token_id ") for note in eos] == [True, True]
    assert read(LLAMA).notes == ()


@pytest.mark.parametrize(
    ("source", "shown"), [("Qwen/Qwen2-0.5B", "Qwen/Qwen2-0.5B"), ("/home/me/x", ""), ("./x", ""), (7, "")]
)
def test_a_source_is_a_hub_id_never_a_path(source: object, shown: str) -> None:
    assert read(LLAMA | {"_name_or_path": source}).source == shown


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": None}, "config.json names no model_type"),
        ({"num_hidden_layers": None}, "config.json has none of the keys num_hidden_layers, n_layer"),
        ({"hidden_size": "64"}, "config.json: hidden_size must be a positive integer, found '64'"),
        ({"vocab_size": 0}, "vocab_size must be a positive integer, found 0"),
        ({"num_attention_heads": True}, "num_attention_heads must be a positive integer, found True"),
        ({"max_position_embeddings": 2**31}, "max_position_embeddings must be a positive integer"),
        ({"head_dim": 1.5}, "head_dim must be a positive integer, found 1.5"),
        ({"eos_token_id": "</s>"}, "eos_token_id must be a token id or a list of them, found '</s>'"),
        ({"eos_token_id": [1.0]}, "config.json: eos_token_id must be a token id"),
        ({"num_key_value_heads": 3}, "config.json: 8 heads can't share num_key_value_heads = 3"),
        ({"bos_token_id": True}, "bos_token_id must be a token id"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError) as caught:
        read(LLAMA | changes)
    assert message in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"])
def test_what_is_no_json_object_is_a_bundle_error(data: bytes) -> None:
    with pytest.raises(BundleError, match=r"^config\.json "):
        read_model_config(data)
    with pytest.raises(BundleError, match=r"^generation_config\.json "):
        read_model_config(json.dumps(LLAMA).encode(), data)

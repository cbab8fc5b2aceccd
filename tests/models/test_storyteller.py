"""The files shipped in models/storyteller fit together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from tokenizers import Tokenizer

FOLDER = Path(__file__).parents[2] / "models" / "storyteller"


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FOLDER / "config.json").read_text())
    return loaded


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


def expected_shapes(config: dict[str, Any]) -> dict[str, list[int]]:
    """Every tensor of a GPT-2 with a tied head, by name; linear weights are (in, out)."""
    width = config["n_embd"]
    shapes = {"wte.weight": [config["vocab_size"], width], "wpe.weight": [config["n_positions"], width]}
    for norm in ["ln_f", *(f"h.{i}.ln_{n}" for i in range(config["n_layer"]) for n in (1, 2))]:
        shapes |= {f"{norm}.weight": [width], f"{norm}.bias": [width]}
    linears = {
        "attn.c_attn": (width, 3 * width),
        "attn.c_proj": (width, width),
        "mlp.c_fc": (width, 4 * width),
        "mlp.c_proj": (4 * width, width),
    }
    for layer in range(config["n_layer"]):
        for name, (inputs, outputs) in linears.items():
            shapes[f"h.{layer}.{name}.weight"] = [inputs, outputs]
            shapes[f"h.{layer}.{name}.bias"] = [outputs]
    return {f"transformer.{name}": shape for name, shape in shapes.items()}


def test_the_weights_are_those_the_config_describes(config: dict[str, Any]) -> None:
    with safe_open(FOLDER / "model.safetensors", framework="numpy") as weights:
        slices = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118 (not a dict)
        assert {name: part.get_shape() for name, part in slices.items()} == expected_shapes(config)
        assert {part.get_dtype() for part in slices.values()} == {"F32"}


def test_the_heads_divide_the_width(config: dict[str, Any]) -> None:
    assert config["n_embd"] % config["n_head"] == 0


def test_the_tokenizer_fills_the_vocabulary(config: dict[str, Any], tokenizer: Tokenizer) -> None:
    assert sorted(tokenizer.get_vocab().values()) == list(range(config["vocab_size"]))


def test_end_of_text_is_token_0_everywhere(config: dict[str, Any], tokenizer: Tokenizer) -> None:
    generation = json.loads((FOLDER / "generation_config.json").read_text())
    assert tokenizer.token_to_id("<|endoftext|>") == 0
    for ids in (config, generation):
        assert (ids["bos_token_id"], ids["eos_token_id"]) == (0, 0)


def test_the_tokenizer_returns_any_text_as_it_was(tokenizer: Tokenizer) -> None:
    text = 'Once upon a time,\n"said she", na\u00efve \U0001f98a.'
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_the_model_card_states_the_architecture_of_the_config(config: dict[str, Any]) -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    rows = {
        "layers": config["n_layer"],
        "attention heads": config["n_head"],
        "width": config["n_embd"],
        "context": config["n_positions"],
        "vocabulary": config["vocab_size"],
    }
    for name, value in rows.items():
        assert f"| {name} | {value:,}" in card, name

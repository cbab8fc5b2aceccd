"""Random GPT-2 checkpoints in the Hugging Face layout, made without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

END = "<|endoftext|>"


def make_config(**overrides: Any) -> dict[str, Any]:
    """A GPT-2 config.json, tiny unless told otherwise."""
    config = {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "activation_function": "gelu_new",
        "n_layer": 2,
        "n_head": 2,
        "n_embd": 32,
        "n_positions": 64,
        "n_inner": None,
        "vocab_size": 257,
        "layer_norm_epsilon": 1e-5,
        "bos_token_id": 256,
        "eos_token_id": 256,
    }
    return {**config, **overrides}


def make_weights(config: dict[str, Any], seed: int, scale: float = 0.2) -> dict[str, np.ndarray]:
    """Random weights, large enough for the logits to differ clearly from token to token."""
    rng = np.random.default_rng(seed)
    width, vocab = config["n_embd"], config["vocab_size"]
    inner = config["n_inner"] or 4 * width

    def draw(*shape: int) -> np.ndarray:
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    weights = {"transformer.wte.weight": draw(vocab, width)}
    weights["transformer.wpe.weight"] = draw(config["n_positions"], width)
    for layer in range(config["n_layer"]):
        prefix = f"transformer.h.{layer}."
        for norm in ("ln_1", "ln_2"):
            weights[f"{prefix}{norm}.weight"] = 1 + draw(width)
            weights[f"{prefix}{norm}.bias"] = draw(width)
        for name, rows, columns in (
            ("attn.c_attn", width, 3 * width),
            ("attn.c_proj", width, width),
            ("mlp.c_fc", width, inner),
            ("mlp.c_proj", inner, width),
        ):
            weights[f"{prefix}{name}.weight"] = draw(rows, columns)
            weights[f"{prefix}{name}.bias"] = draw(columns)
    weights["transformer.ln_f.weight"] = 1 + draw(width)
    weights["transformer.ln_f.bias"] = draw(width)
    return weights


def byte_tokenizer() -> Tokenizer:
    """Byte-level BPE without merges: ids 0 to 255 are single bytes, 256 ends a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END, special=True)])
    return tokenizer


def make_checkpoint(directory: Path, *, seed: int = 0, scale: float = 0.2, **overrides: Any) -> Path:
    """Write a whole checkpoint; overrides are config.json keys."""
    directory.mkdir(parents=True, exist_ok=True)
    config = make_config(**overrides)
    (directory / "config.json").write_text(json.dumps(config))
    save_file(make_weights(config, seed, scale), directory / "model.safetensors", metadata={"format": "pt"})
    byte_tokenizer().save(str(directory / "tokenizer.json"))
    return directory

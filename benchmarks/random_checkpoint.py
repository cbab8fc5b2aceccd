"""A random GPT-2 checkpoint of a given shape, made without a hub: config, weights, tokenizer."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

BYTES = 256
FLOAT_BYTES = 4
END = "<|endoftext|>"
STANDARD_DEVIATION = 0.02  # GPT-2's own initialisation


@dataclass(frozen=True)
class Shape:
    """What the checkpoint looks like; the head has the embedding's weights."""

    layers: int
    heads: int
    width: int
    vocab_size: int
    context: int
    seed: int

    @property
    def name(self) -> str:
        return "-".join(f"{key}{value}" for key, value in asdict(self).items())

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Shapes by the names that transformers gives them."""
        width = self.width
        shapes: dict[str, tuple[int, ...]] = {
            "transformer.wte.weight": (self.vocab_size, width),
            "transformer.wpe.weight": (self.context, width),
        }
        for layer in range(self.layers):
            block = f"transformer.h.{layer}"
            for norm in ("ln_1", "ln_2"):
                shapes |= {f"{block}.{norm}.weight": (width,), f"{block}.{norm}.bias": (width,)}
            for name, rows, columns in (
                ("attn.c_attn", width, 3 * width),
                ("attn.c_proj", width, width),
                ("mlp.c_fc", width, 4 * width),
                ("mlp.c_proj", 4 * width, width),
            ):
                shapes |= {f"{block}.{name}.weight": (rows, columns), f"{block}.{name}.bias": (columns,)}
        return shapes | {"transformer.ln_f.weight": (width,), "transformer.ln_f.bias": (width,)}

    @property
    def table_bytes(self) -> int:
        """The token embedding, which is the head as well."""
        return self.vocab_size * self.width * FLOAT_BYTES

    @property
    def matrix_bytes(self) -> int:
        """The layers' matrices: what onnxruntime packs, besides the head."""
        return self.layers * 12 * self.width**2 * FLOAT_BYTES

    @property
    def weight_bytes(self) -> int:
        return sum(math.prod(shape) for shape in self.tensors.values()) * FLOAT_BYTES

    @property
    def bytes_per_token(self) -> int:
        """Weights that a decode step must read: the head's table whole, of the position table one row."""
        return self.weight_bytes - (self.context - 1) * self.width * FLOAT_BYTES

    @property
    def config(self) -> dict[str, object]:
        """config.json."""
        end = self.vocab_size - 1
        return {
            "model_type": "gpt2",
            "architectures": ["GPT2LMHeadModel"],
            "activation_function": "gelu_new",
            "n_layer": self.layers,
            "n_head": self.heads,
            "n_embd": self.width,
            "n_positions": self.context,
            "vocab_size": self.vocab_size,
            "layer_norm_epsilon": 1e-5,
            "bos_token_id": end,
            "eos_token_id": end,
        }


def make_checkpoint(directory: Path, shape: Shape, head_deviation: float | None = None) -> None:
    """Write config.json, model.safetensors and tokenizer.json.

    head_deviation: standard deviation of the weights of a head of its own; None: the head is the embedding
    """
    from safetensors.numpy import save_file

    directory.mkdir(parents=True, exist_ok=True)
    weights, config = make_weights(shape), shape.config
    if head_deviation is not None:
        weights["lm_head.weight"] = make_head(shape, head_deviation)
        config["tie_word_embeddings"] = False
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "tokenizer.json").write_text(make_tokenizer(shape.vocab_size))
    (directory / "config.json").write_text(json.dumps(config, indent=2))


def make_weights(shape: Shape) -> dict[str, np.ndarray]:
    """Normal noise; the gains of the layer norms lie around 1."""
    import numpy as np

    rng = np.random.default_rng(shape.seed)
    weights = {}
    for name, size in shape.tensors.items():
        values = rng.standard_normal(size, np.float32) * np.float32(STANDARD_DEVIATION)
        weights[name] = values + 1 if ".ln_" in name and name.endswith("weight") else values
    return weights


def make_head(shape: Shape, deviation: float) -> np.ndarray:
    """Normal noise (vocab, width); logits then have this deviation times the states' length."""
    import numpy as np

    rng = np.random.default_rng([shape.seed, 1])
    return rng.standard_normal((shape.vocab_size, shape.width), np.float32) * np.float32(deviation)


def make_tokenizer(vocab_size: int) -> str:
    """A byte-level BPE of `vocab_size` ids as JSON: bytes, then pairs of bytes, last the end of text."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = list(islice(product(alphabet, repeat=2), max(0, vocab_size - BYTES - 1)))
    vocab = {symbol: i for i, symbol in enumerate([*alphabet, *map("".join, merges)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END, special=True)])
    return str(tokenizer.to_str())

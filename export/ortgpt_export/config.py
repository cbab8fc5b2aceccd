"""config.json of a GPT-2 checkpoint: what the graph can honour is parsed, all else is refused by key.

Missing keys have the defaults of transformers' GPT2Config.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ortgpt.checks import shown
from ortgpt.errors import CheckpointError
from ortgpt.manifest import GENERATION_CONFIG_NAME
from ortgpt_export.json_file import read_object

Activation = Literal["gelu_tanh", "gelu", "relu", "silu", "quick_gelu", "tanh", "sigmoid", "linear"]

# transformers' names; what stands behind several names is one function
ACTIVATIONS: dict[str, Activation] = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "quick_gelu": "quick_gelu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "linear": "linear",
}

CONFIG_NAME = "config.json"
MAX_SIZE = 2**31 - 1
MAX_LAYERS = 800  # of 12 tensors each, within checkpoint.MAX_TENSORS
DEFAULT_TEXT_ID = 50256  # GPT-2's <|endoftext|>

_ALIASES = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_positions": "max_position_embeddings",
}
_REFUSED_WHEN_TRUE = {
    "add_cross_attention": "cross-attention needs an encoder",
    "is_encoder_decoder": "an encoder is not part of GPT-2",
}
_REFUSED_WHEN_SET = {
    "quantization_config": "quantised weights can't be read; export the original checkpoint",
    "pruned_heads": "pruned heads can't be read; save the model with all heads",
}


@dataclass(frozen=True, kw_only=True)
class GPT2Config:
    """A GPT-2 model's shape and switches, under the names of config.json.

    n_inner        width of the MLP, 4 * n_embd where config.json says null
    notes          what was dropped or replaced, one sentence each
    """

    vocab_size: int
    n_positions: int
    n_embd: int
    n_layer: int
    n_head: int
    n_inner: int
    activation: Activation
    layer_norm_epsilon: float
    scale_attn_weights: bool
    scale_attn_by_inverse_layer_idx: bool
    tie_word_embeddings: bool
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    notes: tuple[str, ...] = ()

    @property
    def head_size(self) -> int:
        return self.n_embd // self.n_head


def read_config(directory: Path) -> GPT2Config:
    """config.json, with the token ids of generation_config.json where that exists.

    Raises CheckpointError that names the key and its value when a key can't be honoured.
    """
    generation = directory / GENERATION_CONFIG_NAME
    return parse_config(
        read_object(directory / CONFIG_NAME),
        read_object(generation) if generation.exists() else {},
    )


def parse_config(data: Mapping[str, Any], generation: Mapping[str, Any] | None = None) -> GPT2Config:
    """The configuration in config.json's and generation_config.json's objects."""
    _refuse_other_models(data)
    vocab_size = _size(data, "vocab_size", 50257)
    n_embd, n_head = _size(data, "n_embd", 768), _size(data, "n_head", 12)
    if n_embd % n_head:
        raise CheckpointError(f"config.json: n_embd = {n_embd} is not a multiple of n_head = {n_head}")
    bos, eos, id_notes = read_text_ids(data, generation or {}, vocab_size)
    n_positions, position_notes = _positions(data)
    return GPT2Config(
        vocab_size=vocab_size,
        n_positions=n_positions,
        n_embd=n_embd,
        n_layer=_size(data, "n_layer", 12, MAX_LAYERS),
        n_head=n_head,
        n_inner=4 * n_embd if data.get("n_inner") is None else _size(data, "n_inner", 0),
        activation=_activation(data),
        layer_norm_epsilon=_epsilon(data),
        scale_attn_weights=_flag(data, "scale_attn_weights", True),
        scale_attn_by_inverse_layer_idx=_flag(data, "scale_attn_by_inverse_layer_idx", False),
        tie_word_embeddings=_flag(data, "tie_word_embeddings", True),
        bos_token_id=bos,
        eos_token_ids=eos,
        notes=(*position_notes, *id_notes),
    )


def _refusal(key: str, value: object, problem: str, file: str = "config.json") -> CheckpointError:
    return CheckpointError(f"{file}: {key} = {shown(value)} {problem}")


def _refuse_other_models(data: Mapping[str, Any]) -> None:
    if data.get("model_type") != "gpt2":
        raise CheckpointError(
            f'config.json: model_type = {shown(data.get("model_type"))} is not "gpt2", '
            "and --via graph knows GPT-2 only",
            hint='other families are exported with --via optimum: pip install "ortgpt[optimum]"',
        )
    refuse_unreadable(data)


def refuse_unreadable(data: Mapping[str, Any]) -> None:
    """Raise CheckpointError for what no export can honour, whatever the model."""
    for key, reason in _REFUSED_WHEN_TRUE.items():
        if _flag(data, key, False):
            raise _refusal(key, True, f"can't be honoured: {reason}")
    for key, reason in _REFUSED_WHEN_SET.items():
        if data.get(key):
            raise _refusal(key, data[key], f"can't be honoured: {reason}")


def _value(data: Mapping[str, Any], key: str, default: object) -> object:
    """A key's value, under its own name or its alias; both may stand there if they agree."""
    alias = _ALIASES.get(key)
    if alias is None or alias not in data:
        return data.get(key, default)
    if key in data and data[key] != data[alias]:
        raise _refusal(alias, data[alias], f"contradicts {key} = {shown(data[key])}")
    return data[alias]


def _size(data: Mapping[str, Any], key: str, default: int, high: int = MAX_SIZE) -> int:
    value = _value(data, key, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _refusal(key, value, "is not an integer")
    if not 1 <= value <= high:
        raise _refusal(key, value, f"is not between 1 and {high}")
    return value


def _flag(data: Mapping[str, Any], key: str, default: bool) -> bool:
    value = data.get(key, default)
    if value is None and not default:
        return False
    if not isinstance(value, bool):
        raise _refusal(key, value, "is not true or false")
    return value


def _activation(data: Mapping[str, Any]) -> Activation:
    name = data.get("activation_function", "gelu_new")
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise _refusal("activation_function", name, f"is not one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def _epsilon(data: Mapping[str, Any]) -> float:
    value = data.get("layer_norm_epsilon", 1e-5)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _refusal("layer_norm_epsilon", value, "is not a number")
    if not (math.isfinite(value) and 0 <= value <= 1):
        raise _refusal("layer_norm_epsilon", value, "is not between 0 and 1")
    return float(value)


def _positions(data: Mapping[str, Any]) -> tuple[int, list[str]]:
    """n_positions; n_ctx, its name in old configs, counts where nothing else is said."""
    is_named = "n_positions" in data or _ALIASES["n_positions"] in data
    if "n_ctx" not in data or data["n_ctx"] is None:
        return _size(data, "n_positions", 1024), []
    n_ctx = _size(data, "n_ctx", 0)
    n_positions = _size(data, "n_positions", 0) if is_named else n_ctx
    if n_positions == n_ctx:
        return n_positions, []
    return n_positions, [f"n_ctx = {n_ctx} is ignored: the context is n_positions = {n_positions}"]


def read_text_ids(
    data: Mapping[str, Any], generation: Mapping[str, Any], vocab_size: int
) -> tuple[int | None, tuple[int, ...], list[str]]:
    """(bos id, eos ids, notes) of config.json's object; generation_config.json's ids win over it."""
    notes: list[str] = []

    def ids(key: str) -> tuple[int, ...]:
        file = "config.json" if generation.get(key) is None else "generation_config.json"
        source = data if file == "config.json" else generation
        if key not in source:
            return (DEFAULT_TEXT_ID,) if vocab_size > DEFAULT_TEXT_ID else ()
        found = _id_list(file, key, source[key])
        for token_id in found:
            if not 0 <= token_id < vocab_size:
                notes.append(f"{file}: {key} {shown(token_id)} is outside the vocabulary and was dropped")
        return tuple(dict.fromkeys(i for i in found if 0 <= i < vocab_size))

    bos, eos = ids("bos_token_id"), ids("eos_token_id")
    if not eos:
        notes.append("the checkpoint names no eos_token_id: texts end by length or by stop strings only")
    return bos[0] if bos else None, eos, notes


def _id_list(file: str, key: str, value: object) -> list[int]:
    items: list[Any] = [] if value is None else value if isinstance(value, list) else [value]
    if any(isinstance(item, bool) or not isinstance(item, int) for item in items):
        raise _refusal(key, value, "is not a token id", file)
    if key == "bos_token_id" and len(items) > 1:
        raise _refusal(key, value, "is more than one id", file)
    return items

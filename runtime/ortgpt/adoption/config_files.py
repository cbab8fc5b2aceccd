"""config.json and generation_config.json as transformers writes them: the numbers that a manifest needs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ortgpt.checks import shown
from ortgpt.errors import BundleError

CONFIG_NAME = "config.json"
MAX_CONFIG_BYTES = 4 << 20
MAX_NUMBER = 2**31 - 1

# One thing, by the names that model families give it.
LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads")
WIDTH = ("hidden_size", "n_embd", "d_model")
CONTEXT = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What the two files say. kv_heads, head_size: None where they do not say; source: a hub id, or ""."""

    model_type: str
    source: str
    layers: int
    heads: int
    kv_heads: int | None
    head_size: int | None
    width: int
    context: int
    vocab_size: int
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]


def read_model_config(config: bytes, generation_config: bytes | None = None) -> ModelConfig:
    """Parse both. generation_config decides on the ids where it names them. Raises BundleError."""
    data = _object(CONFIG_NAME, config)
    generation = {} if generation_config is None else _object("generation_config.json", generation_config)
    ids = data | {key: value for key, value in generation.items() if value is not None}
    kv_heads = data.get("num_key_value_heads")
    head_size = data.get("head_dim")
    model_type, source = data.get("model_type"), data.get("_name_or_path")
    if not isinstance(model_type, str) or not model_type:
        raise BundleError(f"{CONFIG_NAME} names no model_type")
    return ModelConfig(
        model_type=model_type,
        source=source if isinstance(source, str) and not source.startswith((".", "/", "~")) else "",
        layers=_count(data, LAYERS),
        heads=_count(data, HEADS),
        kv_heads=None if kv_heads is None else _count(data, ("num_key_value_heads",)),
        head_size=None if head_size is None else _count(data, ("head_dim",)),
        width=_count(data, WIDTH),
        context=_count(data, CONTEXT),
        vocab_size=_count(data, ("vocab_size",)),
        bos_token_id=next(iter(_ids(ids, "bos_token_id")), None),
        eos_token_ids=_ids(ids, "eos_token_id"),
    )


def _object(name: str, data: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError) as error:  # ValueError: also bad UTF-8 and huge integers
        raise BundleError(f"{name} is not valid JSON: {str(error)[:200] or type(error).__name__}") from None
    if not isinstance(parsed, dict):
        raise BundleError(f"{name} must be a JSON object")
    return parsed


def _count(data: dict[str, Any], names: tuple[str, ...]) -> int:
    name = next((name for name in names if data.get(name) is not None), None)
    if name is None:
        raise BundleError(f"{CONFIG_NAME} has none of the keys {', '.join(names)}")
    value = data[name]
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_NUMBER:
        raise BundleError(f"{CONFIG_NAME}: {name} must be a positive integer, found {shown(value)}")
    return value


def _ids(data: dict[str, Any], name: str) -> tuple[int, ...]:
    """One id, a list of them, or none."""
    value = data.get(name)
    values = [] if value is None else value if isinstance(value, list) else [value]
    if any(isinstance(one, bool) or not isinstance(one, int) or not 0 <= one <= MAX_NUMBER for one in values):
        raise BundleError(f"{name} must be a token id or a list of them, found {shown(value)}")
    return tuple(values)

"""config.json and generation_config.json as transformers writes them: the numbers that a manifest needs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ortgpt.checks import shown
from ortgpt.errors import BundleError
from ortgpt.manifest import GENERATION_CONFIG_NAME

CONFIG_NAME = "config.json"
MAX_CONFIG_BYTES = 4 << 20
MAX_NUMBER = 2**31 - 1

# One thing, by the names that model families give it.
LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads")
WIDTH = ("hidden_size", "n_embd", "d_model")
CONTEXT = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")
# Whose heads may share keys and values without num_key_value_heads, unless multi_query is false.
MULTI_QUERY = ("falcon", "gpt_bigcode")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What the two files say.

    source              a hub id, or ""
    kv_heads, head_size None where they do not say
    shares_heads        whether heads may share keys and values though kv_heads is not said
    notes               what was dropped, one sentence each
    """

    model_type: str
    source: str
    layers: int
    heads: int
    kv_heads: int | None
    shares_heads: bool
    head_size: int | None
    width: int
    context: int
    vocab_size: int
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    notes: tuple[str, ...] = ()


def read_model_config(config: bytes, generation_config: bytes | None = None) -> ModelConfig:
    """Parse both. generation_config decides on the ids where it names them. Raises BundleError."""
    data = _object(CONFIG_NAME, config)
    generation = {} if generation_config is None else _object(GENERATION_CONFIG_NAME, generation_config)
    kv_heads = data.get("num_key_value_heads")
    head_size = data.get("head_dim")
    model_type, source = data.get("model_type"), data.get("_name_or_path")
    if not isinstance(model_type, str) or not model_type:
        raise BundleError(f"{CONFIG_NAME} names no model_type")
    heads, vocab_size = _count(data, HEADS), _count(data, ("vocab_size",))
    bos, bos_notes = _ids(data, generation, "bos_token_id", vocab_size)
    eos, eos_notes = _ids(data, generation, "eos_token_id", vocab_size)
    return ModelConfig(
        model_type=model_type,
        source=source if isinstance(source, str) and not source.startswith((".", "/", "~")) else "",
        layers=_count(data, LAYERS),
        heads=heads,
        kv_heads=None if kv_heads is None else _kv_heads(data, heads),
        shares_heads=model_type in MULTI_QUERY and data.get("multi_query") is not False,
        head_size=None if head_size is None else _count(data, ("head_dim",)),
        width=_count(data, WIDTH),
        context=_count(data, CONTEXT),
        vocab_size=vocab_size,
        bos_token_id=next(iter(bos), None),
        eos_token_ids=eos,
        notes=(*bos_notes, *eos_notes),
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


def _kv_heads(data: dict[str, Any], heads: int) -> int:
    kv_heads = _count(data, ("num_key_value_heads",))
    if heads % kv_heads:
        raise BundleError(f"{CONFIG_NAME}: {heads} heads can't share num_key_value_heads = {kv_heads}")
    return kv_heads


def _ids(
    data: dict[str, Any], generation: dict[str, Any], name: str, vocab_size: int
) -> tuple[tuple[int, ...], list[str]]:
    """(ids, notes). As in an export, ids outside the vocabulary are dropped."""
    file, source = (
        (CONFIG_NAME, data) if generation.get(name) is None else (GENERATION_CONFIG_NAME, generation)
    )
    value = source.get(name)
    values = [] if value is None else value if isinstance(value, list) else [value]
    if any(isinstance(one, bool) or not isinstance(one, int) for one in values):
        raise BundleError(f"{file}: {name} must be a token id or a list of them, found {shown(value)}")
    notes = [
        f"{file}: {name} {shown(one)} is outside the vocabulary of {vocab_size} ids and was dropped"
        for one in values
        if not 0 <= one < vocab_size
    ]
    return tuple(dict.fromkeys(one for one in values if 0 <= one < vocab_size)), notes

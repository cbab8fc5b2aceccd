"""A checkpoint of any family as transformers reads it: staged, so that it sees nothing else.

It gets config.json, without the keys by which a checkpoint can name code, and the safetensors files. So it
finds no pickle to load, and nothing that it would ask the hub for.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ortgpt.checks import shown
from ortgpt.errors import CheckpointError
from ortgpt.manifest import GENERATION_CONFIG_NAME
from ortgpt_export.checkpoint import INDEX_NAME, read_headers, weight_files
from ortgpt_export.config import CONFIG_NAME, MAX_SIZE, read_text_ids, refuse_unreadable
from ortgpt_export.json_file import read_object

# Code on the hub that the checkpoint asks for: classes, attention kernels.
_NAMES_CODE = {
    "auto_map",
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_internal",
    "custom_pipelines",
}
# Rotary embeddings that follow the text's length, which a traced graph can't.
_REFUSED_ROPES = ("dynamic", "longrope")
MAX_NAMES = 5  # that one message lists


@dataclass(frozen=True, kw_only=True)
class CausalConfig:
    """What the manifest says of a model that its graph does not.

    attention  transformers' name of the way in which attention has to be computed; None: any is right
    notes      what was dropped or replaced, one sentence each
    """

    model_type: str
    heads: int
    context: int
    vocab_size: int
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    attention: str | None = None
    notes: tuple[str, ...] = ()


def stage_checkpoint(directory: Path, folder: Path) -> int:
    """Lay out in `folder` what transformers may see of a checkpoint; returns the bytes of its float32.

    Raises CheckpointError.
    """
    config = read_object(directory / CONFIG_NAME)
    if not isinstance(config.get("model_type"), str):
        raise CheckpointError(f"config.json: model_type = {shown(config.get('model_type'))} is not a name")
    refuse_unreadable(config)
    tensors = read_headers(directory)
    kept = {key: value for key, value in config.items() if key not in _NAMES_CODE}
    (folder / CONFIG_NAME).write_text(json.dumps(kept), encoding="utf-8")
    files = weight_files(directory)
    if (directory / INDEX_NAME).exists():
        files.append(directory / INDEX_NAME)
    for path in files:
        (folder / path.name).symlink_to(os.path.abspath(path))
    return 4 * sum(info.size for _, info in tensors.values())


def read_causal_config(staged: Path, directory: Path) -> CausalConfig:
    """The configuration of a staged checkpoint, whose generation_config.json lies in `directory`.

    Raises CheckpointError that names the key and its value when something can't be honoured.
    """
    from transformers import AutoConfig

    with kept_quiet(), reported("config.json can't be read by transformers"):
        config = AutoConfig.from_pretrained(staged, local_files_only=True, trust_remote_code=False)
    _check_rope(config)
    vocab_size = _size(config, "vocab_size")
    generation = directory / GENERATION_CONFIG_NAME
    ids = {name: getattr(config, name, None) for name in ("bos_token_id", "eos_token_id")}
    bos, eos, notes = read_text_ids(ids, read_object(generation) if generation.exists() else {}, vocab_size)
    return CausalConfig(
        model_type=config.model_type,
        heads=_size(config, "num_attention_heads"),
        context=_size(config, "max_position_embeddings"),
        vocab_size=vocab_size,
        bos_token_id=bos,
        eos_token_ids=eos,
        attention="eager" if _is_scaled(config) else None,
        notes=tuple(notes),
    )


def load_causal_model(directory: Path, *, attention: str | None = None) -> Any:
    """transformers' model of a directory, in float32 and ready to run.

    attention  transformers' name of a way to compute it; None: transformers' choice. Raises CheckpointError.
    """
    import torch
    from transformers import AutoModelForCausalLM

    options = {} if attention is None else {"attn_implementation": attention}
    with kept_quiet(), reported("the checkpoint can't be loaded by transformers"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the report
            **options,
        )
    model, report = loaded
    # What it does not find it would make up at random.
    wrong = [f"{name} is missing" for name in sorted(report["missing_keys"])]
    # Names in some versions, (name, shape, shape) in others.
    mismatched = sorted(item if isinstance(item, str) else item[0] for item in report["mismatched_keys"])
    wrong += [f"{name} has another shape" for name in mismatched]
    if wrong:
        more = f" and {len(wrong) - MAX_NAMES} more" if len(wrong) > MAX_NAMES else ""
        raise CheckpointError(f"the weights do not fit config.json: {'; '.join(wrong[:MAX_NAMES])}{more}")
    return model.eval()


@contextmanager
def kept_quiet(*, verbose: bool = False) -> Iterator[None]:
    """Keep what transformers, torch and Optimum report from the terminal, unless verbose."""
    if verbose:
        yield
        return
    import transformers

    loggers = [logging.getLogger(name) for name in ("transformers", "optimum", "torch")]
    levels = [logger.level for logger in loggers]
    bars: Any = transformers.utils.logging
    has_bars = bars.is_progress_bar_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bars.disable_progress_bar()
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL + 1)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            if has_bars:
                bars.enable_progress_bar()


@contextmanager
def reported(what: str) -> Iterator[None]:
    """Turn an error of transformers or torch, whose kinds are many, into one sentence: CheckpointError."""
    try:
        yield
    except (MemoryError, CheckpointError):
        raise
    except Exception as error:
        raise CheckpointError(f"{what}: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """What an error of another library says, short."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _size(config: Any, name: str) -> int:
    value = getattr(config, name, None)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_SIZE:
        raise CheckpointError(f"config.json: {name} = {shown(value)} is not between 1 and {MAX_SIZE}")
    return value


def _is_scaled(config: Any) -> bool:
    """Whether scores of attention are treated in a way that the fused attention of torch ignores."""
    return (
        not getattr(config, "scale_attn_weights", True)
        or getattr(config, "scale_attn_by_inverse_layer_idx", False)
        or getattr(config, "attn_logit_softcapping", None) is not None
    )


def _check_rope(config: Any) -> None:
    scaling = getattr(config, "rope_scaling", None)
    kind = (scaling.get("rope_type") or scaling.get("type")) if isinstance(scaling, dict) else None
    if kind in _REFUSED_ROPES:
        raise CheckpointError(
            f"config.json: rope_scaling of type {shown(kind)} can't be honoured: it follows the text's length"
        )

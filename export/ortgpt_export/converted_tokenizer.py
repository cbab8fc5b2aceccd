"""tokenizer.json of a checkpoint that has the files of transformers' older tokenizers only, as OPT's do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ortgpt.errors import CheckpointError
from ortgpt.manifest import TOKENIZER_NAME
from ortgpt_export.causal_model import first_line, kept_quiet
from ortgpt_export.json_file import read_object
from ortgpt_export.tokenizer_file import tokenizer_files

# What stands before a prompt, and which tokens are special, depends on these.
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def settings_files(directory: Path) -> list[Path]:
    """The files that a conversion reads beside vocabulary and merges."""
    return [directory / name for name in SETTINGS if (directory / name).exists()]


def convert_tokenizer(directory: Path, staged: Path) -> None:
    """Write tokenizer.json into `staged`, the checkpoint as transformers sees it. Raises CheckpointError."""
    import transformers

    loader: Any = transformers.AutoTokenizer
    for path in settings_files(directory):
        read_object(path)  # small, regular, an object
    for path in tokenizer_files(directory) + settings_files(directory):
        (staged / path.name).symlink_to(os.path.abspath(path))
    try:
        with kept_quiet():
            tokenizer = loader.from_pretrained(
                staged, use_fast=True, local_files_only=True, trust_remote_code=False
            )
            content: str = tokenizer.backend_tokenizer.to_str()
    except Exception as error:
        raise CheckpointError(
            f"the checkpoint has no {TOKENIZER_NAME}, and transformers can't make one: {first_line(error)}"
        ) from error
    (staged / TOKENIZER_NAME).write_text(content, encoding="utf-8")

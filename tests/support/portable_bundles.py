"""Directories that Optimum wrote, as models."""

from __future__ import annotations

from pathlib import Path

import ortgpt
from ortgpt.adoption.adopt import adopt
from ortgpt.manifest import MANIFEST_NAME


def load_portable(directory: Path, *, prefill_chunk: int = 256) -> ortgpt.Model:
    """Adopt it, unless that has been done, and load it."""
    if not (directory / MANIFEST_NAME).exists():
        adopt(directory)
    return ortgpt.load(directory, provider="cpu", threads=1, verify=False, prefill_chunk=prefill_chunk)

"""Directories that Optimum wrote, as models."""

from __future__ import annotations

import shutil
from pathlib import Path

import ortgpt
from ortgpt.adoption.adopt import adopt


def load_portable(directory: Path, *, prefill_chunk: int = 256) -> ortgpt.Model:
    """Adopt a copy of it, unless that has been done, and load that: other tests want it as it is."""
    adopted = directory.with_name("adopted")
    if not adopted.exists():
        shutil.copytree(directory, adopted)
        adopt(adopted)
    return ortgpt.load(adopted, provider="cpu", threads=1, verify=False, prefill_chunk=prefill_chunk)

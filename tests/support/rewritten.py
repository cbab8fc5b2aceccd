"""Manifests that agree with files that a test has changed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def rewrite_manifest(directory: Path, **changes: Any) -> None:
    """Measure the files anew; changes: values, or of a section those of its keys that change."""
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text())
    for name in manifest["files"]:
        data = (directory / name).read_bytes()
        manifest["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    for key, value in changes.items():
        manifest[key] = manifest[key] | value if isinstance(value, dict) else value
    path.write_text(json.dumps(manifest))

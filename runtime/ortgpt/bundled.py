"""The model that comes with the package: models/storyteller of the repository in int8."""

from __future__ import annotations

from pathlib import Path

BUNDLED_MODEL = Path(__file__).parent / "storyteller"

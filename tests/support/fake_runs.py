"""Fake decoders that note what they are asked to run."""

from __future__ import annotations

from typing import Any

from ortgpt.interfaces import Outputs
from ortgpt.testing import FakeDecoder


class Runs:
    """What fake decoders were asked to run: for each call the widths of its rows."""

    def __init__(self) -> None:
        self._widths: list[list[int]] = []
        self.nan_at: set[tuple[int, int]] = set()

    def decoder(self, rows: int) -> FakeDecoder:
        runs = self

        class Recording(FakeDecoder):
            def extend(self, token_ids: Any, **options: Any) -> Outputs:
                runs._widths.append([len(ids) for ids in token_ids])
                return super().extend(token_ids, **options)

        return Recording(257, 64, rows, nan_at=self.nan_at)

    def take(self) -> list[list[int]]:
        """Those since the last time."""
        taken, self._widths = self._widths, []
        return taken

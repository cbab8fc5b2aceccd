"""Fake decoders that note what they are asked to run."""

from __future__ import annotations

from typing import Any

from ortgpt.interfaces import Capabilities, Outputs
from ortgpt.testing import FakeDecoder


class Runs:
    """What fake decoders were asked to run: for each call the widths of its rows.

    nan_at        (call, row) pairs of each decoder whose logits are NaN
    capabilities  of the decoders made from now on; None: all
    decoders      all that have been made
    """

    def __init__(self) -> None:
        self._widths: list[list[int]] = []
        self._calls_left: int | None = None
        self.nan_at: set[tuple[int, int]] = set()
        self.capabilities: Capabilities | None = None
        self.decoders: list[FakeDecoder] = []

    def decoder(self, rows: int) -> FakeDecoder:
        runs = self

        class Recording(FakeDecoder):
            def extend(self, token_ids: Any, **options: Any) -> Outputs:
                runs._widths.append([len(ids) for ids in token_ids])
                runs._count()
                return super().extend(token_ids, **options)

        made = Recording(257, 64, rows, nan_at=self.nan_at, capabilities=self.capabilities)
        self.decoders.append(made)
        return made

    def interrupt_after(self, calls: int) -> None:
        """Ctrl-C will be pressed during the call that comes after so many."""
        self._calls_left = calls

    def _count(self) -> None:
        if self._calls_left == 0:
            raise KeyboardInterrupt
        if self._calls_left is not None:
            self._calls_left -= 1

    def take(self) -> list[list[int]]:
        """Those since the last time."""
        taken, self._widths = self._widths, []
        return taken

"""Where a row's new scores are written: into an array of their own, or over old ones that nobody needs."""

from __future__ import annotations

import numpy as np

from ortgpt.interfaces import Floats


def row_for(logits: Floats, out: Floats | None) -> Floats:
    """A copy of the row (vocab,) that may be written into: `out`, if given, which may be the row itself."""
    if out is None:
        return logits.copy()
    if out is not logits:
        np.copyto(out, logits)
    return out


class RowBuffer:
    """One row's memory, kept from step to step: a new array costs more than what is written into it."""

    def __init__(self) -> None:
        self._row: Floats | None = None

    def like(self, logits: Floats) -> Floats:
        """An array of the same shape, holding anything; the same one at every call."""
        if self._row is None or self._row.shape != logits.shape:
            self._row = np.empty_like(logits)
        return self._row

    def __deepcopy__(self, memo: dict[int, object]) -> RowBuffer:
        return RowBuffer()  # what it holds counts for nothing

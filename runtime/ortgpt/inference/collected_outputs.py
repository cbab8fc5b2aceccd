"""Puts the outputs of several runs of a graph together."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ortgpt.interfaces import Floats, Ids, Outputs


class CollectedOutputs:
    """What one `extend` returns. widths: new tokens of each row."""

    def __init__(self, widths: list[int], outputs: Literal["last", "all"]) -> None:
        self._shape = (len(widths), max(widths))
        self._outputs = outputs
        self._logits: Floats | None = None
        self._hidden: Floats | None = None

    def add(self, rows: slice | Ids, begin: int, count: int, part: Outputs, *, is_end: bool) -> None:
        """Take over the first `count` outputs of a run that gave these rows new tokens from `begin` on.

        is_end: these are the rows' last new tokens; only then is there something to take of "last"
        """
        num_rows, longest = self._shape
        if self._logits is None:
            num_outputs = longest if self._outputs == "all" else 1
            self._logits = np.zeros((num_rows, num_outputs, part.logits.shape[2]), np.float32)
        if self._outputs == "all":
            self._logits[rows, begin : begin + count] = part.logits[:, :count]
        elif is_end:
            self._logits[rows] = part.logits
        if part.hidden is not None:
            if self._hidden is None:
                self._hidden = np.zeros((num_rows, longest, part.hidden.shape[2]), np.float32)
            self._hidden[rows, begin : begin + count] = part.hidden[:, :count]

    def outputs(self) -> Outputs:
        assert self._logits is not None  # extend has at least one run
        return Outputs(self._logits, self._hidden)

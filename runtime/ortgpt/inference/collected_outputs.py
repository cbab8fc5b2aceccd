"""Puts the outputs of several runs of a graph together."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ortgpt.interfaces import Floats, Ids, Outputs


class CollectedOutputs:
    """What one `extend` returns. widths: new tokens of each row."""

    def __init__(self, widths: list[int], outputs: Literal["last", "all"], vocab_size: int) -> None:
        rows, self._longest = len(widths), max(widths)
        num_outputs = self._longest if outputs == "all" else 1
        self._logits: Floats = np.zeros((rows, num_outputs, vocab_size), np.float32)
        self._hidden: Floats | None = None

    def add_logits(self, rows: slice | Ids, begin: int, logits: Floats) -> None:
        """(rows, outputs, vocab): of these rows, from output `begin` on."""
        self._logits[rows, begin : begin + logits.shape[1]] = logits

    def add_hidden(self, rows: slice | Ids, begin: int, hidden: Floats) -> None:
        """(rows, width, n_embd): of these rows, from new token `begin` on."""
        if self._hidden is None:
            self._hidden = np.zeros((len(self._logits), self._longest, hidden.shape[2]), np.float32)
        self._hidden[rows, begin : begin + hidden.shape[1]] = hidden

    def outputs(self) -> Outputs:
        return Outputs(self._logits, self._hidden)

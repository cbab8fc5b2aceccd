"""The cache of rows that share runs of a portable graph.

The rows have columns in common, and a mask says in which of them a row's tokens are. A row that was padded or
trimmed has gaps, which the graph is told to look past; they go away when they have become many.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ortgpt.inference.cells import Cells
from ortgpt.interfaces import Ids

Mask = NDArray[np.bool_]


class GrownCache:
    """Rows on cells of their own.

    is_held  (rows, columns): in which cells a row's tokens are, in their order
    lengths  (rows,): how many they are
    """

    def __init__(self, cells: Cells, is_held: Mask) -> None:
        self.cells, self.is_held = cells, is_held
        self.lengths: Ids = is_held.sum(axis=1, dtype=np.int64)

    @property
    def num_rows(self) -> int:
        return self.cells.rows

    @property
    def columns(self) -> int:
        return self.cells.columns

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(self.lengths.tolist(), default=0)

    @property
    def has_gaps(self) -> bool:
        num_held: int = self.lengths.sum()
        return num_held < self.is_held.size

    def record(self, counts: Sequence[int], width: int) -> None:
        """Count the first counts[i] of the `width` columns that a run has put behind row i."""
        added = np.arange(width) < np.asarray(counts)[:, None]
        self.is_held = np.concatenate([self.is_held, added], axis=1)
        self.lengths += counts

    def take(self, rows: Ids) -> None:
        """Row i becomes what row rows[i] is."""
        self.cells.take(rows)
        self.is_held, self.lengths = self.is_held[rows], self.lengths[rows]

    def pack(self) -> None:
        """Every row's tokens at its beginning: no more columns than the longest row has tokens."""
        self._pack([np.flatnonzero(held) for held in self.is_held])

    def trim(self, lengths: Ids) -> None:
        """Shorten row i to lengths[i] tokens."""
        for row in np.flatnonzero(lengths < self.lengths).tolist():
            held = self.is_held[row]
            held[np.flatnonzero(held)[lengths[row] :]] = False
            self.cells.clear(row, np.flatnonzero(~held))
        self.lengths = lengths.copy()

    def keep(self, chosen: Sequence[Sequence[int]], added: Sequence[int]) -> None:
        """Of the last added[i] tokens of row i keep chosen[i], in that order."""
        if any(list(picks) != list(range(len(picks))) for picks in chosen):
            order = []
            for held, picks, count in zip(self.is_held, chosen, added, strict=True):
                columns = np.flatnonzero(held)
                base = len(columns) - count
                order.append(np.concatenate([columns[:base], columns[base:][list(picks)]]))
            self._pack(order)
        else:
            dropped = [count - len(picks) for picks, count in zip(chosen, added, strict=True)]
            self.trim(self.lengths - np.array(dropped, np.int64))

    @staticmethod
    def gathered(parts: Sequence[tuple[GrownCache, Ids]]) -> GrownCache:
        """These rows of all parts, one below the other, on cells of their own."""
        cells = Cells.gathered([(part.cells, rows) for part, rows in parts])
        masks = [
            np.pad(part.is_held[rows], ((0, 0), (0, cells.columns - part.columns))) for part, rows in parts
        ]
        return GrownCache(cells, np.concatenate(masks))

    def _pack(self, columns: Sequence[Ids]) -> None:
        self.cells.pack(columns)
        self.lengths = np.array([len(kept) for kept in columns], np.int64)
        self.is_held = np.arange(self.columns) < self.lengths[:, None]

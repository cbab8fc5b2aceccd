"""The cache of rows that share runs of a portable graph.

The rows have columns in common, and a row's tokens are in some of them. A row that was padded or trimmed has
gaps, which the graph is told to look past; they go away when they have become many.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ortgpt.inference.cells import Cells
from ortgpt.interfaces import Ids

GAP = -1
UNKNOWN = 2**62  # a token in a cell that was computed behind others than those before it


class GrownCache:
    """Rows on cells of their own.

    tokens   (rows, columns): the id in each cell, in the row's order; GAP where there is none
    lengths  (rows,): how many are none
    """

    def __init__(self, cells: Cells, tokens: Ids) -> None:
        self.cells, self.tokens = cells, tokens
        self.lengths: Ids = (tokens != GAP).sum(axis=1, dtype=np.int64)

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
        num_tokens: int = self.lengths.sum()
        return num_tokens < self.tokens.size

    def grown(self, new: Sequence[Ids] | Ids, begin: int, counts: Sequence[int], width: int) -> Ids:
        """`tokens` after a run that puts `width` columns behind, of which row i takes the first counts[i]."""
        columns = self.columns
        grown = np.full((self.num_rows, columns + width), GAP)
        grown[:, :columns] = self.tokens
        for row, count in enumerate(counts):
            if count == 1:  # cheaper than a slice
                grown[row, columns] = new[row][begin]
            else:
                grown[row, columns : columns + count] = new[row][begin : begin + count]
        return grown

    def record(self, grown: Ids, counts: Sequence[int]) -> None:
        """After that run."""
        self.tokens = grown
        self.lengths += counts

    def take(self, rows: Ids) -> None:
        """Row i becomes what row rows[i] is. Copies only what the row does not hold already."""
        self.cells.take(rows, np.array([self._shared(row, source) for row, source in enumerate(rows)]))
        self.tokens, self.lengths = self.tokens[rows], self.lengths[rows]

    def pack(self) -> None:
        """Every row's tokens at its beginning: no more columns than the longest row has tokens."""
        self._pack([np.flatnonzero(tokens != GAP) for tokens in self.tokens])

    def trim(self, lengths: Ids) -> None:
        """Shorten row i to lengths[i] tokens."""
        for row in np.flatnonzero(lengths < self.lengths).tolist():
            tokens = self.tokens[row]
            tokens[np.flatnonzero(tokens != GAP)[lengths[row] :]] = GAP
            self.cells.clear(row, np.flatnonzero(tokens == GAP))
        self.lengths = lengths.copy()

    def keep(self, chosen: Sequence[Sequence[int]], added: Sequence[int]) -> None:
        """Of the last added[i] tokens of row i keep chosen[i], in that order."""
        if any(list(picks) != list(range(len(picks))) for picks in chosen):
            order = []
            for tokens, picks, count in zip(self.tokens, chosen, added, strict=True):
                columns = np.flatnonzero(tokens != GAP)
                base = len(columns) - count
                order.append(np.concatenate([columns[:base], columns[base:][list(picks)]]))
                if list(picks) != list(range(len(picks))):
                    tokens[columns[base:]] = UNKNOWN
            self._pack(order)
        else:
            dropped = [count - len(picks) for picks, count in zip(chosen, added, strict=True)]
            self.trim(self.lengths - np.array(dropped, np.int64))

    @staticmethod
    def gathered(parts: Sequence[tuple[GrownCache, Ids]]) -> GrownCache:
        """These rows of all parts, one below the other, on cells of their own."""
        cells = Cells.gathered([(part.cells, rows) for part, rows in parts])
        tokens = [
            np.pad(part.tokens[rows], ((0, 0), (0, cells.columns - part.columns)), constant_values=GAP)
            for part, rows in parts
        ]
        return GrownCache(cells, np.concatenate(tokens))

    def _shared(self, row: int, source: int) -> int:
        """The columns from the first on that a row has in common with another."""
        if row == source:
            return self.columns
        if row >= self.num_rows:
            return 0
        own, other = self.tokens[row], self.tokens[source]
        # The same tokens from the first on make the same cells, whichever row computed them.
        differs = (own != other) | (own == UNKNOWN)
        return int(differs.argmax()) if differs.any() else self.columns

    def _pack(self, columns: Sequence[Ids]) -> None:
        self.cells.pack(columns)
        tokens = np.full((self.num_rows, self.columns), GAP)
        for row, kept in enumerate(columns):
            tokens[row, : len(kept)] = self.tokens[row, kept]
        self.tokens = tokens
        self.lengths = np.array([len(kept) for kept in columns], np.int64)

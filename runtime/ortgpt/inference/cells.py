"""The tensors of a cache that a graph gives back longer by every run's width.

There are two buffers: a run reads the past in the one and writes the present into the other, which is the
past of the next run. So nothing is copied between runs, and nothing allocated until a buffer is full. In its
part of a buffer a tensor lies at the beginning, whatever its rows and columns; the part's last cell stays
zero, to fill up with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ortgpt.graph_contract import cache_names, stacked_cache_names
from ortgpt.inference.cache_memory import CacheCells, CacheMemory
from ortgpt.interfaces import Ids
from ortgpt.manifest import Architecture, PortableGraph

MIN_COLUMNS = 64


@dataclass(frozen=True)
class CellLayout:
    """The tensors of a graph's cache: each (*lead, rows, heads, columns, head_size), float32.

    names  (past, present) of each
    """

    names: tuple[tuple[str, str], ...]
    lead: tuple[int, ...]
    heads: int
    head_size: int
    context: int

    @classmethod
    def of(cls, shape: Architecture, graph: PortableGraph) -> CellLayout:
        layers = range(shape.layers)
        is_stacked = graph.cache == "stacked"
        if is_stacked:
            names = tuple(stacked_cache_names(layer) for layer in layers)
        else:
            names = tuple(pair for layer in layers for pair in cache_names(layer))
        return cls(names, (2,) if is_stacked else (), shape.cache_heads, shape.cache_head_size, shape.context)

    @property
    def parts(self) -> int:
        """Keys and values in one tensor are two parts."""
        return 2 if self.lead else 1

    def shape(self, rows: int, columns: int) -> tuple[int, ...]:
        return (*self.lead, rows, self.heads, columns, self.head_size)

    def grid(self, rows: int, columns: int) -> Ids:
        """(parts, rows, heads, columns): the place of every cell in its buffer."""
        shape = (self.parts, rows, self.heads, columns)
        return np.arange(self.parts * rows * self.heads * columns).reshape(shape)


class Cells:
    """Rows with columns in common, of which there are none at first."""

    def __init__(self, layout: CellLayout, memory: CacheMemory, rows: int) -> None:
        self.layout, self.rows, self.columns = layout, rows, 0
        self._memory = memory
        self._past = self._spare = self._allocate(0, 0)

    @property
    def capacity(self) -> int:
        """Columns that there is room for."""
        per_column = self.layout.parts * self.rows * self.layout.heads
        return (_num_cells(self._past) - 1) // per_column if per_column else 0

    @property
    def nbytes(self) -> int:
        return self._past.nbytes + self._spare.nbytes

    def bind(self, binding: Any, width: int) -> None:
        """Bind what a run reads, and what it writes: `width` columns more."""
        layout = self.layout
        self._reserve(self.rows, self.columns + width)
        device = self._spare.device
        old = (*device, np.float32, layout.shape(self.rows, self.columns))
        new = (*device, np.float32, layout.shape(self.rows, self.columns + width))
        past, spare = self._past.address, self._spare.address
        for index, (past_name, present_name) in enumerate(layout.names):
            binding.bind_input(past_name, *old, past(index, 0))
            binding.bind_output(present_name, *new, spare(index, 0))

    def accept(self, width: int) -> None:
        """After the run: what it has written is the past."""
        self._turn(self.rows, self.columns + width)

    def take(self, rows: Ids, begins: Ids) -> None:
        """Row i becomes what row rows[i] is; before column begins[i] it is that already."""
        if len(rows) > self.rows or (len(rows) < self.rows and self.layout.parts > 1):
            self._take_all(rows)
            return
        # Rows that are left out lie behind the others; what the first ones lack is written in its place.
        grid = self.layout.grid(self.rows, self.columns)
        changed = np.flatnonzero(begins < self.columns).tolist()
        if changed:
            sources = [grid[:, rows[row], :, begins[row] :].ravel() for row in changed]
            targets = [grid[:, row, :, begins[row] :].ravel() for row in changed]
            self._past.copy(self._past, np.concatenate(sources), np.concatenate(targets))
        self.rows = len(rows)

    def _take_all(self, rows: Ids) -> None:
        self._reserve(len(rows), self.columns)
        sources = self.layout.grid(self.rows, self.columns)[:, rows].ravel()
        self._spare.copy(self._past, sources, slice(0, len(sources)))
        self._turn(len(rows), self.columns)

    def pack(self, columns: Sequence[Ids]) -> None:
        """Of each row keep these columns, in this order; rows with fewer are filled up with zeros."""
        longest = max(map(len, columns), default=0)
        self._reserve(self.rows, longest)
        grid = self.layout.grid(self.rows, self.columns)
        sources = np.full((*grid.shape[:3], longest), _num_cells(self._past) - 1)
        for row, kept in enumerate(columns):
            sources[:, row, :, : len(kept)] = grid[:, row][:, :, kept]
        self._spare.copy(self._past, sources.ravel(), slice(0, sources.size))
        self._turn(self.rows, longest)

    def clear(self, row: int, columns: Ids) -> None:
        """Zeros: what a mask hides still takes part in products, where NaN would come through."""
        places = self.layout.grid(self.rows, self.columns)[:, row][:, :, columns].ravel()
        self._past.copy(self._past, np.full(len(places), _num_cells(self._past) - 1), places)

    @classmethod
    def gathered(cls, parts: Sequence[tuple[Cells, Ids]]) -> Cells:
        """These rows of all parts, one below the other; those with fewer columns are filled up with zeros."""
        layout = parts[0][0].layout
        whole = cls(layout, parts[0][0]._memory, 0)
        rows, columns = sum(len(rows) for _, rows in parts), max(part.columns for part, _ in parts)
        whole._reserve(rows, columns)
        targets = np.split(layout.grid(rows, columns), np.cumsum([len(rows) for _, rows in parts])[:-1], 1)
        for (part, chosen), places in zip(parts, targets, strict=True):
            sources = np.full(places.shape, _num_cells(part._past) - 1)
            sources[..., : part.columns] = layout.grid(part.rows, part.columns)[:, chosen]
            whole._spare.copy(part._past, sources.ravel(), places.ravel())
        whole._turn(rows, columns)
        return whole

    def _reserve(self, rows: int, columns: int) -> None:
        """See to it that the spare buffer has room for so much, and for some columns to come."""
        layout = self.layout
        if _num_cells(self._spare) <= layout.parts * rows * layout.heads * columns:
            self._spare = self._allocate(rows, max(columns, min(2 * columns + MIN_COLUMNS, layout.context)))

    def _allocate(self, rows: int, columns: int) -> CacheCells:
        """A buffer, all zero, of one cell more at least."""
        layout = self.layout
        heads, cells = layout.parts * layout.heads, columns + 1
        return self._memory.allocate(
            (len(layout.names), max(1, rows), heads, cells, layout.head_size), "float32"
        )

    def _turn(self, rows: int, columns: int) -> None:
        self._past, self._spare = self._spare, self._past
        self.rows, self.columns = rows, columns


def _num_cells(cells: CacheCells) -> int:
    """Of one tensor's buffer."""
    _, rows, heads, columns, _ = cells.shape
    return rows * heads * columns

"""The tensors of a cache that a graph gives back longer by every run's width, in this machine's memory.

There are two buffers: a run reads the past in the one and writes the present into the other, which is the
past of the next run. So nothing is copied between runs, and nothing allocated until a buffer is full.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ortgpt.graph_contract import cache_names, stacked_cache_names
from ortgpt.inference.memory import check_memory
from ortgpt.interfaces import Floats, Ids
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

    def shape(self, rows: int, columns: int) -> tuple[int, ...]:
        return (*self.lead, rows, self.heads, columns, self.head_size)

    def size(self, rows: int, columns: int) -> int:
        """Numbers in one tensor."""
        return (2 if self.lead else 1) * rows * self.heads * columns * self.head_size


class Cells:
    """Rows with columns in common, of which there are none at first."""

    def __init__(self, layout: CellLayout, rows: int) -> None:
        self.layout, self.rows, self.columns = layout, rows, 0
        self._past = self._spare = np.empty((len(layout.names), 0), np.float32)

    @property
    def capacity(self) -> int:
        """Columns that there is room for."""
        per_column = self.layout.size(self.rows, 1)
        return int(self._past.shape[1]) // per_column if per_column else 0

    @property
    def nbytes(self) -> int:
        return int(self._past.nbytes + self._spare.nbytes)

    def bind(self, binding: Any, width: int) -> None:
        """Bind what a run reads, and what it writes: `width` columns more."""
        layout = self.layout
        old = layout.shape(self.rows, self.columns)
        new = layout.shape(self.rows, self.columns + width)
        self._reserve(self.rows, self.columns + width)
        source, target = self._past.ctypes.data, self._spare.ctypes.data
        step_in, step_out = self._past.strides[0], self._spare.strides[0]
        for past, present in layout.names:
            binding.bind_input(past, "cpu", 0, np.float32, old, source)
            binding.bind_output(present, "cpu", 0, np.float32, new, target)
            source += step_in
            target += step_out

    def accept(self, binding: Any, width: int) -> None:
        """After the run: what it has written is the past."""
        self._turn(self.rows, self.columns + width)

    def take(self, rows: Ids) -> None:
        """Row i becomes what row rows[i] is."""
        self._reserve(len(rows), self.columns)
        for old, new in zip(self._tensors(), self._spares(len(rows), self.columns), strict=True):
            np.take(old, rows, axis=-4, out=new, mode="clip")
        self._turn(len(rows), self.columns)

    def pack(self, columns: Sequence[Ids]) -> None:
        """Of each row keep these columns, in this order; rows with fewer are filled up with zeros."""
        longest = max(map(len, columns), default=0)
        self._reserve(self.rows, longest)
        for old, new in zip(self._tensors(), self._spares(self.rows, longest), strict=True):
            for row, kept in enumerate(columns):
                new[..., row, :, : len(kept), :] = old[..., row, :, :, :][..., kept, :]
                new[..., row, :, len(kept) :, :] = 0
        self._turn(self.rows, longest)

    def clear(self, row: int, columns: Ids) -> None:
        """Zeros: what a mask hides still takes part in products, where NaN would come through."""
        for tensor in self._tensors():
            tensor[..., row, :, :, :][..., columns, :] = 0

    @classmethod
    def gathered(cls, parts: Sequence[tuple[Cells, Ids]]) -> Cells:
        """These rows of all parts, one below the other; those with fewer columns are filled up with zeros."""
        whole = cls(parts[0][0].layout, 0)
        rows, columns = sum(len(rows) for _, rows in parts), max(part.columns for part, _ in parts)
        whole._reserve(rows, columns)
        sources = [part._tensors() for part, _ in parts]
        for index, new in enumerate(whole._spares(rows, columns)):
            first = 0
            for (part, chosen), tensors in zip(parts, sources, strict=True):
                place = new[..., first : first + len(chosen), :, :, :]
                place[..., : part.columns, :] = tensors[index][..., chosen, :, :, :]
                place[..., part.columns :, :] = 0
                first += len(chosen)
        whole._turn(rows, columns)
        return whole

    def _tensors(self) -> list[Floats]:
        return self._views(self._past, self.rows, self.columns)

    def _spares(self, rows: int, columns: int) -> list[Floats]:
        return self._views(self._spare, rows, columns)

    def _views(self, buffer: Floats, rows: int, columns: int) -> list[Floats]:
        shape, size = self.layout.shape(rows, columns), self.layout.size(rows, columns)
        return [part[:size].reshape(shape) for part in buffer]

    def _reserve(self, rows: int, columns: int) -> None:
        """See to it that the spare buffer has room for so much, and for some columns to come."""
        layout = self.layout
        if self._spare.shape[1] >= layout.size(rows, columns):
            return
        ahead = max(columns, min(2 * columns + MIN_COLUMNS, layout.context))
        size = layout.size(rows, ahead)
        check_memory(
            len(layout.names) * size * 4,
            f"the cache of {rows} rows of {ahead} tokens",
            "use fewer rows (n, or prompts in one batch) or fewer tokens",
        )
        self._spare = np.empty((len(layout.names), size), np.float32)

    def _turn(self, rows: int, columns: int) -> None:
        self._past, self._spare = self._spare, self._past
        self.rows, self.columns = rows, columns

"""The memory that a cache's cells lie in, and the ways in which they move: the host's, with NumPy.

A cell is what one token of one row has in one head of one layer's keys or values. Layout
(2 * layers, rows, heads, capacity, head_size): keys at even, values at odd indices. A slice
[index, first:last] is contiguous, so any run of rows can be bound by its address, without a copy.

`device_memory.py` has the same for memory that the host can't reach.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ortgpt.inference.memory import check_memory
from ortgpt.interfaces import Ids
from ortgpt.manifest import ElementType

CellShape = tuple[int, int, int, int, int]
"""(2 * layers, rows, heads, capacity, head_size)"""


class Device(NamedTuple):
    """Where memory lies, in onnxruntime's words."""

    type: str
    id: int


HOST = Device("cpu", 0)


class Move(NamedTuple):
    """Cells begin .. end - 1 of `row` become those of `source`."""

    row: int
    source: int
    begin: int
    end: int


class CacheCells(Protocol):
    """Cells of one shape; all zero at first, so that no stray NaN can reach a masked product."""

    shape: CellShape
    nbytes: int
    dtype: np.dtype[Any]
    device: Device

    def address(self, index: int, row: int) -> int:
        """Where the cells of `row` in key or value buffer `index` begin."""

    def move(self, moves: Sequence[Move]) -> None:
        """All at once: every cell is read before the first is written, so rows may swap."""

    def pick(self, row: int, begin: int, positions: Ids) -> None:
        """The cells of `row` from `begin` on become those at `positions`, in this order."""

    def take(self, other: CacheCells, rows: slice | Ids, used: int, first: int = 0) -> None:
        """The first `used` cells of the rows from `first` on become those of `rows` of other cells."""

    def copy(self, other: CacheCells, sources: Ids, targets: slice | Ids) -> None:
        """The cells at `targets` become those at `sources` of other cells, in every key and value buffer.

        Both count the cells of a buffer, one after the other.
        """


class CacheMemory(Protocol):
    """Gives cells. copies_inputs: a bound input is copied when it is bound, not when the graph runs."""

    copies_inputs: bool

    def allocate(self, shape: CellShape, element_type: ElementType) -> CacheCells:
        """Raises ProviderError when there is not enough memory."""


class HostCells:
    """Cells in one array."""

    device = HOST

    def __init__(self, shape: CellShape, element_type: ElementType) -> None:
        # Zeros, not empty: untouched pages cost nothing.
        self.array: NDArray[np.floating[Any]] = np.zeros(shape, np.dtype(element_type))
        self.shape, self.nbytes, self.dtype = shape, int(self.array.nbytes), self.array.dtype
        self._address, (self._index_step, self._row_step) = self.array.ctypes.data, self.array.strides[:2]

    def address(self, index: int, row: int) -> int:
        return self._address + index * self._index_step + row * self._row_step

    def move(self, moves: Sequence[Move]) -> None:
        parts = [self.array[:, source, :, begin:end].copy() for _, source, begin, end in moves]
        for (row, _, begin, end), cells in zip(moves, parts, strict=True):
            self.array[:, row, :, begin:end] = cells

    def pick(self, row: int, begin: int, positions: Ids) -> None:
        kept = self.array[:, row][:, :, positions]  # (2 * layers, heads, kept, head_size), a copy
        self.array[:, row, :, begin : begin + len(positions)] = kept

    def take(self, other: CacheCells, rows: slice | Ids, used: int, first: int = 0) -> None:
        assert isinstance(other, HostCells)  # a cache has one kind of memory
        count = len(range(other.shape[1])[rows]) if isinstance(rows, slice) else len(rows)
        for index in range(self.shape[0]):  # layer by layer: no second copy of the whole
            self.array[index, first : first + count, :, :used] = other.array[index, rows, :, :used]

    def copy(self, other: CacheCells, sources: Ids, targets: slice | Ids) -> None:
        assert isinstance(other, HostCells)
        flat = (-1, self.shape[4])
        for own, source in zip(self.array, other.array, strict=True):
            if isinstance(targets, slice):
                # Sources are never out of range; "clip" is what makes NumPy write to `out` directly.
                np.take(source.reshape(flat), sources, axis=0, out=own.reshape(flat)[targets], mode="clip")
            else:
                own.reshape(flat)[targets] = source.reshape(flat)[sources]


class HostMemory:
    """The process's own memory."""

    copies_inputs = False

    def allocate(self, shape: CellShape, element_type: ElementType) -> HostCells:
        check_memory(
            math.prod(shape) * np.dtype(element_type).itemsize,
            cache_size(shape),
            FEWER_ROWS,
        )
        return HostCells(shape, element_type)


FEWER_ROWS = "use fewer rows (n, or prompts in one batch) or fewer tokens"


def cache_size(shape: CellShape) -> str:
    """What is to be allocated, in words."""
    return f"the cache of {shape[1]} rows of {shape[3]} tokens"

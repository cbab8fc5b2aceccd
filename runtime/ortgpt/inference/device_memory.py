"""A cache's cells in a device's memory, moved there by a small graph: nothing of them comes to the host.

With the device "cpu" it works on the host's memory in the very same way, which is how it is tested.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from ortgpt.inference.cache_memory import FEWER_ROWS, CacheCells, CellShape, Device, Move, cache_size
from ortgpt.inference.move_graph import OUTPUT
from ortgpt.interfaces import Ids
from ortgpt.manifest import ElementType

# Cells on their way take memory a second time, and their indices some more.
MOVED_AT_ONCE = 64 << 20  # bytes


class DeviceEngine(Protocol):
    """What is needed of onnxruntime: memory of a device, and the graph of move_graph.py on it."""

    device: Device

    def zeros(self, shape: tuple[int, ...], what: str, hint: str) -> Any:
        """An OrtValue of float32; raises ProviderError about `what` when there is not enough memory."""

    def binding(self) -> Any:
        """A new IO binding of the graph."""

    def run(self, binding: Any) -> None:
        """Run it, to the end."""


class DeviceMemory:
    """Memory of one device, for all decoders of a session."""

    copies_inputs = True

    def __init__(self, engine: DeviceEngine) -> None:
        self._engine = engine

    def allocate(self, shape: CellShape, element_type: ElementType) -> DeviceCells:
        # No estimate beforehand: what onnxruntime's allocator keeps for reuse looks taken from outside.
        return DeviceCells(shape, element_type, self._engine)


class DeviceCells:
    """Cells behind an address."""

    def __init__(self, shape: CellShape, element_type: ElementType, engine: DeviceEngine) -> None:
        indices, rows, heads, capacity, head_size = self.shape = shape
        self._engine, self.device, self.dtype = engine, engine.device, np.dtype(element_type)
        self.nbytes = math.prod(shape) * self.dtype.itemsize
        self._width = head_size * self.dtype.itemsize // 4  # of a cell, in float32
        self._value = self._address = None
        if self.nbytes:
            size = (math.prod(shape[:4]), self._width)
            self._value = engine.zeros(size, cache_size(shape), FEWER_ROWS)
            self._address = self._value.data_ptr()
        self._row_step = heads * capacity * head_size * self.dtype.itemsize
        self._index_step = rows * self._row_step
        # (2 * layers, heads): the first cell of every head in row 0
        self._planes = np.add.outer(
            np.arange(indices) * rows * heads * capacity, np.arange(heads) * capacity
        ).reshape(-1, 1, 1)
        self._num_cells = rows * heads * capacity  # of a buffer
        self._buffers = (np.arange(indices) * self._num_cells).reshape(-1, 1, 1)  # each one's first cell

    def address(self, index: int, row: int) -> int:
        return (self._address or 0) + index * self._index_step + row * self._row_step

    def move(self, moves: Sequence[Move]) -> None:
        if moves:
            sources, targets = zip(
                *(
                    (
                        self._places([source], np.arange(begin, end)),
                        self._places([row], np.arange(begin, end)),
                    )
                    for row, source, begin, end in moves
                ),
                strict=True,
            )
            self._copy(self, np.concatenate(sources), np.concatenate(targets))

    def pick(self, row: int, begin: int, positions: Ids) -> None:
        end = begin + len(positions)
        self._copy(self, self._places([row], positions), self._places([row], np.arange(begin, end)))

    def take(self, other: CacheCells, rows: slice | Ids, used: int, first: int = 0) -> None:
        assert isinstance(other, DeviceCells)  # a cache has one kind of memory
        taken = np.arange(other.shape[1])[rows]
        places, targets = np.arange(used), np.arange(first, first + len(taken))
        self._copy(other, other._places(taken, places), self._places(targets, places))

    def copy(self, other: CacheCells, sources: Ids, targets: slice | Ids) -> None:
        assert isinstance(other, DeviceCells)
        places = np.arange(self._num_cells)[targets]
        self._copy(other, sources, places, (other._buffers, self._buffers))

    def _places(self, rows: Sequence[int] | Ids, positions: Ids) -> Ids:
        """Where the cells of rows x positions are within a plane, one after the other."""
        _, _, heads, capacity, _ = self.shape
        places: Ids = np.add.outer(np.asarray(rows) * heads * capacity, positions).ravel()
        return places

    def _copy(
        self, other: DeviceCells, sources: Ids, targets: Ids, planes: tuple[Ids, Ids] | None = None
    ) -> None:
        """In every plane the cells at `targets` become those of other cells at `sources`.

        planes: where the other's and its own begin; None: those of every head
        """
        if not len(targets):
            return
        other_planes, own_planes = planes or (other._planes, self._planes)
        for portion in self._portions(len(own_planes), len(targets)):
            binding = self._engine.binding()
            numbers = {
                "source_planes": other_planes[portion],
                "source_cells": sources.reshape(1, -1, 1),
                "target_planes": own_planes[portion],
                "target_cells": targets.reshape(1, -1, 1),
            }
            for name, array in numbers.items():
                binding.bind_cpu_input(name, array)
            for name, cells in (("source", other), ("target", self)):
                binding.bind_input(name, *cells._whole())
            binding.bind_output(OUTPUT, *self._whole())
            self._engine.run(binding)

    def _portions(self, num_planes: int, moved: int) -> Iterator[slice]:
        """Slices of the planes, as many at a time as fit into MOVED_AT_ONCE."""
        step = max(1, MOVED_AT_ONCE // (moved * self._width * 4))
        for begin in range(0, num_planes, step):
            yield slice(begin, begin + step)

    def _whole(self) -> tuple[str, int, Any, tuple[int, int], int | None]:
        """All cells as a binding wants them: device, element type, shape and address."""
        return (*self.device, np.float32, (math.prod(self.shape[:4]), self._width), self._address)

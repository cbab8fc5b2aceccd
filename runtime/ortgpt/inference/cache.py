"""The key-value cache: cells that the graph reads and writes in place, and who they belong to.

Rows have their own lengths; there is no padding on the left. Where the cells lie, and how they are moved
there, is the business of `cache_memory.py`.

The cache remembers which tokens its cells belong to, so that a beam which continues another one
copies only what lies behind their common beginning.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ortgpt.inference.cache_memory import CacheCells, CacheMemory, HostMemory, Move
from ortgpt.interfaces import Ids
from ortgpt.manifest import Architecture, ElementType

MIN_CAPACITY = 64
# A prefill of 1 (mod 128) tokens is issued one wider (see plan.py): the spare needs a place.
SPARE = 1
UNKNOWN = -1  # a cell whose token says nothing about its content: unused, or written by a sibling


class Cache:
    """Cells and lengths of `rows` rows. `generation` changes when the cells move to other memory."""

    def __init__(
        self,
        architecture: Architecture,
        rows: int,
        element_type: ElementType = "float32",
        memory: CacheMemory | None = None,
    ) -> None:
        self._architecture, self._element_type = architecture, element_type
        self._memory: CacheMemory = memory or HostMemory()
        self.lengths: Ids = np.zeros(rows, np.int64)
        self.cells = self._allocate(rows, 0)
        self._tokens: Ids = np.full((rows, 0), UNKNOWN)  # (allocated rows, capacity)
        self.generation = 0

    @property
    def num_rows(self) -> int:
        return len(self.lengths)

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(self.lengths.tolist(), default=0)

    @property
    def capacity(self) -> int:
        return self.cells.shape[3]

    @property
    def nbytes(self) -> int:
        return self.cells.nbytes

    def reserve(self, length: int) -> None:
        """Make room for `length` tokens in every row, and for more to come, up to the context."""
        self._make_room(self.cells.shape[1], length)

    def record(self, row: int, token_ids: Ids, *, siblings: bool) -> None:
        """Count the tokens that the graph has written behind a row's last one."""
        begin = int(self.lengths[row])
        end = begin + len(token_ids)
        self._tokens[row, begin:end] = UNKNOWN if siblings else token_ids
        self.lengths[row] = end

    def record_step(self, token_ids: Ids) -> None:
        """Count one token, (rows,), that the graph has written behind the last one of every row."""
        for row, (length, token_id) in enumerate(zip(self.lengths.tolist(), token_ids.tolist(), strict=True)):
            self._tokens[row, length] = token_id
            self.lengths[row] = length + 1

    def reorder(self, source_rows: Ids) -> None:
        """Row i continues from row source_rows[i]. Copies only what the row does not hold already."""
        lengths = self.lengths[source_rows]
        if len(source_rows) > self.cells.shape[1]:
            grown = self._allocate(len(source_rows), self.capacity)
            grown.take(self.cells, source_rows, int(lengths.max(initial=0)))
            self._replace(grown, self._tokens[source_rows])
        else:
            changes = self._changes(source_rows)
            self.cells.move(changes)
            # All are read before the first is written, so rows may swap.
            parts = [self._tokens[source, begin:end].copy() for _, source, begin, end in changes]
            for (row, _, begin, end), tokens in zip(changes, parts, strict=True):
                self._tokens[row, begin:end] = tokens
        self.lengths = lengths

    def _changes(self, source_rows: Ids) -> list[Move]:
        """The cells that rows must take over from their sources."""
        changes = []
        for row, source in enumerate(source_rows):
            if row == source:
                continue
            end = int(self.lengths[source])
            # Behind its own end a row may hold anything, whatever the tokens noted there say.
            shared = min(end, int(self.lengths[row])) if row < self.num_rows else 0
            own, other = self._tokens[row, :shared], self._tokens[source, :shared]
            differs = (own != other) | (own == UNKNOWN)
            # The same tokens from the first on make the same cells, whichever row computed them.
            begin = int(differs.argmax()) if differs.any() else shared
            changes.append(Move(row, int(source), begin, end))
        return changes

    def keep(self, row: int, base: int, chosen: Sequence[int]) -> None:
        """Of the tokens from position `base` on keep those at base + chosen, moved down to base."""
        if list(chosen) != list(range(len(chosen))):
            positions = base + np.asarray(chosen, np.int64)
            self.cells.pick(row, base, positions)
            self._tokens[row, base : base + len(chosen)] = self._tokens[row, positions]
        self.lengths[row] = base + len(chosen)

    def copy(self) -> Cache:
        """An independent cache with the same contents."""
        twin = Cache(self._architecture, self.num_rows, self._element_type, self._memory)
        twin._replace(twin._allocate(self.num_rows, self.capacity), self._tokens[: self.num_rows].copy())
        twin.lengths = self.lengths.copy()
        twin.cells.take(self.cells, slice(0, self.num_rows), self.longest)
        return twin

    def join(self, other: Cache) -> None:
        """Put the rows of another cache behind; it is released."""
        first, last = self.num_rows, self.num_rows + other.num_rows
        used = int(other.lengths.max(initial=0))
        self._make_room(last, used)
        self.cells.take(other.cells, slice(0, other.num_rows), used, first)
        self._tokens[first:last] = UNKNOWN
        self._tokens[first:last, :used] = other._tokens[: other.num_rows, :used]
        self.lengths = np.concatenate([self.lengths, other.lengths])
        other.release()

    def release(self) -> None:
        self.lengths = np.zeros(0, np.int64)
        self._replace(self._allocate(0, 0), np.full((0, 0), UNKNOWN))

    def _make_room(self, rows: int, length: int) -> None:
        """See to it that there are so many rows, each with places for `length` tokens and the spare."""
        allocated, capacity = self.cells.shape[1], self.capacity
        wanted = length + SPARE
        if rows <= allocated and wanted <= capacity:
            return
        if wanted > capacity:
            capacity = self._roomy(wanted)
        self._move_to(self._allocate(max(rows, allocated), capacity))

    def _roomy(self, wanted: int) -> int:
        """Places for `wanted` tokens and some to come: what is not reached takes no memory, moving time."""
        ahead = max(2 * self.capacity, wanted + max(MIN_CAPACITY, wanted // 2))
        return max(wanted, min(ahead, self._architecture.context + SPARE))

    def _allocate(self, rows: int, capacity: int) -> CacheCells:
        shape = self._architecture
        if capacity:
            capacity = max(capacity, min(shape.context + SPARE, MIN_CAPACITY))
        return self._memory.allocate(
            (2 * shape.layers, rows, shape.cache_heads, capacity, shape.cache_head_size), self._element_type
        )

    def _move_to(self, grown: CacheCells) -> None:
        grown.take(self.cells, slice(0, self.num_rows), self.longest)
        self._replace(grown, self._tokens[: self.num_rows])

    def _replace(self, cells: CacheCells, tokens: Ids) -> None:
        """Take over new cells; tokens (rows, capacity so far) says what the first of each row hold."""
        self.cells = cells
        self._tokens = np.full((cells.shape[1], cells.shape[3]), UNKNOWN)
        self._tokens[: tokens.shape[0], : tokens.shape[1]] = tokens
        self.generation += 1

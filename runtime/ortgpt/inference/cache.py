"""The key-value cache: one buffer that the graph reads and writes in place.

Layout (2 * layers, rows, heads, capacity, head_size), float32, or float16 where the graph computes in that:
keys at even, values at odd indices.
A slice [layer, first:last] is contiguous, so any run of rows can be bound without a copy. Rows
have their own lengths; there is no padding on the left.

The cache remembers which tokens its cells belong to, so that a beam which continues another one
copies only what lies behind their common beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ortgpt.inference.memory import check_memory
from ortgpt.interfaces import Ids
from ortgpt.manifest import Architecture, ElementType

MIN_CAPACITY = 64
# A prefill of 1 (mod 128) tokens is issued one wider (see plan.py): the spare needs a place.
SPARE = 1
UNKNOWN = -1  # a cell whose token says nothing about its content: unused, or written by a sibling

Cells = NDArray[np.floating[Any]]


class Cache:
    """Buffers and lengths of `rows` rows. `generation` changes when the buffer moves."""

    def __init__(self, architecture: Architecture, rows: int, element_type: ElementType = "float32") -> None:
        self._architecture, self._element_type = architecture, element_type
        self.lengths: Ids = np.zeros(rows, np.int64)
        self.buffer = self._allocate(rows, 0)
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
        return int(self.buffer.shape[3])

    @property
    def nbytes(self) -> int:
        return int(self.buffer.nbytes)

    def layer_slice(self, index: int, first: int, last: int) -> Cells:
        """(last - first, heads, capacity, head_size), contiguous, of key or value buffer `index`."""
        view: Cells = self.buffer[index, first:last]
        return view

    def reserve(self, length: int) -> None:
        """Make room for `length` tokens in every row, and for more to come, up to the context."""
        self._make_room(self.buffer.shape[1], length)

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
        if len(source_rows) > self.buffer.shape[1]:
            grown = self._allocate(len(source_rows), self.capacity)
            used = int(lengths.max(initial=0))
            for index in range(len(self.buffer)):  # layer by layer: no second copy of the whole
                grown[index, :, :, :used] = self.buffer[index, source_rows, :, :used]
            self._replace(grown, self._tokens[source_rows])
        else:
            changes = self._changes(source_rows)
            # All are read before the first is written, so rows may swap.
            parts = [
                (self.buffer[:, s, :, a:b].copy(), self._tokens[s, a:b].copy()) for _, s, a, b in changes
            ]
            for (row, _, begin, end), (cells, tokens) in zip(changes, parts, strict=True):
                self.buffer[:, row, :, begin:end] = cells
                self._tokens[row, begin:end] = tokens
        self.lengths = lengths

    def _changes(self, source_rows: Ids) -> list[tuple[int, int, int, int]]:
        """(row, source, begin, end): the cells that row must take over from source."""
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
            changes.append((row, int(source), begin, end))
        return changes

    def keep(self, row: int, base: int, chosen: Sequence[int]) -> None:
        """Of the tokens from position `base` on keep those at base + chosen, moved down to base."""
        if list(chosen) != list(range(len(chosen))):
            positions = base + np.asarray(chosen, np.int64)
            kept = self.buffer[:, row][:, :, positions]  # (2 * layers, heads, kept, head_size), a copy
            self.buffer[:, row, :, base : base + len(chosen)] = kept
            self._tokens[row, base : base + len(chosen)] = self._tokens[row, positions]
        self.lengths[row] = base + len(chosen)

    def copy(self) -> Cache:
        """An independent cache with the same contents."""
        twin = Cache(self._architecture, self.num_rows, self._element_type)
        twin._replace(twin._allocate(self.num_rows, self.capacity), self._tokens[: self.num_rows].copy())
        twin.lengths = self.lengths.copy()
        used = self.longest
        twin.buffer[:, :, :, :used] = self.buffer[:, : self.num_rows, :, :used]
        return twin

    def join(self, other: Cache) -> None:
        """Put the rows of another cache behind; it is released."""
        first, last = self.num_rows, self.num_rows + other.num_rows
        used = int(other.lengths.max(initial=0))
        self._make_room(last, used)
        self.buffer[:, first:last, :, :used] = other.buffer[:, : other.num_rows, :, :used]
        self._tokens[first:last] = UNKNOWN
        self._tokens[first:last, :used] = other._tokens[: other.num_rows, :used]
        self.lengths = np.concatenate([self.lengths, other.lengths])
        other.release()

    def release(self) -> None:
        self.lengths = np.zeros(0, np.int64)
        self._replace(self._allocate(0, 0), np.full((0, 0), UNKNOWN))

    def _make_room(self, rows: int, length: int) -> None:
        """See to it that there are so many rows, each with places for `length` tokens and the spare."""
        allocated, capacity = self.buffer.shape[1], self.capacity
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

    def _allocate(self, rows: int, capacity: int) -> Cells:
        shape, kind = self._architecture, np.dtype(self._element_type)
        if capacity:
            capacity = max(capacity, min(shape.context + SPARE, MIN_CAPACITY))
        check_memory(
            rows * capacity * shape.cache_bytes_per_token(kind.itemsize),
            f"the cache of {rows} rows of {capacity} tokens",
            "use fewer rows (n, or prompts in one batch) or fewer tokens",
        )
        # Zeros, not empty: untouched pages cost nothing, and no stray NaN can reach a masked product.
        return np.zeros((2 * shape.layers, rows, shape.cache_heads, capacity, shape.cache_head_size), kind)

    def _move_to(self, grown: Cells) -> None:
        used = self.longest
        rows = self.num_rows
        grown[:, :rows, :, :used] = self.buffer[:, :rows, :, :used]
        self._replace(grown, self._tokens[:rows])

    def _replace(self, buffer: Cells, tokens: Ids) -> None:
        """Take over a new buffer; tokens (rows, capacity so far) says what its first cells hold."""
        self.buffer = buffer
        self._tokens = np.full((buffer.shape[1], buffer.shape[3]), UNKNOWN)
        self._tokens[: tokens.shape[0], : tokens.shape[1]] = tokens
        self.generation += 1

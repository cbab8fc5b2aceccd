"""One call shape of the fused graph, with its arrays bound once and refilled in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ortgpt.graph_contract import cache_names, has_shared_rows
from ortgpt.inference.cache import Cache
from ortgpt.inference.plan import Call
from ortgpt.inference.session import Session
from ortgpt.interfaces import Floats, Ids
from ortgpt.manifest import Manifest

# Added to attention scores to hide a position: far below any score, far from overflow.
HIDDEN = np.float32(-1e30)

StepKey = tuple[int, int, int, int, int, bool]
"""(generation of the cache's cells, first row, last row + 1, width, outputs, with hidden states)"""


class BoundStep:
    """What a run needs besides the weights; a decode loop keeps using one.

    Logits and hidden states come into host memory, wherever the graph runs.
    """

    def __init__(self, key: StepKey, session: Session, manifest: Manifest, cache: Cache) -> None:
        _, first, last, width, num_outputs, hidden = self.key = key
        self.session = session
        rows = last - first
        shape = manifest.architecture
        self.input_ids = np.zeros((rows, width), np.int64)
        self.position_ids = np.zeros((rows, width), np.int64)
        self.seqlens = np.zeros(rows, np.int32)
        self.total = np.zeros((), np.int32)
        self.output_positions = np.zeros((rows, num_outputs), np.int64)
        self.query_seqlens = np.zeros(rows, np.int32)
        self._copies_inputs = session.memory.copies_inputs
        self.has_bias = has_shared_rows(manifest.element_type)
        self.no_bias = np.zeros(width * cache.capacity * self.has_bias, np.float32)
        self.no_bias_at = self.no_bias.ctypes.data  # asking costs as much as a whole reduction
        self.logits: Floats = np.empty((rows, num_outputs, shape.vocab_size), np.float32)
        self.hidden: Floats | None = np.empty((rows, width, shape.width), np.float32) if hidden else None
        self.last_position = shape.context - 1
        self.offsets = np.arange(width)
        self._call: Call | None = None  # the one whose constant numbers the arrays hold
        self.binding: Any = session.binding()
        self._bind(first, last, shape.layers, manifest.ragged_widths, cache)

    def _bind(self, first: int, last: int, layers: int, ragged: bool, cache: Cache) -> None:
        bind_input, bind_output = self.binding.bind_input, self.binding.bind_output
        self._numbers: dict[str, np.ndarray[Any, Any]] = {
            "input_ids": self.input_ids,
            "position_ids": self.position_ids,
            "seqlens_k": self.seqlens,
            "total_sequence_length": self.total,
            "output_positions": self.output_positions,
        }
        if ragged:
            self._numbers["query_seqlens"] = self.query_seqlens
        self._bind_numbers()
        _bind(bind_output, "logits", self.logits, self.logits.shape)
        if self.hidden is not None:
            _bind(bind_output, "hidden_states", self.hidden, self.hidden.shape)
        self._cells = cells = cache.cells  # keeps the bound memory alive
        _, _, heads, capacity, head_size = cells.shape
        place = (*cells.device, cells.dtype.type, (last - first, heads, capacity, head_size))
        for layer in range(layers):
            for kind, (past, present) in enumerate(cache_names(layer)):
                address = cells.address(2 * layer + kind, first)
                bind_input(past, *place, address)
                bind_output(present, *place, address)

    def _bind_numbers(self) -> None:
        for name, array in self._numbers.items():
            _bind(self.binding.bind_input, name, array, array.shape)

    def fill(self, call: Call, new: Sequence[Ids] | Ids, lengths: Ids, siblings: bool) -> None:
        """Write the call's numbers into the bound arrays.

        new: for each row all of its new ids; lengths: (rows,) before the call.
        """
        if call is not self._call:
            self._fill_constants(call)
        befores = lengths.tolist()
        if call.width == 1:
            # After a run all code is cold, and to fetch NumPy's for whole arrays costs more than this loop.
            for row, before in enumerate(befores):
                self.input_ids[row, 0] = new[row][0]
                self.position_ids[row, 0] = before
                self.seqlens[row] = before
            total = max(befores) + 1
        else:
            for row, (ids, count) in enumerate(zip(new, call.counts, strict=True)):
                self.input_ids[row, :count] = ids[call.begin : call.begin + count]
            places = lengths[:, None] if siblings else lengths[:, None] + self.offsets  # (rows, width)
            # Padding and spare tokens may lie past the context; their results are thrown away.
            np.minimum(places, self.last_position, out=self.position_ids)
            self.seqlens[:] = lengths + self._issued_less_1
            total = max(self.seqlens.tolist()) + 1
        self.total[()] = total
        if self._copies_inputs:
            self._bind_numbers()
        if self.has_bias:
            self._fill_bias(call, lengths, siblings, total)

    def _fill_bias(self, call: Call, lengths: Ids, siblings: bool, total: int) -> None:
        # Its shape grows with the text, so it has to be bound anew: the graph takes no wider one.
        if siblings:
            self._bias = bias = self._sibling_bias(lengths, total)
            _bind(self.binding.bind_input, "attention_bias", bias, bias.shape)
        else:
            shape = (1, 1, call.width, total)
            self.binding.bind_input("attention_bias", "cpu", 0, np.float32, shape, self.no_bias_at)

    def _fill_constants(self, call: Call) -> None:
        """What depends on the call alone, which a decode loop gives again and again."""
        counts = np.asarray(call.counts)
        issued = counts + np.asarray(call.spares)
        self._issued_less_1 = issued - 1
        self.query_seqlens[:] = issued
        if self.output_positions.shape[1] == call.width > 1:
            self.output_positions[:] = self.offsets
        elif self.output_positions.shape[1]:
            self.output_positions[:, 0] = counts - 1
        self._call = call

    def _sibling_bias(self, lengths: Ids, total: int) -> Floats:
        """(rows, 1, width, total): sibling i of a row sees the row's past and itself."""
        columns = np.arange(total)
        own = lengths[:, None] + self.offsets  # (rows, width): each sibling's own place
        seen = (columns < lengths[:, None, None]) | (columns == own[:, :, None])  # (rows, width, total)
        return np.where(seen, np.float32(0), HIDDEN)[:, None]


def _bind(bind: Any, name: str, array: np.ndarray[Any, Any], shape: tuple[int, ...]) -> None:
    """Bind host memory without a copy; `shape` may be a leading part of a larger array."""
    bind(name, "cpu", 0, array.dtype.type, shape, array.ctypes.data)

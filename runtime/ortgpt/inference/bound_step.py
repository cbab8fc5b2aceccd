"""One call shape of the fused graph, with its arrays bound once and refilled in place."""

from __future__ import annotations

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
"""(generation of the cache's buffer, first row, last row + 1, width, outputs, with hidden states)"""


class BoundStep:
    """What a run needs besides the weights; a decode loop keeps using one."""

    def __init__(self, key: StepKey, session: Session, manifest: Manifest, cache: Cache) -> None:
        _, first, last, width, num_outputs, hidden = self.key = key
        rows = last - first
        shape = manifest.architecture
        self.input_ids = np.zeros((rows, width), np.int64)
        self.position_ids = np.zeros((rows, width), np.int64)
        self.seqlens = np.zeros(rows, np.int32)
        self.total = np.zeros((), np.int32)
        self.output_positions = np.zeros((rows, num_outputs), np.int64)
        self.query_seqlens = np.zeros(rows, np.int32)
        self.has_bias = has_shared_rows(manifest.element_type)
        self.no_bias = np.zeros(width * cache.capacity * self.has_bias, np.float32)
        self.logits: Floats = np.empty((rows, num_outputs, shape.vocab_size), np.float32)
        self.hidden: Floats | None = np.empty((rows, width, shape.width), np.float32) if hidden else None
        self.last_position = shape.context - 1
        self.binding: Any = session.binding()
        self._bind(first, last, shape.layers, manifest.ragged_widths, cache)

    def _bind(self, first: int, last: int, layers: int, ragged: bool, cache: Cache) -> None:
        bind_input, bind_output = self.binding.bind_input, self.binding.bind_output
        for name, array in (
            ("input_ids", self.input_ids),
            ("position_ids", self.position_ids),
            ("seqlens_k", self.seqlens),
            ("total_sequence_length", self.total),
            ("output_positions", self.output_positions),
        ):
            _bind(bind_input, name, array, array.shape)
        if ragged:
            _bind(bind_input, "query_seqlens", self.query_seqlens, self.query_seqlens.shape)
        _bind(bind_output, "logits", self.logits, self.logits.shape)
        if self.hidden is not None:
            _bind(bind_output, "hidden_states", self.hidden, self.hidden.shape)
        self._buffers = cache.buffer  # keeps the bound memory alive
        for layer in range(layers):
            for kind, (past, present) in enumerate(cache_names(layer)):
                view = cache.layer_slice(2 * layer + kind, first, last)
                _bind(bind_input, past, view, view.shape)
                _bind(bind_output, present, view, view.shape)

    def fill(self, call: Call, new: list[Ids], lengths: Ids, siblings: bool) -> None:
        """Write the call's numbers into the bound arrays. lengths: (rows,) before the call."""
        counts = np.asarray(call.counts)
        issued = counts + np.asarray(call.spares)
        for row, ids in enumerate(new):
            self.input_ids[row, : counts[row]] = ids[call.begin : call.begin + counts[row]]
        offsets = np.arange(call.width)
        places = lengths[:, None] if siblings else lengths[:, None] + offsets  # (rows, width)
        # Padding and spare tokens may lie past the context; their results are thrown away.
        np.minimum(places, self.last_position, out=self.position_ids)
        after = lengths + issued
        total = int(after.max())
        self.seqlens[:] = after - 1
        self.total[()] = total
        self.query_seqlens[:] = issued
        if self.output_positions.shape[1] == call.width > 1:
            self.output_positions[:] = offsets
        elif self.output_positions.shape[1]:
            self.output_positions[:, 0] = counts - 1
        if not self.has_bias:
            return
        bias = self._sibling_bias(lengths, call.width, total) if siblings else self.no_bias
        self._bias = bias
        shape = bias.shape if siblings else (1, 1, call.width, total)
        _bind(self.binding.bind_input, "attention_bias", bias, shape)

    def _sibling_bias(self, lengths: Ids, width: int, total: int) -> Floats:
        """(rows, 1, width, total): sibling i of a row sees the row's past and itself."""
        columns = np.arange(total)
        own = lengths[:, None] + np.arange(width)  # (rows, width): each sibling's own place
        seen = (columns < lengths[:, None, None]) | (columns == own[:, :, None])  # (rows, width, total)
        return np.where(seen, np.float32(0), HIDDEN)[:, None]


def _bind(bind: Any, name: str, array: np.ndarray[Any, Any], shape: tuple[int, ...]) -> None:
    """Bind host memory without a copy; `shape` may be a leading part of a larger array."""
    bind(name, "cpu", 0, array.dtype.type, shape, array.ctypes.data)

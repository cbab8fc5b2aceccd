"""Runs of a portable graph, with everything bound that it reads and writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ortgpt.inference.grown_cache import GAP, GrownCache
from ortgpt.inference.session import Session
from ortgpt.interfaces import Floats, Ids, Outputs
from ortgpt.manifest import Manifest, PortableGraph

Tokens = Sequence[Ids] | Ids


class PortableStep:
    """What a decoder's runs need besides the cache."""

    def __init__(self, session: Session, manifest: Manifest, graph: PortableGraph) -> None:
        self._session, self._shape, self._graph = session, manifest.architecture, graph
        self._kind = np.dtype(graph.ids_type)
        self._bindings: dict[bool, Any] = {}  # with and without hidden states
        self._inputs: dict[str, NDArray[Any]] = {}  # keeps the bound memory alive
        self._logits: Floats = np.empty((0, 0, 0), np.float32)
        self._hidden: Floats = np.empty((0, 0, 0), np.float32)

    def run(
        self, cache: GrownCache, new: Tokens, begin: int, counts: Sequence[int], width: int, *, hidden: bool
    ) -> Outputs:
        """Bring tokens begin .. begin + counts[i] - 1 of new[i] onto row i, padded to `width`.

        Returns logits (rows, width, vocab) and, if asked for, hidden states (rows, width, n_embd); buffers
        that the next run may reuse.
        """
        binding = self._binding(hidden)
        grown = cache.grown(new, begin, counts, width)
        self._fill(binding, cache, new, grown, counts)
        self._bind_outputs(binding, cache.num_rows, width, hidden)
        cache.cells.bind(binding, width)
        self._session.run(binding)
        cache.cells.accept(width)
        cache.record(grown, counts)
        return Outputs(self._logits, self._hidden if hidden else None)

    def release(self) -> None:
        self._bindings.clear()
        self._inputs.clear()
        self._logits = self._hidden = np.empty((0, 0, 0), np.float32)

    def _binding(self, hidden: bool) -> Any:
        if hidden not in self._bindings:
            self._bindings[hidden] = self._session.binding()
        return self._bindings[hidden]

    def _fill(self, binding: Any, cache: GrownCache, new: Tokens, grown: Ids, counts: Sequence[int]) -> None:
        columns, kind = cache.columns, self._kind
        ids = grown[:, columns:].astype(kind)
        rows, width = ids.shape
        positions = np.empty((rows, width), kind)
        for row, length in enumerate(cache.lengths.tolist()):
            if width == 1:  # after a run all code is cold, and NumPy's costs more than this
                positions[row, 0] = length
            else:
                positions[row] = range(length, length + width)
        if min(counts) < width:
            np.minimum(positions, self._shape.context - 1, out=positions)  # padding may lie past the context
            for row, count in enumerate(counts):
                # It is never seen; with a token of its own row it brings in no NaN that is not there already.
                ids[row, count:] = new[row][-1]
        self._bind_input(binding, "input_ids", ids)
        if self._graph.attention_mask:
            self._bind_input(binding, "attention_mask", (grown != GAP).astype(kind))
        if self._graph.position_ids:
            self._bind_input(binding, "position_ids", positions)
        if self._graph.cache_branch:
            self._bind_input(binding, "use_cache_branch", np.array([columns > 0]))

    def _bind_input(self, binding: Any, name: str, array: NDArray[Any]) -> None:
        self._inputs[name] = array
        binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

    def _bind_outputs(self, binding: Any, rows: int, width: int, hidden: bool) -> None:
        wanted = (rows, width, self._shape.vocab_size)
        if self._logits.shape != wanted:
            self._logits = np.empty(wanted, np.float32)
        binding.bind_output("logits", "cpu", 0, np.float32, wanted, self._logits.ctypes.data)
        if hidden:
            wanted = (rows, width, self._shape.width)
            if self._hidden.shape != wanted:
                self._hidden = np.empty(wanted, np.float32)
            binding.bind_output("hidden_states", "cpu", 0, np.float32, wanted, self._hidden.ctypes.data)

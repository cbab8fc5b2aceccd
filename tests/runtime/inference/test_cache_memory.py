"""Cells of the host: how much of its memory a cache may take, and what it takes."""

from __future__ import annotations

import numpy as np
import pytest
from cache_shapes import SHAPE

from ortgpt.errors import ProviderError
from ortgpt.inference.cache import Cache
from ortgpt.inference.cache_memory import HostCells, HostMemory


def filled(rows: int, length: int) -> Cache:
    cache = Cache(SHAPE, rows)
    cache.reserve(length)
    for row in range(rows):
        cache.record(row, np.arange(length), siblings=False)
    return cache


def test_a_cache_that_does_not_fit_is_refused_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """FAULTS 72"""
    monkeypatch.setattr("ortgpt.inference.memory.available_bytes", lambda: 1_000)
    with pytest.raises(ProviderError, match=r"needs .* MB, .* MB are available") as caught:
        filled(1, 5)
    assert "fewer rows" in str(caught.value.hint)


def test_joining_needs_memory_only_where_the_cells_move(monkeypatch: pytest.MonkeyPatch) -> None:
    """FAULTS 72"""
    cache, small, large = filled(2, 30), filled(1, 10), filled(1, 100)
    cache.reorder(np.array([0]))
    monkeypatch.setattr("ortgpt.inference.memory.available_bytes", lambda: 1_000)
    cache.join(small)
    with pytest.raises(ProviderError, match="the cache of 3 rows"):
        cache.join(large)


@pytest.mark.parametrize("element_type", ["float32", "float16"])
def test_addresses_are_those_of_the_array(element_type) -> None:
    cells = HostMemory().allocate((4, 3, 2, 5, 8), element_type)
    assert isinstance(cells, HostCells)
    assert cells.nbytes == cells.array.nbytes
    for index in range(4):
        for row in range(3):
            assert cells.address(index, row) == cells.array[index, row].ctypes.data

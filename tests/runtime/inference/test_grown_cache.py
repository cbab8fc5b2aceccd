"""The cells of a grown cache against plain arrays, on the host and on a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cache_shapes import SHAPE
from device_stand_in import as_array, stand_in_memory

from ortgpt.inference.cache_memory import CacheMemory, HostCells, HostMemory
from ortgpt.inference.cells import CellLayout, Cells
from ortgpt.inference.grown_cache import GAP, GrownCache
from ortgpt.manifest import PortableGraph

MEMORIES: dict[str, Callable[[], CacheMemory]] = {"host": HostMemory, "device": stand_in_memory}


def make_layout(cache: str) -> CellLayout:
    graph = PortableGraph(
        file="model.onnx",
        data_files=(),
        cache=cache,  # type: ignore[arg-type]
        ids_type="int64",
        attention_mask=True,
        position_ids=True,
        cache_branch=False,
        hidden_states=False,
    )
    return CellLayout.of(SHAPE, graph)


@pytest.fixture(params=["pairs", "stacked"])
def layout(request: pytest.FixtureRequest) -> CellLayout:
    return make_layout(request.param)


@pytest.fixture(params=MEMORIES)
def cache(request: pytest.FixtureRequest, layout: CellLayout) -> GrownCache:
    return GrownCache(Cells(layout, MEMORIES[request.param](), 3), np.zeros((3, 0), np.int64))


class NoBinding:
    """Binds nothing: the run is done by hand."""

    def bind_input(self, *_: Any) -> None: ...
    def bind_output(self, *_: Any) -> None: ...


def run(cache: GrownCache, counts: list[int], new: list[np.ndarray] | None = None) -> None:
    """What a graph does: past and new cells, of a value that its row's tokens so far decide."""
    width, layout, cells = max(counts), cache.cells.layout, cache.cells
    rng = np.random.default_rng(cache.columns)
    new = new or [rng.integers(0, 3, count) for count in counts]
    past = tensors(cache)
    grown = cache.grown(new, 0, counts, width)
    cells.bind(NoBinding(), width)
    shape = layout.shape(cells.rows, cells.columns + width)
    size = int(np.prod(shape)) // layout.head_size
    for index, (old, buffer) in enumerate(zip(past, as_array(cells._spare), strict=True)):
        present = np.empty(shape, np.float32)
        present[..., : cells.columns, :] = old
        present[..., cells.columns :, :] = np.nan
        for row, count in enumerate(counts):
            for place in range(count):
                column = cells.columns + place
                present[..., row, :, column, :] = value_of(grown[row, : column + 1], index)
        buffer.reshape(-1, layout.head_size)[:size] = present.reshape(-1, layout.head_size)
    cells.accept(width)
    cache.record(grown, counts)


def value_of(tokens: np.ndarray, index: int) -> float:
    """A number for a cell of tensor `index` behind these columns: by the tokens alone."""
    held = tokens[tokens != GAP].tolist()
    return float(hash((index, *held)) % 10007)


def tensors(cache: GrownCache) -> list[np.ndarray]:
    layout, cells = cache.cells.layout, cache.cells
    shape = layout.shape(cells.rows, cells.columns)
    size = int(np.prod(shape)) // layout.head_size
    found = as_array(cells._past)
    return [part.reshape(-1, layout.head_size)[:size].reshape(shape).copy() for part in found]


def check(cache: GrownCache, histories: list[list[int]]) -> None:
    """Every row's tokens lie in its cells, in their order; what is trimmed is nowhere."""
    assert cache.lengths.tolist() == [len(history) for history in histories]
    found = tensors(cache)
    for row, history in enumerate(histories):
        columns = np.flatnonzero(cache.tokens[row] != GAP)
        assert cache.tokens[row, columns].tolist() == history
        for index, tensor in enumerate(found):
            for place, column in enumerate(columns):
                expected = value_of(np.array(history[: place + 1]), index)
                assert (tensor[..., row, :, column, :] == expected).all()


def held(cache: GrownCache) -> list[list[int]]:
    return [row[row != GAP].tolist() for row in cache.tokens]


@pytest.mark.parametrize("seed", range(4))
def test_rows_keep_their_cells_whatever_is_done(cache: GrownCache, seed: int) -> None:
    rng = np.random.default_rng(seed)
    run(cache, [4, 7, 2])
    for _ in range(12):
        histories = held(cache)
        match rng.integers(4):
            case 0:
                run(cache, rng.integers(1, 4, cache.num_rows).tolist())
                histories = held(cache)
            case 1:
                rows = rng.integers(0, cache.num_rows, rng.integers(1, 5))
                cache.take(rows)
                histories = [histories[row] for row in rows]
            case 2:
                lengths = np.array(
                    [rng.integers(len(history) // 2, len(history) + 1) for history in histories]
                )
                cache.trim(lengths)
                histories = [history[:n] for history, n in zip(histories, lengths, strict=True)]
            case 3:
                cache.pack()
                assert cache.columns == max(map(len, histories))
        check(cache, histories)


def test_trimmed_cells_are_zero(cache: GrownCache) -> None:
    run(cache, [4, 7, 2])
    cache.trim(np.array([1, 7, 2]))
    for tensor in tensors(cache):
        assert (tensor[..., 0, :, 1:, :] == 0).all()  # the padding, which was NaN, as well
        assert np.isnan(tensor[..., 2, :, 2:, :]).all()  # another row's


def test_a_row_that_goes_on_from_another_copies_what_it_lacks(layout: CellLayout, monkeypatch: Any) -> None:
    cache = GrownCache(Cells(layout, HostMemory(), 1), np.zeros((1, 0), np.int64))
    run(cache, [50])
    cache.take(np.array([0, 0, 0]))
    run(cache, [2, 2, 2])
    histories = held(cache)
    copied, copy = [], HostCells.copy
    monkeypatch.setattr(
        HostCells,
        "copy",
        lambda cells, other, sources, targets: (
            copied.append(len(sources)),
            copy(cells, other, sources, targets),
        ),
    )
    cache.take(np.array([1, 1, 2]))
    check(cache, [histories[1], histories[1], histories[2]])
    assert sum(copied) <= 2 * layout.parts * layout.heads


def test_cells_that_were_kept_in_another_order_are_no_others(layout: CellLayout) -> None:
    """They hold the same tokens as those of a row that read them in that order, and other numbers."""
    cache = GrownCache(Cells(layout, HostMemory(), 2), np.zeros((2, 0), np.int64))
    run(cache, [3, 3], [np.array([5, 6, 7]), np.array([5, 7, 6])])
    cache.keep([[1, 0], [0, 1]], [2, 2])
    cache.take(np.array([1, 1]))
    check(cache, [[5, 7, 6], [5, 7, 6]])


def test_joined_rows_with_fewer_columns_are_filled_up_with_zeros(layout: CellLayout) -> None:
    parts = [GrownCache(Cells(layout, HostMemory(), 2), np.zeros((2, 0), np.int64)) for _ in range(2)]
    run(parts[0], [3, 9])
    run(parts[1], [4, 2])
    histories = [held(part) for part in parts]
    whole = GrownCache.gathered([(parts[0], np.array([1])), (parts[1], np.array([1, 0]))])
    check(whole, [histories[0][1], histories[1][1], histories[1][0]])
    for tensor in tensors(whole):
        assert (tensor[..., 1:, :, 4:, :] == 0).all()


def test_nothing_is_allocated_until_a_buffer_is_full(layout: CellLayout, monkeypatch: Any) -> None:
    asked: list[Any] = []
    allocate = HostMemory.allocate
    monkeypatch.setattr(
        HostMemory, "allocate", lambda *arguments: (asked.append(arguments), allocate(*arguments))[1]
    )
    cache = GrownCache(Cells(layout, HostMemory(), 2), np.zeros((2, 0), np.int64))
    for _ in range(60):
        run(cache, [1, 1])
    assert len(asked) == 3  # the empty one, and two to take turns

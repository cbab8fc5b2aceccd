"""The cache's verbs against plain lists of per-row tensors, on cells of the host and of a device."""

from __future__ import annotations

import numpy as np
import pytest
from cache_shapes import SHAPE
from device_stand_in import as_array, stand_in_memory

from ortgpt.inference.cache import MIN_CAPACITY, SPARE, Cache
from ortgpt.inference.cache_memory import CacheMemory, HostMemory

MEMORIES: dict[str, CacheMemory] = {"host": HostMemory(), "device": stand_in_memory()}


@pytest.fixture(autouse=True, params=MEMORIES)
def memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the caches of a test lie."""
    monkeypatch.setattr("ortgpt.inference.cache.HostMemory", lambda: MEMORIES[request.param])


def filled(lengths: list[int], rows: int | None = None) -> Cache:
    """A cache whose every used cell tells its row and position."""
    cache = Cache(SHAPE, rows or len(lengths))
    cache.reserve(max(lengths))
    for row, length in enumerate(lengths):
        tokens = 1000 * row + np.arange(length)
        as_array(cache.cells)[:, row, :, :length] = tokens[None, None, :, None]
        cache.record(row, tokens, siblings=False)
    return cache


def contents(cache: Cache) -> list[list[int]]:
    """Every row's cells; all layers, heads and channels must agree."""
    rows = []
    for row, length in enumerate(cache.lengths):
        used = as_array(cache.cells)[:, row, :, :length]
        assert (used == used[:1, :1, :, :1]).all()
        rows.append(used[0, 0, :, 0].astype(int).tolist())
    return rows


@pytest.mark.parametrize("source", [[0, 1, 2], [2, 1, 0], [1, 2, 0], [2], [0, 0], [1, 1, 1, 2, 0], []])
def test_reorder_continues_each_row_from_its_source(source: list[int]) -> None:
    cache = filled([5, 70, 3])
    expected = [contents(cache)[row] for row in source]
    cache.reorder(np.asarray(source, np.int64))
    assert contents(cache) == expected


def cells_copied(cache: Cache, source: list[int]) -> int:
    return sum(end - begin for _, _, begin, end in cache._changes(np.asarray(source)))


def test_rows_with_a_common_beginning_copy_only_what_lies_behind_it() -> None:
    cache = filled([50])
    cache.reorder(np.array([0, 0, 0]))
    for row in range(3):
        tokens = np.array([900 + row, 7])
        as_array(cache.cells)[:, row, :, 50:52] = tokens[None, None, :, None]
        cache.record(row, tokens, siblings=False)
    expected = contents(cache)
    assert cells_copied(cache, [1, 1, 0]) == 4
    cache.reorder(np.array([1, 1, 0]))
    assert contents(cache) == [expected[1], expected[1], expected[0]]


def test_random_reorders_of_beams_leave_each_row_its_sources_cells() -> None:
    rng = np.random.default_rng(0)
    cache = filled([20, 9])
    rows = contents(cache)
    for step in range(60):
        source = rng.integers(0, len(rows), rng.integers(1, 6))
        cache.reserve(max(map(len, rows)) + 1)
        cache.reorder(source)
        rows = [list(rows[row]) for row in source]
        for row in range(len(rows)):
            token = int(rng.integers(0, 3)) + 10_000 + 10 * step  # rows often get the same token
            as_array(cache.cells)[:, row, :, len(rows[row])] = token
            cache.record(row, np.array([token]), siblings=False)
            rows[row].append(token)
        assert contents(cache) == rows


def test_cells_behind_a_rows_end_are_never_taken_for_common() -> None:
    cache = filled([10])
    cache.reorder(np.array([0, 0]))
    cache.lengths[1] = 6  # trimmed; then the graph throws a spare token's cells behind the end
    as_array(cache.cells)[:, 1, :, 6] = -1
    expected = contents(cache)
    cache.reorder(np.array([0, 0]))
    assert contents(cache) == [expected[0], expected[0]]


def test_what_siblings_wrote_is_never_taken_for_common() -> None:
    cache = filled([5, 5])
    for row in range(2):
        as_array(cache.cells)[:, row, :, 5:7] = 100 + row
        cache.record(row, np.array([7, 8]), siblings=True)
    cache.keep(0, 5, [1])
    cache.keep(1, 5, [1])
    expected = contents(cache)
    cache.reorder(np.array([1, 0]))
    assert contents(cache) == [expected[1], expected[0]]


def test_growing_keeps_what_is_stored_and_doubles() -> None:
    cache = filled([5, 60])
    before, capacity = contents(cache), cache.capacity
    cache.reserve(capacity)
    assert cache.capacity == 2 * capacity
    assert contents(cache) == before


def test_a_prompt_leaves_room_so_that_the_first_steps_move_nothing() -> None:
    for length in (1, 60, 100, 150):
        cache = filled([length])
        assert cache.capacity >= min(length + MIN_CAPACITY, SHAPE.context + SPARE)


def test_growing_by_doubling_stops_at_the_context() -> None:
    cache = filled([200])
    cache.reserve(SHAPE.context)
    assert cache.capacity == SHAPE.context + SPARE


def test_growing_announces_that_the_buffer_moved() -> None:
    cache = filled([5])
    generation = cache.generation
    cache.reserve(6)
    assert cache.generation == generation
    cache.reserve(cache.capacity)
    assert cache.generation != generation


@pytest.mark.parametrize("chosen", [[], [0], [2], [0, 1], [2, 0], [1, 2]])
def test_keep_moves_the_chosen_tokens_down(chosen: list[int]) -> None:
    cache = filled([4, 8])
    row = contents(cache)[1]
    cache.keep(1, 5, chosen)
    assert contents(cache) == [contents(cache)[0], row[:5] + [row[5 + index] for index in chosen]]


def test_a_copy_lives_on_its_own() -> None:
    cache = filled([4, 8])
    twin = cache.copy()
    before = contents(cache)
    as_array(twin.cells)[:] = -1
    twin.lengths[:] = 1
    assert contents(cache) == before


def test_release_frees_the_buffer() -> None:
    cache = filled([4, 8])
    cache.release()
    assert (cache.num_rows, cache.nbytes) == (0, 0)


@pytest.mark.parametrize("lengths", [[4], [100, 3], [10, 64, 1], []])
def test_a_cache_joins_its_rows_to_another_and_is_freed(lengths: list[int]) -> None:
    cache, other = filled([5, 40]), filled(lengths, rows=max(1, len(lengths))) if lengths else Cache(SHAPE, 0)
    expected = contents(cache) + contents(other)
    cache.join(other)
    assert contents(cache) == expected
    assert (other.num_rows, other.nbytes) == (0, 0)


def test_rows_that_have_left_make_room_for_those_that_join() -> None:
    cache = filled([30, 50, 20])
    cache.reorder(np.array([1]))
    generation, nbytes, row = cache.generation, cache.nbytes, contents(cache)
    other = filled([9, 8])
    expected = row + contents(other)
    cache.join(other)
    assert contents(cache) == expected
    assert (cache.generation, cache.nbytes) == (generation, nbytes)  # the buffer has not moved
    cache.join(filled([7]))
    assert cache.nbytes > nbytes


def test_a_row_that_joined_is_not_taken_for_what_was_in_its_place() -> None:
    cache, other = filled([30]), filled([3, 10])
    cache.reorder(np.array([0, 0]))
    cache.reorder(np.array([0]))  # the second row has left; its place still holds what the first one has
    other.reorder(np.array([1]))
    cache.join(other)
    expected = contents(cache)
    cache.reorder(np.array([1, 0]))
    assert contents(cache) == expected[::-1]

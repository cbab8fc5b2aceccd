"""Where new scores are written."""

from __future__ import annotations

import copy

import numpy as np

from ortgpt.logits.rows import RowBuffer, row_for


def test_without_a_place_a_row_is_copied_and_with_one_it_is_written_there() -> None:
    row = np.arange(4, dtype=np.float32)
    copied = row_for(row, None)
    assert not np.shares_memory(copied, row)
    np.testing.assert_array_equal(copied, row)
    place = np.zeros(4, np.float32)
    assert row_for(row, place) is place
    np.testing.assert_array_equal(place, row)
    assert row_for(row, row) is row


def test_a_buffer_is_the_same_memory_until_the_shape_changes() -> None:
    buffer = RowBuffer()
    first = buffer.like(np.zeros(4, np.float32))
    assert buffer.like(np.ones(4, np.float32)) is first
    assert buffer.like(np.ones(5, np.float32)).shape == (5,)


def test_a_copied_buffer_has_memory_of_its_own() -> None:
    buffer = RowBuffer()
    first = buffer.like(np.zeros(4, np.float32))
    assert not np.shares_memory(copy.deepcopy(buffer).like(first), first)

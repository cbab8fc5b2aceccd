"""Who begins when: in order, as soon as there are rows."""

from __future__ import annotations

import pytest

from ortgpt.schedule import Schedule


def test_prompts_begin_in_order_while_there_are_rows() -> None:
    schedule = Schedule([5, 6, 8, 9], 1, 3)
    assert schedule.admit(0) == [5, 6, 8]
    assert schedule.admit(3) == []
    assert schedule.admit(1) == [9]
    assert schedule.admit(0) == []


@pytest.mark.parametrize(
    ("in_use", "begin"),
    [(0, [0, 1]), (1, [0, 1]), (2, [0, 1]), (3, [0]), (5, [0]), (6, []), (8, []), (9, [])],
)
def test_a_prompt_of_several_rows_waits_until_all_are_free(in_use: int, begin: list[int]) -> None:
    assert Schedule(range(9), 3, 8).admit(in_use) == begin


def test_a_prompt_that_takes_more_than_there_are_runs_alone() -> None:
    schedule = Schedule([0, 1], 5, 4)
    assert schedule.admit(0) == [0]
    assert [schedule.admit(in_use) for in_use in (5, 3, 1)] == [[], [], []]
    assert schedule.admit(0) == [1]

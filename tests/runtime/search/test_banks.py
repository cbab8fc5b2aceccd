"""Beams kept by progress."""

from __future__ import annotations

from ortgpt.search.banks import choose_from_banks


def test_banks_are_visited_in_turn_beginning_with_the_furthest() -> None:
    ranked = ["a0", "b0", "c1", "d0", "e2", "f1"]  # best first; the digit is the progress
    progress = [int(name[1]) for name in ranked]
    assert choose_from_banks(ranked, progress, 4) == ["e2", "c1", "a0", "f1"]
    assert choose_from_banks(ranked, progress, 9) == ["e2", "c1", "a0", "f1", "b0", "d0"]
    assert choose_from_banks([], [], 3) == []


def test_one_bank_is_the_plain_order() -> None:
    assert choose_from_banks([3, 1, 2], [7, 7, 7], 2) == [3, 1]

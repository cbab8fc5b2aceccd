"""The account of guesses: what is spent is never more than what was allowed and saved."""

from __future__ import annotations

import numpy as np
import pytest

from ortgpt.search.draft_budget import (
    ALLOWANCE,
    DRAFT_COST,
    FIRST_CREDIT,
    FIRST_GUESSES,
    POSITION_COST,
    SAVED_DRAFTS,
    DraftBudget,
    position_cost,
)

ROOM = 1000


def rooms(budget: DraftBudget, rows: int = 1) -> list[int]:
    return budget.rooms([ROOM] * rows) if budget.has_credit else [0] * rows


def single_row_cost(length: int, drafter_cost: float = 0.0) -> float:
    """The price list, written out once more."""
    return (DRAFT_COST + length * (POSITION_COST + drafter_cost)) if length else 0.0


def test_guesses_that_are_always_wrong_cost_no_more_than_the_allowance() -> None:
    budget, spent, passes = DraftBudget(1, 8), 0.0, 3000
    for _ in range(passes):
        (length,) = rooms(budget)
        spent += single_row_cost(length)
        budget.settle([length], [0])
    assert spent <= FIRST_CREDIT + ALLOWANCE * passes
    assert spent > ALLOWANCE * passes - 1  # and they never cease: the text may change


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("rate", [0.05, 0.3, 0.7])
def test_whatever_comes_no_more_is_spent_than_was_allowed_and_saved(seed: int, rate: float) -> None:
    rng = np.random.default_rng(seed)
    budget, balance = DraftBudget(1, 16, drafter_cost=0.1), FIRST_CREDIT + FIRST_GUESSES * 0.1
    for _ in range(500):
        (length,) = rooms(budget)
        right = int(rng.geometric(1 - rate) - 1)
        balance += ALLOWANCE + min(right, length) - single_row_cost(length, 0.1)
        budget.settle([length], [min(right, length)])
        assert balance >= 0


def test_a_draft_grows_twofold_when_right_and_half_way_down_to_what_was_right() -> None:
    budget = DraftBudget(1, 8)
    seen = []
    for right in (2, 4, 8, 8, 6, 1, 0, 0, 0):
        (length,) = rooms(budget)
        seen.append(length)
        budget.settle([length], [right])
    assert seen == [2, 4, 8, 8, 8, 7, 4, 2, 1]


def test_a_draft_that_found_less_than_it_might_is_not_held_against_the_row() -> None:
    budget = DraftBudget(1, 8)
    for guessed in (2, 4, 3, 0):
        budget.settle([guessed], [guessed])
    assert rooms(budget) == [8]


def test_no_draft_is_longer_than_its_room_or_than_asked() -> None:
    assert DraftBudget(1, 1).rooms([ROOM]) == [1]
    budget = DraftBudget(3, 8)
    for _ in range(5):
        budget.settle([4, 4, 4], [4, 4, 4])
    assert budget.rooms([0, 3, ROOM]) == [0, 3, 8]
    assert budget.rooms([0, 0, 0]) == [0, 0, 0]


def test_a_draft_is_cut_to_what_can_be_paid() -> None:
    budget, credit = DraftBudget(1, 8), FIRST_CREDIT
    for right in (2, 4, 8, 8, 8):
        credit += ALLOWANCE + right - single_row_cost(right)
        budget.settle([right], [right])
    credit = min(credit, SAVED_DRAFTS * single_row_cost(8))
    seen = []
    for _ in range(12):  # seven in eight would be worth it, but not one of them is right
        (length,) = rooms(budget)
        seen.append(length)
        assert single_row_cost(length) <= credit
        assert length == 8 or single_row_cost(length + 1) > credit
        budget._lengths = [8]
        budget.settle([length], [0])
        budget._lengths = [8]
        credit += ALLOWANCE - single_row_cost(length)
    assert seen == sorted(seen, reverse=True)
    assert seen[0] == 8
    assert seen[-1] == 0


@pytest.mark.parametrize("cost", [0.05, 0.2, 0.7])
def test_a_draft_model_of_any_size_gets_a_chance(cost: float) -> None:
    budget = DraftBudget(1, 8, drafter_cost=cost)
    for _ in range(2):
        (length,) = rooms(budget)
        assert length >= 1
        budget.settle([length], [length])


def test_each_row_has_a_length_of_its_own_and_takes_it_along() -> None:
    budget = DraftBudget(3, 8)
    for _ in range(6):
        budget.settle([4, 2, 4], [4, 0, 4])
    assert budget.rooms([ROOM] * 3) == [8, 1, 8]
    budget.keep([1, 2])
    assert budget.rooms([ROOM] * 2) == [1, 8]


def test_a_saved_token_of_one_row_in_many_is_a_part_of_a_pass() -> None:
    """Eight rows of which one repeats itself: seven others are padded for it."""
    budget = DraftBudget(8, 8)
    balance = FIRST_CREDIT
    one_pass = 1 + 7 * POSITION_COST
    for _ in range(200):
        lengths = rooms(budget, 8)
        if any(lengths):
            padding = sum(length == 0 for length in lengths)
            balance -= (DRAFT_COST + POSITION_COST * (sum(lengths) + padding)) / one_pass
        right = [lengths[0]] + [0] * 7
        balance += ALLOWANCE + sum(right) / 8
        budget.settle(lengths, right)
        assert balance >= 0


def test_decoders_that_run_each_draft_on_its_own_draft_less() -> None:
    def count(ragged_widths: bool) -> int:
        budget, total = DraftBudget(4, 8, ragged_widths=ragged_widths), 0
        for _ in range(100):
            lengths = rooms(budget, 4)
            total += sum(lengths)
            budget.settle(lengths, [min(1, length) for length in lengths])
        return total

    assert count(False) < count(True) / 2


def test_a_dear_draft_model_drafts_less_and_one_that_reads_late_pays_for_it() -> None:
    def count(cost: float) -> int:
        budget, total = DraftBudget(1, 8, drafter_cost=cost), 0
        for _ in range(300):
            (length,) = rooms(budget)
            total += length
            budget.settle([length], [0])
        return total

    assert count(0.0) > count(0.1) > count(0.3) > 0


def test_credit_is_kept_for_a_few_drafts_only() -> None:
    budget, spent = DraftBudget(1, 8), 0.0
    for _ in range(100):
        budget.settle([8], [8])
    for _ in range(30):
        (length,) = rooms(budget)
        spent += single_row_cost(length)
        budget.settle([length], [0])
    assert spent <= SAVED_DRAFTS * single_row_cost(8) + 30 * ALLOWANCE


def test_rows_that_join_count_as_if_they_had_been_there() -> None:
    whole, grown = DraftBudget(5, 8), DraftBudget(2, 8)
    grown.keep([])
    grown.join(2)
    grown.join(3)
    for _ in range(40):
        lengths = rooms(whole, 5)
        assert rooms(grown, 5) == lengths
        for budget in (whole, grown):
            budget.settle(lengths, [min(row, length) for row, length in enumerate(lengths)])


def test_where_a_position_costs_more_less_is_guessed() -> None:
    for precision, cost in (("fp32", POSITION_COST), ("int8", 0.19), ("int4", 0.31)):
        assert position_cost(precision) == cost
        budget, spent = DraftBudget(1, 8, position_cost=cost), 0.0
        for _ in range(2000):
            (length,) = rooms(budget)
            spent += (DRAFT_COST + length * cost) if length else 0.0
            budget.settle([length], [0])
        assert FIRST_CREDIT + ALLOWANCE * 2000 - 1 < spent <= FIRST_CREDIT + ALLOWANCE * 2000

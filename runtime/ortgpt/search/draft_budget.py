"""How many tokens to guess, so that guessing never costs more than a few percent of the time."""

from __future__ import annotations

from collections.abc import Sequence

from ortgpt.interfaces import Ids
from ortgpt.manifest import Precision

# In passes of a single new token, measured in fp32 on 2 cores: the storyteller's first guess costs 0.36,
# each further one 0.14; at the shape of GPT-2 small it is 0.1 and 0.05. These lie near the higher: an
# estimate too high only forgoes guesses that are seldom right, one too low would cost time.
DRAFT_COST = 0.25  # of any draft, besides its positions
POSITION_COST = 0.12  # of a guessed token, and of a row more in a pass
# The fewer bytes a pass reads, the more a token weighs beside them: at GPT-2 small's shape 0.19 and 0.31.
QUANTISED_POSITION_COST: dict[Precision, float] = {"int8": 0.19, "int8-dynamic": 0.19, "int4": 0.31}
CATCH_UP_COST = 0.05  # of a token that a draft model reads late, in its passes: it reads many at once

ALLOWANCE = 0.015  # passes, earned by every pass
FIRST_CREDIT = 0.5
FIRST_GUESSES = 3  # of a draft model, that are paid for beforehand, so that it has a chance to be right
SAVED_DRAFTS = 4  # whole drafts that credit is kept for; more would end in wrong guesses later


def position_cost(precision: Precision) -> float:
    """Of a guessed token, in passes of one new token."""
    return QUANTISED_POSITION_COST.get(precision, POSITION_COST)


class DraftBudget:
    """An account for all rows of a decoder, in passes of one new token per row.

    Every pass pays in an allowance, every guess that was right the pass that it saved. A draft pays what
    it is estimated to cost, and none is made that can't be paid. So all wrong guesses together cost no
    more than the allowances and what right ones have saved. No clock is looked at: the same call makes
    the same drafts.

    The account is common because the cost is: a pass runs all rows, whichever have a draft. How long its
    drafts may be is each row's own: twice as long after one that was right throughout, half-way down to
    what was right after another.

    longest        guesses per draft at most
    drafter_cost   of one guess for every row, made by a draft model; 0 where guesses cost nothing
    position_cost  of a token more in a pass
    ragged_widths  whether the decoder runs rows with different numbers of new tokens in one pass
    """

    def __init__(
        self,
        num_rows: int,
        longest: int,
        *,
        drafter_cost: float = 0.0,
        position_cost: float = POSITION_COST,
        ragged_widths: bool = True,
    ) -> None:
        self._lengths: list[int] = []
        self._longest, self._drafter_cost, self._is_ragged = longest, drafter_cost, ragged_widths
        self._position_cost = position_cost
        self._credit = FIRST_CREDIT + FIRST_GUESSES * drafter_cost
        self._idle_passes = 0  # since the last draft: so many tokens a draft model is behind
        self._has_begun = False
        self.join(num_rows)

    @property
    def has_credit(self) -> bool:
        """False: there is no need to ask for rooms."""
        return self._credit >= self._least

    def rooms(self, limits: Sequence[int]) -> list[int]:
        """How many tokens may be guessed for each row. limits: (rows,), how many have their place."""
        wanted = [min(pair) for pair in zip(self._lengths, limits, strict=True)]
        for most in range(max(wanted), 0, -1):
            rooms = [min(room, most) for room in wanted]
            if self._cost(rooms, self._idle_passes) <= self._credit:
                return rooms
        return [0] * len(wanted)

    def settle(self, guessed: Sequence[int], right: Sequence[int]) -> None:
        """Account for a pass: how many tokens of each row were guessed in it, and how many rightly."""
        if not any(guessed):
            self._credit = min(self._credit + ALLOWANCE, self._most)
            self._idle_passes += self._has_begun  # what it reads first, the prompt, is not counted
            return
        earned = ALLOWANCE + sum(right) / len(right)
        self._credit = min(self._credit + earned - self._cost(guessed, self._idle_passes), self._most)
        self._idle_passes, self._has_begun = 0, True
        for row, (count, matched) in enumerate(zip(guessed, right, strict=True)):
            if matched < count:
                self._lengths[row] = max(1, (self._lengths[row] + matched) // 2)
            else:
                self._lengths[row] = min(max(self._lengths[row], 2 * count), self._longest)

    def keep(self, rows: Sequence[int] | Ids) -> None:
        """Row i is what row rows[i] was."""
        self._lengths = [self._lengths[row] for row in rows]
        self._set_bounds()

    def join(self, num_rows: int) -> None:
        """So many rows come behind."""
        self._lengths += [min(2, self._longest)] * num_rows
        self._set_bounds()

    def _set_bounds(self) -> None:
        """What any draft costs at least, and the most that credit may come to."""
        num_rows = len(self._lengths)
        self._least = self._cost([1] + [0] * (num_rows - 1))
        self._most = SAVED_DRAFTS * self._cost([self._longest] * num_rows)

    def _cost(self, guessed: Sequence[int], idle_passes: int = 0) -> float:
        """Of a pass with these drafts, not all empty, beyond that of a plain one; so many before had none."""
        num_rows = len(guessed)
        num_drafts = sum(count > 0 for count in guessed)
        cost = DRAFT_COST + self._position_cost * sum(guessed)
        if self._is_ragged:
            cost += self._position_cost * (num_rows - num_drafts)  # rows without one are padded
        elif num_rows > 1:
            # Each draft runs on its own, and may split the rows around it into two runs more.
            cost += 2 * num_drafts * (1 - self._position_cost)
        one_pass = 1 + self._position_cost * (num_rows - 1)
        late = CATCH_UP_COST * num_rows * idle_passes
        return (cost + self._drafter_cost * late) / one_pass + self._drafter_cost * max(guessed, default=0)

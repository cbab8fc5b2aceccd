"""Greedy and sampled decoding with guessed tokens, several of which are checked in one pass.

A guess is checked by choosing the token at its place exactly as it would be chosen without: by the same
processors and filters, with the next number of the same random generator. While the choice is what was
guessed, the logits at the next place are those of the text, and the choice there counts as well. For
guesses that are fixed beforehand this is the rule of Leviathan 2023; more than that, the text is the
one that decoding without guesses gives, up to ties that the rounding of another matrix shape decides.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np

from ortgpt.interfaces import Decoder, Floats, Going, Outputs, Step, Steps
from ortgpt.search.arrivals import extend_and_join
from ortgpt.search.draft_budget import DraftBudget
from ortgpt.search.drafts import Drafter
from ortgpt.search.sample import SampledRow, choose_tokens


@dataclass(frozen=True)
class DraftedRow(SampledRow):
    """A sequence whose tokens are guessed. max_length: tokens of prompt and output, at most."""

    max_length: int


def speculative_steps(
    decoder: Decoder, first: Outputs, rows: Sequence[DraftedRow], drafter: Drafter, budget: DraftBudget
) -> Steps[DraftedRow]:
    """Choose tokens for each row, as many as were guessed rightly and one more, then run the model on.

    decoder  holds the prompts; one row per entry of `rows`
    first    (rows, outputs, vocab) of the prompts' last tokens, at [:, -1]

    The tokens of one pass come as several steps; in the later ones rows that had fewer guessed rightly
    get none. A token behind the one that a row ends with is never chosen. As in `sample_steps`, no pass
    is wasted on a last token, and a row fails alone. Releases the drafter when it ends.
    """
    drafts: list[list[int]] = [[] for _ in rows]
    widths = [1] * len(rows)
    outputs = _column(first, places=range(len(rows)), column=-1)
    try:
        while True:
            going, right = yield from _check(rows, outputs, drafts)
            budget.settle([len(draft) for draft in drafts], right)
            if not len(going):
                return
            places = going.rows.tolist()
            if len(places) < len(rows):
                rows = [rows[place] for place in places]
                decoder.reorder(places)
                drafter.keep(places)
                budget.keep(places)
            wrong = [widths[place] - 1 - right[place] for place in places]
            if any(wrong):
                decoder.trim(decoder.lengths - wrong)
            drafts = [[] for _ in rows]
            if rows and budget.has_credit:
                drafts = drafter.propose(rows, budget.rooms(_limits(decoder, rows)))
            new = _new_tokens(decoder, rows, drafts)
            outputs = extend_and_join(decoder, new, going.arrivals, outputs="all" if any(drafts) else "last")
            if going.new_rows:  # nothing is guessed for them yet
                rows = [*rows, *going.new_rows]
                drafts = [*drafts, *([] for _ in going.new_rows)]
                drafter.join(going.new_rows)
                budget.join(len(going.new_rows))
            widths = [*map(len, new), *(1 for _ in going.new_rows)]
    finally:
        drafter.release()


def _check(
    rows: Sequence[DraftedRow], outputs: Outputs, drafts: Sequence[list[int]]
) -> Generator[Step, Going[DraftedRow], tuple[Going[DraftedRow], list[int]]]:
    """Steps for as long as some row's tokens are those guessed; only the last one ends the pass.

    outputs  (rows, outputs, vocab): at [:, i] after i tokens of each draft
    returns  what goes on, and how many guesses were right, by row
    """
    places = list(range(len(rows)))  # of the rows that still run
    right = [0] * len(rows)
    waiting: set[int] = set()  # places whose text is no longer as guessed
    column = 0
    while True:
        step = choose_tokens(
            [rows[place] for place in places],
            _column(outputs, places, column),
            waiting=[index for index, place in enumerate(places) if place in waiting],
        )
        for place, token_id in zip(places, step.token_ids.tolist(), strict=True):
            if drafts[place][column : column + 1] == [token_id]:
                right[place] += 1
            else:
                waiting.add(place)
        is_last = waiting.issuperset(places)
        going = yield step if is_last else dataclasses.replace(step, ends_pass=False)
        places = [places[index] for index in going.rows.tolist()]
        if is_last or not places:
            return Going(np.array(places, np.int64), going.arrivals), right
        column += 1


def _column(outputs: Outputs, places: Sequence[int], column: int) -> Outputs:
    """One output of each of these rows, (places, 1, vocab); no copy while all rows run."""

    def pick(array: Floats) -> Floats:
        rows: Floats = array[:, column, None]
        return rows if len(places) == len(rows) else rows[places]

    return Outputs(pick(outputs.logits), None, None if outputs.guided is None else pick(outputs.guided))


def _limits(decoder: Decoder, rows: Sequence[DraftedRow]) -> list[int]:
    """How many guesses have their place: each pass also runs a token of the text and chooses one more."""
    places = (decoder.context - 1 - decoder.lengths).tolist()
    return [
        min(place, row.max_length - len(row.history) - 1) for place, row in zip(places, rows, strict=True)
    ]


def _new_tokens(
    decoder: Decoder, rows: Sequence[SampledRow], drafts: Sequence[Sequence[int]]
) -> list[list[int]]:
    """What each row is extended by: its last token and its draft."""
    new = [[int(row.history.ids[-1]), *draft] for row, draft in zip(rows, drafts, strict=True)]
    if len(rows) > 1 and any(drafts) and decoder.capabilities.ragged_widths:
        # Rows with a single new token would take a pass of their own: a token to throw away is cheaper.
        for ids, length in zip(new, decoder.lengths, strict=True):
            if len(ids) == 1 and length + 2 <= decoder.context:
                ids.append(ids[0])
    return new

"""Filters one after the other, each on what the earlier ones have left."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ortgpt.interfaces import Floats, Ids
from ortgpt.logits.processors import Rule
from ortgpt.logits.rows import RowBuffer
from ortgpt.logits.sampling_filters import Filter, Temperature
from ortgpt.logits.survivors import Kept, Survivors
from ortgpt.numerics import DROPPED


@dataclass(frozen=True)
class FilterChain:
    """What sampling does to a row of scores; itself a processor. An empty one returns its input.

    A filter does not mind whether tokens that are out stand in its row as -inf or not at all. So the row
    gets shorter with every filter, and what is dropped costs nothing any more. It belongs to one sequence or
    search: what it returns is valid until it is called again.
    """

    filters: tuple[Filter | Rule, ...] = ()
    _row: RowBuffer = field(default_factory=RowBuffer, init=False, repr=False, compare=False)

    def narrow(self, token_ids: Ids, scores: Floats) -> Survivors:
        """The tokens that are left of a row (vocab,), at least one score of which is finite."""
        left = Survivors(None, scores).only(self._head(scores))
        for step in self.filters:
            if isinstance(step, Rule):
                # Scores that have been gathered are nobody else's.
                out = self._row.like(left.scores) if left.ids is None else left.scores
                left = Survivors(left.ids, step(token_ids, left.scores, out))
            else:
                left = left.only(step.select(left.scores))
        return left

    def _head(self, scores: Floats) -> Kept:
        """Where a temperature comes first: what the filter behind it may keep, found without dividing all."""
        match self.filters:
            case (Temperature(temperature), Filter() as first, *_):
                floor = first.floor(scores, temperature)
                return None if floor is None else np.flatnonzero(scores >= floor)
        return None

    def __call__(self, token_ids: Ids, logits: Floats, /) -> Floats:
        left = self.narrow(token_ids, logits)
        if left.ids is None:
            return left.scores
        whole = np.full_like(logits, DROPPED)
        whole[left.ids] = left.scores
        return whole

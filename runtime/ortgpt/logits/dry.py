"""DRY, "don't repeat yourself": the longer the repeat a token would continue, the less likely it gets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ortgpt.interfaces import Floats, Ids
from ortgpt.logits.penalties import LARGEST, change_scores
from ortgpt.logits.rows import row_for

Breakers = Mapping[int, Sequence[tuple[int, ...]]]
"""Sequence breakers by their first id: the ids that must follow it, none where it is one alone."""


def apply_dry(
    logits: Floats,
    token_ids: Ids,
    *,
    multiplier: float,
    base: float,
    allowed_length: int,
    breakers: Breakers,
    out: Floats | None = None,
) -> Floats:
    """Subtract multiplier * base ** (length - allowed_length) from what would continue a repeat.

    A token would continue one when it has followed, somewhere in token_ids, the same `length` ids that
    they end with; the longest counts, from allowed_length on. A repeat does not reach back over a
    breaker, and a breaker of one token is never penalised. (Weidmann 2024, as in llama.cpp.)

    logits float32 (vocab,), token_ids int64 (length,), multiplier >= 0, base >= 1, allowed_length >= 0;
    returns float32 (vocab,), in `out` if given, which may be the row itself.
    """
    limit = min(_unbroken_length(token_ids, breakers), allowed_length + _largest_power(base))
    if limit < allowed_length:
        return row_for(logits, out)
    lengths = _repeat_lengths(token_ids, limit)  # (length - 1,)
    repeats = np.flatnonzero(lengths >= allowed_length)
    ids, places = np.unique(token_ids[1:][repeats], return_inverse=True)
    longest = np.zeros(ids.size, np.int64)
    np.maximum.at(longest, places, lengths[repeats])
    is_penalised = np.array([() not in breakers.get(int(token_id), ()) for token_id in ids], bool)
    powers = (longest - allowed_length)[is_penalised].astype(np.float64)
    with np.errstate(over="ignore"):
        penalties = np.minimum(multiplier * base**powers, LARGEST)  # (penalised,)
    return change_scores(logits, ids[is_penalised], lambda old: old - penalties, out)


def _largest_power(base: float) -> int:
    """Longer repeats than this make no difference: base to this power leaves the range of float32."""
    return math.ceil(math.log(LARGEST) / math.log(base)) if base > 1 else 0


def _unbroken_length(token_ids: Ids, breakers: Breakers) -> int:
    """How many ids follow the last breaker."""
    ids: list[int] = token_ids.tolist()
    for start in range(len(ids) - 1, -1, -1):
        tails = [
            len(tail)
            for tail in breakers.get(ids[start], ())
            if tuple(ids[start + 1 : start + 1 + len(tail)]) == tuple(tail)
        ]
        if tails:
            return len(ids) - 1 - start - max(tails)
    return len(ids)


def _repeat_lengths(token_ids: Ids, limit: int) -> NDArray[np.int64]:
    """For each place 1 .. length - 1, how many ids before it are those that the row ends with.

    Counts up to the limit. Steps through the lengths, not the places: few places match for long.
    """
    backwards = token_ids[::-1]
    lengths = np.zeros(max(0, len(backwards) - 1), np.int64)
    ends = np.arange(lengths.size)  # the id before place i + 1 is token i
    for length in range(1, min(limit, lengths.size) + 1):
        ends = ends[ends >= length - 1]
        ends = ends[token_ids[ends - length + 1] == backwards[length - 1]]
        if not ends.size:
            break
        lengths[ends] = length
    return lengths

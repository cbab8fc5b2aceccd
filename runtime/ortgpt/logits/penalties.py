"""Penalties: change the scores of some ids by what has been generated, or by what the caller says.

Each takes a row and returns a new one, or writes into `out`, which may be the row itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ortgpt.interfaces import Floats, Ids
from ortgpt.logits.rows import row_for
from ortgpt.logits.sequences import find_completable

LARGEST = float(np.finfo(np.float32).max)


def apply_repetition_penalty(
    logits: Floats, token_ids: Ids, penalty: float, out: Floats | None = None
) -> Floats:
    """Make every id in `token_ids` less likely (penalty > 1) or more so (< 1), once each.

    A negative score is multiplied by the penalty, another divided (Keskar 2019, "CTRL").

    logits float32 (vocab,), token_ids int64 (length,), penalty > 0; returns float32 (vocab,).
    """
    penalty = _limited(penalty)
    return change_scores(logits, token_ids, lambda old: np.where(old < 0, old * penalty, old / penalty), out)


def apply_presence_frequency(
    logits: Floats, generated_ids: Ids, presence: float, frequency: float, out: Floats | None = None
) -> Floats:
    """Subtract from every generated id `presence` once and `frequency` per occurrence.

    logits float32 (vocab,), generated_ids int64 (length,): the output only; returns float32 (vocab,).
    """
    presence, frequency = _limited(presence), _limited(frequency)
    ids, counts = _counted(generated_ids)
    return change_scores(logits, ids, lambda old: old - counts * frequency - presence, out)


def apply_logit_bias(
    logits: Floats, ids: Ids, biases: NDArray[np.float64], out: Floats | None = None
) -> Floats:
    """Add biases[i] to the score of ids[i]; -inf excludes it. The ids are distinct.

    logits float32 (vocab,), ids int64 (n,), biases float64 (n,); returns float32 (vocab,).
    """
    return change_scores(logits, ids, lambda old: old + biases, out)


def apply_sequence_bias(
    logits: Floats, token_ids: Ids, biases: Mapping[tuple[int, ...], float], out: Floats | None = None
) -> Floats:
    """Add to the last id of every sequence its bias, where the ids before it are what `token_ids` ends with.

    Several that end in the same id add up; -inf excludes it. logits float32 (vocab,), token_ids int64
    (length,), no sequence empty; returns float32 (vocab,).
    """
    totals: dict[int, float] = {}
    for sequence in find_completable(token_ids, biases):
        bias = biases[sequence]
        limited = bias if bias == -math.inf else _limited(bias)
        totals[sequence[-1]] = totals.get(sequence[-1], 0.0) + limited
    ids = np.fromiter(totals.keys(), np.int64, len(totals))
    return apply_logit_bias(logits, ids, np.fromiter(totals.values(), np.float64, len(totals)), out)


def apply_length_decay(
    logits: Floats, stop_token_ids: Sequence[int], excess: int, factor: float, out: Floats | None = None
) -> Floats:
    """Raise every stop id's score by |score| * (factor ** excess - 1); one that is excluded stays so.

    excess is how many tokens there are beyond the start; below 1 nothing changes. logits float32
    (vocab,), factor > 0; returns float32 (vocab,).
    """
    if excess < 1:
        return row_for(logits, out)
    # |score| <= LARGEST: nothing beyond this power could be told apart.
    growth = math.exp(min(excess * math.log(factor), math.log(LARGEST))) - 1
    ids = np.unique(np.asarray(stop_token_ids, np.int64))
    # |-inf| would make -inf + inf.
    return change_scores(logits, ids, lambda old: old + np.abs(old.clip(min=-LARGEST)) * growth, out)


def change_scores(
    logits: Floats,
    ids: Ids,
    change: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    out: Floats | None = None,
) -> Floats:
    """The row with the scores at `ids` changed, in float64, and kept in float32's range.

    Only -inf excludes a token: a score that leaves the range is set to its end.
    """
    old = logits[ids].astype(np.float64)
    with np.errstate(over="ignore"):
        new = change(old)  # (n,)
    np.minimum(new, LARGEST, out=new)
    np.maximum(new, -LARGEST, out=new, where=new > -np.inf)
    result = row_for(logits, out)
    result[ids] = new
    return result


def _counted(ids: Ids) -> tuple[Ids, NDArray[np.int64]]:
    """The distinct ids, rising, and how often each occurs."""
    if not ids.size:
        return ids, ids
    ordered = np.sort(ids)
    changes = np.flatnonzero(ordered[1:] != ordered[:-1])
    lasts = np.concatenate([changes, [ids.size - 1]])  # where each id occurs last
    counts = lasts + 1
    counts[1:] -= counts[:-1].copy()
    return ordered[lasts], counts


def _limited(value: float) -> float:
    """In float32's range, so that no product with a score overflows float64."""
    return min(max(value, -LARGEST), LARGEST)

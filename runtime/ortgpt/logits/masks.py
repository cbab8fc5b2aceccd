"""Masks: exclude tokens by setting their score to -inf.

Each takes a row and returns a new one, or writes into `out`, which may be the row itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ortgpt.interfaces import Floats, Ids
from ortgpt.logits.rows import row_for
from ortgpt.logits.sequences import find_completable


def apply_exclusion(logits: Floats, ids: Sequence[int] | Ids, out: Floats | None = None) -> Floats:
    """Exclude the ids. logits float32 (vocab,); returns float32 (vocab,)."""
    result = row_for(logits, out)
    result[np.asarray(ids, np.int64)] = -np.inf
    return result


def apply_vocabulary_size(logits: Floats, size: int, out: Floats | None = None) -> Floats:
    """Exclude the ids from `size` on. logits float32 (vocab,); returns float32 (vocab,)."""
    result = row_for(logits, out)
    result[size:] = -np.inf
    return result


def apply_min_new_tokens(
    logits: Floats,
    num_generated: int,
    min_new_tokens: int,
    stop_token_ids: Sequence[int],
    out: Floats | None = None,
) -> Floats:
    """Exclude every stop id while fewer than `min_new_tokens` are generated.

    logits float32 (vocab,); returns float32 (vocab,).
    """
    return apply_exclusion(logits, stop_token_ids if num_generated < min_new_tokens else (), out)


def apply_no_repeat_ngram(logits: Floats, token_ids: Ids, n: int, out: Floats | None = None) -> Floats:
    """Exclude every id that would end an n-gram which `token_ids` already holds (Paulus 2017).

    logits float32 (vocab,), token_ids int64 (length,), n >= 1; returns float32 (vocab,).
    """
    if n > len(token_ids):
        return row_for(logits, out)
    tail = token_ids[len(token_ids) - n + 1 :]  # (n - 1,)
    starts = np.arange(len(token_ids) - n + 1)  # of the n-grams that may begin like the tail
    for offset in range(n - 1):
        if not starts.size:
            break
        starts = starts[token_ids[starts + offset] == tail[offset]]
    return apply_exclusion(logits, token_ids[starts + n - 1], out)


def apply_bad_words(
    logits: Floats, token_ids: Ids, sequences: Sequence[tuple[int, ...]], out: Floats | None = None
) -> Floats:
    """Exclude the last id of every sequence whose other ids are what `token_ids` ends with.

    logits float32 (vocab,), token_ids int64 (length,), no sequence empty; returns float32 (vocab,).
    """
    ends = [sequence[-1] for sequence in find_completable(token_ids, sequences)]
    return apply_exclusion(logits, ends, out)


def apply_forced(logits: Floats, token_id: int, out: Floats | None = None) -> Floats:
    """Exclude all other ids; this one gets 0, whatever it had. Takes and returns float32 (vocab,)."""
    result = np.empty_like(logits) if out is None else out
    result.fill(-np.inf)
    result[token_id] = 0
    return result

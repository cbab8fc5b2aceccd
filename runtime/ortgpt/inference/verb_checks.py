"""What the verbs of every decoder demand of their arguments; see `ortgpt.interfaces.Decoder`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ortgpt.errors import ContextLengthError, OptionError
from ortgpt.interfaces import Ids


def check_new_tokens(
    token_ids: Sequence[Sequence[int] | Ids] | Ids,
    lengths: Ids,
    *,
    vocab_size: int,
    context: int,
    siblings: bool = False,
) -> Sequence[Ids]:
    """The new ids by row, as arrays. lengths (rows,): what the rows hold."""
    new = [np.asarray(ids, np.int64) for ids in token_ids]
    if len(new) != len(lengths) or not new:
        raise OptionError("token_ids", f"must have one sequence for each of {len(lengths)} rows")
    for row, (ids, length) in enumerate(zip(new, lengths.tolist(), strict=True)):
        if ids.ndim != 1 or not ids.size:
            raise OptionError(f"token_ids[{row}]", "must be a sequence of at least one id")
        # Checked here once more than in the doors: a Gather takes -1 without complaint.
        if ids.min() < 0 or ids.max() >= vocab_size:
            raise OptionError(f"token_ids[{row}]", f"must lie between 0 and {vocab_size - 1}")
        # Siblings share the next position; their spare cells need no place in the context.
        total = length + (1 if siblings else len(ids))
        if total > context:
            raise ContextLengthError(
                "token_ids", f"bring row {row} to {total} tokens, the context is {context}"
            )
    return new


def is_plain_step(token_ids: Ids, longest: int, *, rows: int, vocab_size: int, context: int) -> bool:
    """Whether these are one good id (rows, 1) for each row, with room for it. longest: of the rows."""
    if token_ids.dtype != np.int64 or token_ids.shape != (rows, 1) or not token_ids.size:
        return False
    ids = token_ids[:, 0].tolist()
    return min(ids) >= 0 and max(ids) < vocab_size and longest < context


def check_source_rows(source_rows: Sequence[int] | Ids, num_rows: int) -> Ids:
    rows = np.asarray(source_rows, np.int64)
    if rows.size and (rows.min() < 0 or rows.max() >= num_rows):
        raise OptionError("source_rows", f"must name rows 0 to {num_rows - 1}")
    return rows


def check_chosen(chosen: Sequence[Sequence[int]], added: Sequence[int], *, siblings: bool = False) -> None:
    """added: how many tokens the last `extend` brought each row."""
    if len(chosen) != len(added):
        raise OptionError("chosen", f"must have one entry for each of {len(added)} rows")
    for row, (picks, count) in enumerate(zip(chosen, added, strict=True)):
        if any(not 0 <= pick < count for pick in picks) or len(set(picks)) != len(picks):
            raise OptionError(f"chosen[{row}]", f"must name different ones of the {count} last tokens")
        if siblings and len(picks) > 1:
            raise OptionError(f"chosen[{row}]", "can keep one of several siblings: they share a position")


def check_trimmed(wanted: Sequence[int] | Ids, lengths: Ids) -> Ids:
    """The lengths to trim to, as an array of its own."""
    shorter = np.array(wanted, np.int64)
    if shorter.shape != lengths.shape or not ((shorter >= 0).all() and (shorter <= lengths).all()):
        raise OptionError("lengths", "must hold a length for each row, at most its present one")
    return shorter

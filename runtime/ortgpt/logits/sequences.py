"""Which sequences of ids the next token can complete."""

from __future__ import annotations

from collections.abc import Collection

from ortgpt.interfaces import Ids


def find_completable(token_ids: Ids, sequences: Collection[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Those of which `token_ids` ends with all but the last id. None may be empty."""
    longest = max(map(len, sequences), default=1)
    tail = tuple(token_ids[max(0, len(token_ids) - longest + 1) :].tolist())
    return [
        sequence
        for sequence in sequences
        if len(sequence) <= len(tail) + 1 and tail[len(tail) + 1 - len(sequence) :] == sequence[:-1]
    ]

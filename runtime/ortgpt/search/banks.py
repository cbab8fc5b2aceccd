"""Dynamic beam allocation (Post and Vilar 2018): no beam is lost because keywords cost probability."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol, TypeVar

from ortgpt.interfaces import Ids

T = TypeVar("T")


class Banks(Protocol):
    """How far a sequence is with what it must hold, and how it gets further."""

    def progress(self, generated: Ids, /) -> int: ...

    def advances(self, generated: Ids, /) -> Ids: ...


def choose_from_banks(ranked: Sequence[T], progress: Sequence[int], count: int) -> list[T]:
    """Of candidates, best first, `count`: in turn the best of each bank, those that are furthest first.

    A bank holds the candidates of equal progress.
    """
    banks: dict[int, list[T]] = defaultdict(list)
    for candidate, bank in zip(ranked, progress, strict=True):
        banks[bank].append(candidate)
    queues = [banks[bank] for bank in sorted(banks, reverse=True)]
    in_turn = [
        queue[turn]
        for turn in range(max(map(len, queues), default=0))
        for queue in queues
        if turn < len(queue)
    ]
    return in_turn[:count]

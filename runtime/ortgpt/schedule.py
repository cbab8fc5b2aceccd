"""Which of the prompts that wait begin when rows are free."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable


class Schedule:
    """Prompts begin in their order, each as soon as there are rows for it.

    waiting    the prompts, by their number
    rows_each  decoder rows that a prompt takes
    max_rows   that run at once; a prompt that takes more runs alone
    """

    def __init__(self, waiting: Iterable[int], rows_each: int, max_rows: int) -> None:
        self._waiting = deque(waiting)
        self._rows_each, self._max_rows = rows_each, max_rows

    def admit(self, rows_in_use: int) -> list[int]:
        """Those that begin now, which no longer wait; at least one where nothing runs."""
        room = max(0, self._max_rows - rows_in_use) // self._rows_each
        if not rows_in_use:
            room = max(1, room)
        return [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]

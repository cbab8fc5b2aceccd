"""How an export tells its caller how far it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

Stage = Literal["read", "trace", "write", "verify", "prepare", "calibrate", "compare"]
Progress = Callable[[Stage, int, int], None]
"""Is told (stage, done, total): bytes of the checkpoint, bytes of the weights, forward passes, texts.

"trace" is Optimum's part, of which nothing is known until it ends; "prepare" is the fp32 model that the
others are compared with.
"""


class Counter:
    """Adds up bytes and reports them as a stage's progress."""

    def __init__(self, stage: Stage, total: int, progress: Progress) -> None:
        self._stage = stage
        self._total = total
        self._done = 0
        self._progress = progress

    def __call__(self, nbytes: int) -> None:
        self._done += nbytes
        self._progress(self._stage, self._done, self._total)

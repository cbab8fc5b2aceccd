"""How fast this machine reads memory: NumPy reductions over an array as large as the weights."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

Reduction = Callable[[np.ndarray[Any, np.dtype[np.float32]]], Any]

# Each reads every element once and writes nothing; the fastest sets the mark.
KERNELS: dict[str, Reduction] = {
    "sum": np.sum,
    "max": np.max,
    "dot": lambda part: np.dot(part, part),
}


class ReadBandwidth:
    """An array cut among threads that stay alive; NumPy lets go of the interpreter while it reduces.

    Its process must have OPENBLAS_NUM_THREADS=1, or each dot starts threads of its own.
    """

    def __init__(self, nbytes: int, threads: int) -> None:
        self._array = np.ones(nbytes // 4, np.float32)
        self._parts = np.array_split(self._array, threads)
        self._threads = ThreadPoolExecutor(threads)

    def measure(self, repeats: int) -> dict[str, float]:
        """Bytes per second of each kernel: the median of `repeats` passes."""
        return {
            name: statistics.median(self._pass(kernel) for _ in range(repeats))
            for name, kernel in KERNELS.items()
        }

    def _pass(self, kernel: Reduction) -> float:
        begin = time.perf_counter()
        for _ in self._threads.map(kernel, self._parts):
            pass
        return self._array.nbytes / (time.perf_counter() - begin)

"""How fast this machine reads memory: NumPy reductions over a large array."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

# Each reads every element once and writes nothing; the fastest sets the mark. None goes through BLAS,
# whose own threads would come on top.
KERNELS: dict[str, Callable[[NDArray[np.int64]], Any]] = {
    "max": lambda part: part.view(np.float32).max(),
    "or": np.bitwise_or.reduce,
}


class ReadBandwidth:
    """An array of `nbytes` cut among threads that stay alive; NumPy lets go of the interpreter as it reduces.

    clock  gives seconds
    """

    def __init__(self, nbytes: int, threads: int, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._array = np.full(nbytes // 8, 1 << 40, np.int64)
        self._parts = np.array_split(self._array, threads)
        self._threads = ThreadPoolExecutor(threads)

    def measure(self, repeats: int) -> dict[str, float]:
        """Bytes per second of each kernel: the median of `repeats` passes."""
        return {
            name: statistics.median(self._pass(kernel) for _ in range(repeats))
            for name, kernel in KERNELS.items()
        }

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _pass(self, kernel: Callable[[NDArray[np.int64]], Any]) -> float:
        begin = self._clock()
        for _ in self._threads.map(kernel, self._parts):
            pass
        return self._array.nbytes / (self._clock() - begin)

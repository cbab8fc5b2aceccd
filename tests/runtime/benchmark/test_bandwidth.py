"""Bytes per second: every byte is read, and once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from ortgpt.benchmark import bandwidth
from ortgpt.benchmark.bandwidth import KERNELS, ReadBandwidth

NBYTES = 1 << 16


@pytest.mark.parametrize("place", range(16))
def test_a_kernel_looks_at_every_element(place: int) -> None:
    part = np.zeros(8, np.int64)
    part.view(np.float32)[place] = 5.0
    assert KERNELS["max"](part) == 5.0
    assert KERNELS["or"](part) == sum(part.tolist())  # one element alone is not 0


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_every_byte_is_read_once_per_pass(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []
    monkeypatch.setattr(bandwidth, "KERNELS", {"seen": seen.append})
    with ReadBandwidth(NBYTES, threads) as reader:
        reader.measure(2)
    assert len(seen) == 2 * threads
    spans = [(part.ctypes.data, part.ctypes.data + part.nbytes) for part in seen]
    begin = min(first for first, _ in spans)
    covered = sorted((first - begin, last - begin) for first, last in spans)
    assert covered[0][0] == 0
    assert covered[-1][1] == NBYTES
    for one, other in itertools.pairwise(sorted(set(covered))):
        assert one[1] == other[0]
    assert all(covered.count(span) == 2 for span in covered)


def test_the_speed_is_bytes_over_the_median_time_of_a_pass() -> None:
    seconds = iter([2.0, 9.0, 4.0] * len(KERNELS))

    def ticks() -> Iterator[float]:
        now = 0.0
        while True:
            yield now
            now += next(seconds)
            yield now

    clock = ticks()
    with ReadBandwidth(NBYTES, 1, clock=lambda: next(clock)) as reader:
        assert reader.measure(3) == dict.fromkeys(KERNELS, NBYTES / 4)

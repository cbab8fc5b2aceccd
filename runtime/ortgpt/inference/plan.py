"""Cuts an `extend` into graph calls so that a row's numbers never depend on how it was cut.

Two facts of onnxruntime's CPU GroupQueryAttention shape the plan (docs/onnxruntime.md):

- It works through new tokens in blocks of 128, and a block of exactly one is computed by another
  routine with another rounding. Decode steps always are such a block. A prefill never may be one,
  or its numbers would depend on the chunk size: a width of 1 (mod 128) is issued one wider, with a
  spare token whose results are thrown away and whose place in the cache the next token takes.
- Several rows with several new tokens on a past need the input query_seqlens. Without it, and for
  rows too long to share a call, each row gets calls of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

# Attention takes a third less time in pieces of 256 tokens than whole; the products hardly mind.
DEFAULT_CHUNK = 256
ATTENTION_BLOCK = 128


@dataclass(frozen=True)
class Call:
    """One run of the graph: rows first .. last - 1 take `counts` new tokens, from `begin` of each on.

    spares[i] is 1 where row first + i gets a spare token behind its new ones.
    is_end: these are the last new tokens of the rows.
    """

    first: int
    last: int
    begin: int
    counts: tuple[int, ...]
    spares: tuple[int, ...]
    is_end: bool

    @cached_property
    def width(self) -> int:
        return max(count + spare for count, spare in zip(self.counts, self.spares, strict=True))


def plan_calls(widths: Sequence[int], *, chunk: int, ragged: bool) -> Iterator[Call]:
    """Calls that bring widths[i] new tokens onto row i, at most `chunk` tokens of a row at a time.

    Rows with a single new token share decode calls; neighbouring wider rows share a call where the
    graph can do it (`ragged`) and their padded size stays within `chunk` tokens.
    """
    for is_decode, run in groupby(range(len(widths)), key=lambda row: widths[row] == 1):
        rows = list(run)
        if is_decode:
            yield Call(rows[0], rows[-1] + 1, 0, (1,) * len(rows), (0,) * len(rows), True)
        else:
            for first, last in _shared(rows, widths, chunk if ragged else 0):
                yield from _prefill(first, last, widths[first:last], chunk)


def _shared(rows: list[int], widths: Sequence[int], budget: int) -> Iterator[tuple[int, int]]:
    """Runs of adjacent rows whose padded size fits the budget; a row that does not fit is alone."""
    first = rows[0]
    widest = widths[first]
    for row in rows[1:]:
        widest = max(widest, widths[row])
        if (row + 1 - first) * widest > budget:
            yield first, row
            first, widest = row, widths[row]
    yield first, rows[-1] + 1


def _prefill(first: int, last: int, widths: Sequence[int], chunk: int) -> Iterator[Call]:
    # Rows that share a call fit into one chunk, so only a row on its own is ever cut.
    longest = max(widths)
    for begin in range(0, longest, chunk):
        counts = tuple(min(width, begin + chunk) - begin for width in widths)
        spares = tuple(int(count % ATTENTION_BLOCK == 1) for count in counts)
        yield Call(first, last, begin, counts, spares, begin + chunk >= longest)

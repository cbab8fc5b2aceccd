"""Which rows of a portable graph share runs, and where each row is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ortgpt.inference.grown_cache import GrownCache
from ortgpt.interfaces import Ids

# Columns that no row needs: how many there may be before the cache is packed, at least and as a part of all.
LEAST_WASTE, MOST_WASTE = 16, 4
# From so many new tokens on a row runs apart from those that get fewer than half of them. Afterwards the
# cache is put together again, which costs about as much as a token.
RAGGED = 32


@dataclass
class RowGroup:
    """Rows that share runs: cache row i is the decoder's row rows[i]."""

    rows: list[int]
    cache: GrownCache


class RowGroups:
    """All rows of a decoder, in groups.

    padded   whether the graph can be told of gaps, and each token's position: rows of any lengths share runs.
             Otherwise those do that have the same length and get as many tokens, and there are no gaps
    context  columns that a run may end with
    """

    def __init__(self, groups: list[RowGroup], *, padded: bool, context: int) -> None:
        self.groups, self._padded, self._context = groups, padded, context

    @property
    def lengths(self) -> Ids:
        lengths = np.zeros(sum(len(group.rows) for group in self.groups), np.int64)
        for group in self.groups:
            lengths[group.rows] = group.cache.lengths
        return lengths

    def arrange(self, widths: Sequence[int]) -> None:
        """Form groups whose rows can take widths[i] new tokens together, and make room for these."""
        if not (len(self.groups) == 1 and self._fits(self.groups[0], widths)):
            wanted = self._partition(self.lengths.tolist(), widths)
            if wanted != [group.rows for group in self.groups]:
                self.groups = [self._gathered(rows) for rows in wanted]
            for group in self.groups:
                if not self._fits(group, widths):
                    group.cache.pack()

    def reorder(self, source_rows: Ids) -> None:
        """Row i continues from row source_rows[i]."""
        places = self._places()
        members: dict[int, list[int]] = {}
        for row, source in enumerate(source_rows.tolist()):
            members.setdefault(places[source][0], []).append(row)
        kept = []
        for index, rows in members.items():
            group = self.groups[index]
            group.cache.take(np.array([places[source_rows[row]][1] for row in rows], np.int64))
            kept.append(RowGroup(rows, group.cache))
        self.groups = kept

    def copy(self) -> RowGroups:
        """The same rows on cells of their own."""
        copies = [
            RowGroup(list(group.rows), GrownCache.gathered([(group.cache, np.arange(len(group.rows)))]))
            for group in self.groups
        ]
        return RowGroups(copies, padded=self._padded, context=self._context)

    def join(self, other: RowGroups) -> None:
        """Put the rows of the other behind. They come to share runs at the next `arrange`."""
        num_rows = len(self.lengths)
        for group in other.groups:
            self.groups.append(RowGroup([num_rows + row for row in group.rows], group.cache))
        other.groups = []

    def _fits(self, group: RowGroup, widths: Sequence[int]) -> bool:
        """Whether these rows can run together as their cache is."""
        cache, own = group.cache, [widths[row] for row in group.rows]
        if not self._padded:
            return not cache.has_gaps and min(own) == max(own)
        waste = cache.columns - cache.longest
        is_wasteful = waste > max(LEAST_WASTE, cache.columns // MOST_WASTE)
        if is_wasteful or _is_ragged(max(own), min(own)):
            return False
        return cache.columns + max(own) <= self._context

    def _partition(self, lengths: Sequence[int], widths: Sequence[int]) -> list[list[int]]:
        """The rows of each group."""
        if not self._padded:
            alike: dict[tuple[int, int], list[int]] = {}
            for row, key in enumerate(zip(lengths, widths, strict=True)):
                alike.setdefault(key, []).append(row)
            return list(alike.values())
        groups: list[list[int]] = []
        longest = 0
        for row in sorted(range(len(widths)), key=lambda row: -widths[row]):
            longest = max(longest, lengths[row])
            widest = widths[groups[-1][0]] if groups else 0
            if longest + widest > self._context or _is_ragged(widest, widths[row]) or not groups:
                groups.append([])
                longest = lengths[row]
            groups[-1].append(row)
        return sorted(map(sorted, groups))

    def _gathered(self, rows: list[int]) -> RowGroup:
        """A group of these rows, copied from where they are."""
        places = self._places()
        order: list[int] = []
        parts = []
        for index, group in enumerate(self.groups):
            own = [row for row in rows if places[row][0] == index]
            if own:
                parts.append((group.cache, np.array([places[row][1] for row in own], np.int64)))
                order += own
        cache = GrownCache.gathered(parts)
        if order != rows:
            cache.take(np.array([order.index(row) for row in rows], np.int64))
        return RowGroup(rows, cache)

    def _places(self) -> dict[int, tuple[int, int]]:
        """row -> (its group, its place there)"""
        return {
            row: (index, place)
            for index, group in enumerate(self.groups)
            for place, row in enumerate(group.rows)
        }


def _is_ragged(widest: int, narrowest: int) -> bool:
    return widest >= RAGGED and 2 * narrowest < widest

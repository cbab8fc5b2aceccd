"""Stop strings in streamed text: what may be shown, and where it ends."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence


def may_cut_anywhere(place: int) -> bool:
    return True


class StopMatcher:
    """Finds the first stop string to be complete, and holds back what may become one.

    Of several stops the one that is complete first wins; of those complete at the same character,
    the first in the list. Text is cut before the match, and nothing after it is ever shown. Only the
    longest end of the text that is a beginning of a stop is held back. Takes time linear in the
    text, whatever the stops' lengths (Knuth, Morris, Pratt 1977).

    matched  the stop string that was found, or None
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(_Stop(text) for text in stops)
        self._first_chars = frozenset(text[0] for text in stops)
        self._progress = [0] * len(self._stops)  # how much of each stop the text ends with
        self._length = 0  # characters of the text so far
        self.matched: str | None = None

    def feed(self, text: str, may_cut: Callable[[int], bool] = may_cut_anywhere) -> str:
        """Add text; returns what is now safe to show.

        may_cut: whether a stop counts that begins at this character of the whole text; one that does
        not completes without effect, and what has begun by then can still complete later.
        """
        if self.matched is not None:
            return ""
        stop, held = self._held()
        before = self._length
        self._length += len(text)
        if not held and self._first_chars.isdisjoint(text):
            return text
        for position, char in enumerate(text, start=1):
            completed = self._advance(char, before + position, may_cut)
            if completed is not None:
                self.matched = completed
                return _beginning(stop, held, text, held + position - len(completed))
        return _beginning(stop, held, text, held + len(text) - self._held()[1])

    def flush(self) -> str:
        """The held text, which has become safe because no more will come; "" after a match."""
        if self.matched is not None:
            return ""
        stop, held = self._held()
        self._progress = [0] * len(self._stops)
        return stop[:held]

    def copy(self) -> StopMatcher:
        """An independent one in the same state."""
        twin = StopMatcher(())
        twin._stops, twin._first_chars = self._stops, self._first_chars
        twin._progress, twin._length = self._progress.copy(), self._length
        twin.matched = self.matched
        return twin

    def _held(self) -> tuple[str, int]:
        """The held text, as a stop string and how many of its characters are held."""
        held = max(self._progress, default=0)
        return (self._stops[self._progress.index(held)].text, held) if held else ("", 0)

    def _advance(self, char: str, length: int, may_cut: Callable[[int], bool]) -> str | None:
        """Add one character to every stop; the first one that it completes and that may cut the text.

        length: characters of the whole text with this one.
        """
        completed = None
        for index, stop in enumerate(self._stops):
            progress = stop.advance(self._progress[index], char)
            if progress == len(stop.text):
                if completed is None and may_cut(length - progress):
                    completed = stop.text
                progress = stop.border(progress)
            self._progress[index] = progress
        return completed


class _Stop:
    """One stop string with its table of borders, built no further than the text has come."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._borders = array("q", (0, 0))

    def advance(self, progress: int, char: str) -> int:
        """How much of the stop the text ends with after `char`, when it was `progress` before."""
        while progress and self.text[progress] != char:
            progress = self.border(progress)
        return progress + 1 if self.text[progress] == char else 0

    def border(self, length: int) -> int:
        """Length of the longest proper beginning of text[:length] that is also its end."""
        while len(self._borders) <= length:
            last = len(self._borders) - 1
            self._borders.append(self.advance(self._borders[last], self.text[last]))
        return self._borders[length]


def _beginning(stop: str, held: int, text: str, count: int) -> str:
    """The first `count` characters of stop[:held] + text, without building it."""
    return stop[: min(held, count)] + text[: max(0, count - held)]

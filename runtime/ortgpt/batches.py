"""A batch on its way to its results: put in order, with a word on how far it is."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

from ortgpt.checks import shown
from ortgpt.errors import OptionError, OrtgptError
from ortgpt.results import Result

if TYPE_CHECKING:
    from rich.progress import Progress

Tell = Callable[[int, int], None]
"""Is told how many prompts are done, and how many there are."""

Outcomes = Generator[tuple[int, Result | OrtgptError], None, None]
"""(prompt index, its result or error), in the order in which they come."""

PAUSE = 0.1  # seconds between two looks of the bar


def check_progress(value: object) -> None:
    """Raise OptionError for what is neither a boolean nor a callable."""
    if not isinstance(value, bool) and not callable(value):
        raise OptionError("progress", f"must be True, False or a callable, got {shown(value)}")


def collect(outcomes: Outcomes, count: int, progress: bool | Tell) -> list[Result]:
    """The results of all `count` prompts, in their order.

    Raises the first failed prompt's error at the end, or at once what ends the whole batch; both with the
    `results` that there are.
    """
    results: list[Result | None] = [None] * count
    errors: dict[int, OrtgptError] = {}
    with contextlib.closing(outcomes), ProgressBar(progress is True) as bar:
        tell: Tell = bar if isinstance(progress, bool) else progress
        tell(0, count)
        try:
            for done, (index, outcome) in enumerate(outcomes, start=1):
                if isinstance(outcome, Result):
                    results[index] = outcome
                else:
                    errors[index] = outcome
                tell(done, count)
        except OrtgptError as error:
            error.results = results
            raise
    if errors:
        first = errors[min(errors)]
        first.results = results
        raise first
    return [result for result in results if result is not None]


class ProgressBar:
    """How many prompts are done, on stderr where that is a terminal; gone at the end. A context manager.

    is_wanted: False: nothing is shown.
    """

    def __init__(self, is_wanted: bool = True) -> None:
        self._bar = _make_bar() if is_wanted and sys.stderr.isatty() else None
        self._last_look = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._bar is not None and (now - self._last_look >= PAUSE or done == total):
            self._last_look = now
            self._bar.start()
            self._bar.update(self._bar.task_ids[0], completed=done, total=total, refresh=True)

    def clear(self) -> None:
        """Off the screen, for something else to be written there, until it is next told how far it is."""
        if self._bar is not None:
            self._bar.stop()
            self._last_look = 0.0

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()


def _make_bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("prompts"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # It is drawn when there is something new: no thread of its own. What goes to stdout is not its business.
    bar = Progress(
        *columns, console=Console(stderr=True), auto_refresh=False, transient=True, redirect_stdout=False
    )
    bar.add_task("")
    return bar

"""From outcomes as they come to results in order, and the bar that says how far it is."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Any

import pytest

import ortgpt
from ortgpt.batches import Outcomes, ProgressBar, collect
from ortgpt.results import Result, Timings


def result(number: int) -> Result:
    return Result(str(number), (number,), number, (), Timings(0, 0, 0, 0, 0, 0, 0))


class Source:
    """Outcomes in this order; says whether it has been closed."""

    def __init__(
        self, *outcomes: tuple[int, Result | ortgpt.OrtgptError], then: Exception | None = None
    ) -> None:
        self._outcomes, self._then, self.is_closed = outcomes, then, False

    def __call__(self) -> Outcomes:
        try:
            yield from self._outcomes
            if self._then is not None:
                raise self._then
        finally:
            self.is_closed = True


def test_results_are_in_the_prompts_order_whatever_order_they_came_in() -> None:
    source = Source((2, result(2)), (0, result(0)), (1, result(1)))
    assert [one.seed for one in collect(source(), 3, False)] == [0, 1, 2]
    assert source.is_closed


def test_the_first_prompts_error_is_raised_at_the_end_with_the_others_results() -> None:
    late, early = ortgpt.OrtgptError("late"), ortgpt.OrtgptError("early")
    told: list[tuple[int, int]] = []
    source = Source((3, late), (0, result(0)), (1, early), (2, result(2)))
    with pytest.raises(ortgpt.OrtgptError, match="early") as caught:
        collect(source(), 4, lambda *count: told.append(count))
    assert caught.value.results == [result(0), None, result(2), None]
    assert told == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]


def test_what_ends_the_whole_batch_brings_the_results_that_there_are() -> None:
    source = Source((1, result(1)), then=ortgpt.ProviderError("no memory"))
    with pytest.raises(ortgpt.ProviderError) as caught:
        collect(source(), 2, False)
    assert caught.value.results == [None, result(1)]


def test_a_callable_that_fails_ends_the_batch() -> None:
    def fail(done: int, total: int) -> None:
        if done == 1:
            raise ZeroDivisionError

    source = Source((0, result(0)), (1, result(1)))
    with pytest.raises(ZeroDivisionError):
        collect(source(), 2, fail)
    assert source.is_closed


def test_a_batch_tells_how_far_it_is(tiny_model: ortgpt.Model) -> None:
    told: list[tuple[int, int]] = []
    for prompts in ([[97]] * 5, []):
        told.clear()
        tiny_model.generate_batch(
            prompts, max_rows=2, max_new_tokens=3, progress=lambda *count: told.append(count)
        )
        assert told == [(done, len(prompts)) for done in range(len(prompts) + 1)]


@pytest.mark.parametrize("progress", [1, 0, None, "yes"])
def test_progress_is_checked(tiny_model: ortgpt.Model, progress: Any) -> None:
    with pytest.raises(ortgpt.OptionError, match="progress must be True, False or a callable"):
        tiny_model.generate_batch([[97]], progress=progress)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], Terminal | io.StringIO]:
    """terminal(is_one) -> what stderr is from now on."""

    def take_place(is_one: bool) -> Terminal | io.StringIO:
        stream = Terminal() if is_one else io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("TERM", "xterm")
        return stream

    return take_place


def test_the_bar_is_on_stderr_and_only_where_that_is_a_terminal(
    tiny_model: ortgpt.Model, terminal: Callable[[bool], io.StringIO], capsys: pytest.CaptureFixture[str]
) -> None:
    for is_terminal in (True, False):
        stream = terminal(is_terminal)
        tiny_model.generate_batch([[97]] * 5, max_rows=2, max_new_tokens=3, progress=True)
        assert ("0/5" in stream.getvalue(), "5/5" in stream.getvalue()) == (is_terminal, is_terminal)
    assert capsys.readouterr().out == ""


def test_a_bar_that_is_not_wanted_shows_nothing(terminal: Callable[[bool], io.StringIO]) -> None:
    stream = terminal(True)
    with ProgressBar(False) as bar:
        bar(1, 2)
        bar.clear()
    assert stream.getvalue() == ""


def test_the_bar_gives_way_to_other_output_and_comes_back(terminal: Callable[[bool], io.StringIO]) -> None:
    stream = terminal(True)
    with ProgressBar() as bar:
        bar(1, 3)
        bar.clear()
        cleared = stream.tell()
        assert stream.getvalue().endswith("\x1b[2K")  # the line has been erased
        bar(2, 3)
        assert "2/3" in stream.getvalue()[cleared:]
    assert stream.getvalue().endswith("\x1b[2K")
    assert sys.stderr is stream


def test_rich_is_not_needed_where_no_bar_is_shown(
    tiny_model: ortgpt.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)  # importing it is an error
    for progress in (False, lambda done, total: None):
        assert len(tiny_model.generate_batch([[97]], max_new_tokens=1, progress=progress)) == 1

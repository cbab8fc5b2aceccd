"""Stop strings against a slow obvious search."""

from __future__ import annotations

import random

import pytest

from ortgpt.text.stop import StopMatcher

Chunk = tuple[str, bool]  # text, armed


def search_slowly(stops: list[str], chunks: list[Chunk]) -> tuple[str, str | None]:
    """The text before the first armed match, and the stop."""
    seen = ""
    for text, armed in chunks:
        for char in text:
            seen += char
            for stop in stops:
                if armed and seen.endswith(stop):
                    return seen[: len(seen) - len(stop)], stop
    return seen, None


def longest_beginning(stops: list[str], text: str) -> int:
    """Length of the longest end of the text that is a proper beginning of a stop."""
    return max(
        (n for stop in stops for n in range(len(stop)) if text.endswith(stop[:n])),
        default=0,
    )


def random_case(rng: random.Random) -> tuple[list[str], list[Chunk]]:
    stops = ["".join(rng.choices("ab", k=rng.randint(1, 5))) for _ in range(rng.randint(0, 4))]
    armed_from = rng.choice((0, 0, 3, 6))
    texts = ["".join(rng.choices("aabbc", k=rng.randint(0, 4))) for _ in range(rng.randint(0, 12))]
    return stops, [(text, index >= armed_from) for index, text in enumerate(texts)]


def test_finds_what_a_slow_search_finds_however_the_text_is_cut() -> None:
    """FAULTS 38"""
    rng = random.Random(1)
    for _ in range(10_000):
        stops, chunks = random_case(rng)
        matcher = StopMatcher(stops)
        shown = (
            "".join(matcher.feed(text, lambda place, armed=armed: armed) for text, armed in chunks)
            + matcher.flush()
        )
        assert (shown, matcher.matched) == search_slowly(stops, chunks), (stops, chunks)


def test_holds_back_the_longest_beginning_of_a_stop_and_no_more() -> None:
    """FAULTS 38"""
    rng = random.Random(2)
    for _ in range(3000):
        stops, chunks = random_case(rng)
        matcher = StopMatcher(stops)
        seen, shown = "", ""
        for text, armed in chunks:
            seen += text
            shown += matcher.feed(text, lambda place, armed=armed: armed)
            if matcher.matched is not None:
                break
            held = longest_beginning(stops, seen)
            assert shown == seen[: len(seen) - held], (stops, chunks)


def test_without_stops_text_passes_through() -> None:
    matcher = StopMatcher([])
    assert matcher.feed("anything") == "anything"
    assert matcher.flush() == ""
    assert matcher.matched is None


@pytest.mark.parametrize(
    ("stops", "expected"),
    [(["lo", "hello"], ("hel", "lo")), (["hello", "lo"], ("", "hello")), (["hell", "lo"], ("", "hell"))],
)
def test_the_first_to_complete_wins_and_list_order_breaks_ties(
    stops: list[str], expected: tuple[str, str]
) -> None:
    matcher = StopMatcher(stops)
    assert (matcher.feed("hello"), matcher.matched) == expected


def test_nothing_is_shown_after_a_match() -> None:
    matcher = StopMatcher(["END"])
    assert matcher.feed("one END two END") == "one "
    assert matcher.feed("more") == ""
    assert matcher.flush() == ""
    assert matcher.matched == "END"


def test_a_stop_that_begins_before_it_is_armed_can_still_complete() -> None:
    matcher = StopMatcher(["END"])
    assert matcher.feed("END EN", lambda place: False) == "END "
    assert matcher.matched is None
    assert matcher.feed("D") == ""
    assert matcher.matched == "END"


def test_what_was_held_is_flushed_when_no_more_comes() -> None:
    matcher = StopMatcher(["\n\nHuman:"])
    assert matcher.feed("text\n\nHum") == "text"
    assert matcher.flush() == "\n\nHum"
    assert matcher.flush() == ""


def test_stops_are_text_and_not_patterns() -> None:
    """FAULTS 38"""
    matcher = StopMatcher([".*", "[a-z]+"])
    assert matcher.feed("plain text .") == "plain text "
    assert matcher.feed("*") == ""
    assert matcher.matched == ".*"


def test_a_copy_goes_its_own_way() -> None:
    matcher = StopMatcher(["END"])
    matcher.feed("EN")
    twin = matcher.copy()
    assert twin.feed("D") == ""
    assert twin.matched == "END"
    assert matcher.feed("X") == "ENX"
    assert matcher.matched is None


class CountedStop(str):
    """Counts how often a character of it is looked at."""

    lookups = 0

    def __getitem__(self, key: object) -> str:
        CountedStop.lookups += 1
        return super().__getitem__(key)  # type: ignore[index]


@pytest.mark.parametrize("stop", ["a" * 1_000_000, "ab" * 500_000, "a" * 19_999 + "b" * 980_001])
def test_the_work_grows_with_the_text_and_not_with_the_stop(
    stop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 38"""
    monkeypatch.setattr(CountedStop, "lookups", 0)
    text = "a" * 20_000 + "c"
    matcher = StopMatcher([CountedStop(stop)])
    shown = "".join(matcher.feed(char) for char in text) + matcher.flush()
    assert shown == text
    assert len(text) <= CountedStop.lookups <= 10 * len(text)


def test_a_megabyte_of_stop_string_is_found() -> None:
    """FAULTS 38"""
    stop = "ab" * 500_000 + "c"
    matcher = StopMatcher([stop, "never"])
    assert matcher.feed("xab" + stop[:600_000]) == "x"
    assert matcher.feed(stop[600_000:] + "more") == "ab"
    assert matcher.matched == stop

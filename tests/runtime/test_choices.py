"""From ids to text that may be shown: stops, hold-back, reasons."""

from __future__ import annotations

import numpy as np
import pytest

from ortgpt.choices import ChoiceState, Limits
from ortgpt.numerics import log_softmax
from ortgpt.results import Event, ResultChoice
from ortgpt.testing import ByteTokenizer

LOGITS = np.zeros(257, np.float32)


def feed(
    data: bytes | list[int],
    *,
    max_tokens: int = 1000,
    min_tokens: int = 0,
    stop_ids: tuple[int, ...] = (256,),
    stop: tuple[str, ...] = (),
    prefix: str = "",
) -> tuple[list[Event], ResultChoice]:
    """Feed ids until the choice ends; returns the events and what came of it."""
    limits = Limits(max_tokens, min_tokens, frozenset(stop_ids), stop)
    state = ChoiceState(0, ByteTokenizer(), limits, prefix=prefix)
    events = []
    for token_id in data:
        events.append(state.feed(token_id, -1.0, LOGITS, is_late=False))
        if state.is_done:
            break
    return events, state.choice()


@pytest.mark.parametrize("num_top", [0, 1, 4, 60, 300])
def test_the_alternatives_are_the_best_of_all_and_of_equal_ones_those_with_lower_ids(num_top: int) -> None:
    rng = np.random.default_rng(num_top)
    for row in (rng.normal(-30, 3, 257), rng.integers(-3, 3, 257) / 2, np.zeros(257)):
        logits = row.astype(np.float32)
        state = ChoiceState(0, ByteTokenizer(), Limits(9, 0, frozenset(), ()), num_top=num_top)
        state.feed(97, -1.5, logits, is_late=False)
        (entry,) = state.choice().logprobs or ()
        logprobs = log_softmax(logits)
        order = np.argsort(-logprobs, kind="stable")[:num_top]
        assert (entry.token, entry.id, entry.logprob) == ("a", 97, -1.5)
        assert [one.id for one in entry.top] == order.tolist()
        assert [one.logprob for one in entry.top] == pytest.approx(logprobs[order].tolist(), abs=1e-6)


def test_the_text_is_cut_before_a_stop_string_and_nothing_follows_it() -> None:
    events, choice = feed(b"one two three", stop=("wo",))
    assert [event.text for event in events] == ["o", "n", "e", " ", "t", "", ""]
    assert (choice.text, choice.finish_reason, choice.stop_reason) == ("one t", "stop", "wo")


def test_what_might_be_a_stop_string_is_held_back_and_given_when_it_is_not() -> None:
    events, choice = feed(b"abax", stop=("abab",), max_tokens=4)
    assert [event.text for event in events] == ["", "", "", "abax"]
    assert (choice.text, choice.finish_reason) == ("abax", "length")


def test_what_is_held_back_at_the_end_is_flushed() -> None:
    _, choice = feed(b"xab", stop=("abc",), max_tokens=3)
    assert choice.text == "xab"


def test_a_stop_id_is_kept_among_the_ids_and_out_of_the_text() -> None:
    events, choice = feed([97, 98, 256, 99])
    assert choice.token_ids == (97, 98, 256)
    assert (choice.text, choice.finish_reason, choice.stop_reason) == ("ab", "stop", 256)
    assert events[-1].finish_reason == "stop"


def test_a_visible_stop_id_is_not_shown_either() -> None:
    _, choice = feed(b"ab.c", stop_ids=(ord("."),))
    assert (choice.text, choice.stop_reason) == ("ab", ord("."))


def test_a_stop_id_gives_back_what_was_held() -> None:
    _, choice = feed([*b"x\xc3", 256], stop=("xy",))
    assert choice.text == "x\ufffd"


def test_half_a_character_waits_for_the_other_half() -> None:
    events, choice = feed("é!".encode(), max_tokens=3)
    assert [event.text for event in events] == ["", "é", "!"]
    assert choice.text == "é!"


def test_half_a_character_at_the_end_is_shown_as_replaced() -> None:
    _, choice = feed(b"a\xf0\x9f", max_tokens=3)
    assert choice.text == "a\ufffd"


def test_stop_strings_do_not_count_before_min_tokens() -> None:
    _, choice = feed(b"a.b.c", stop=(".",), min_tokens=3)
    assert (choice.text, choice.token_ids) == ("a.b", tuple(b"a.b."))


def test_the_prefix_comes_with_the_first_event_and_is_no_stop() -> None:
    events, choice = feed(b"ab", prefix="stop! ", stop=("stop!",), max_tokens=2)
    assert [event.text for event in events] == ["stop! a", "b"]
    assert choice.text == "stop! ab"


def test_the_score_is_the_mean_logprob_and_absent_without_tokens() -> None:
    _, choice = feed(b"abc", max_tokens=3)
    assert choice.score == -1.0
    _, choice = feed(b"")
    assert choice.score is None


def test_an_unended_choice_is_cancelled_and_gives_back_what_was_held() -> None:
    _, choice = feed(b"ab", stop=("bc",))
    assert (choice.text, choice.finish_reason) == ("ab", "cancelled")


@pytest.mark.parametrize("stop", [("\ufffd",), ("é",), ("é!", "\ufffd!")])
def test_events_join_to_the_text_whatever_the_bytes(stop: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        data = rng.choice([0x61, 0x21, 0xC3, 0xA9, 0xF0, 0x9F, 0xA6, 0x8A, 0xFF], 12).tolist()
        events, choice = feed(data, stop=stop, max_tokens=12)
        assert "".join(event.text for event in events) == choice.text
        assert [token for event in events for token in event.token_ids] == list(choice.token_ids)
        whole = bytes(data).decode("utf-8", "replace")
        assert whole.startswith(choice.text) or choice.stop_reason is None
        assert not any(text in choice.text for text in stop) or choice.text == whole

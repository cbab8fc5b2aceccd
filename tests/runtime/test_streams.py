"""Streams: what is shown is never withdrawn, and closing at any point leaves everything in order."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

import ortgpt
from ortgpt.inference.cache import Cache

SAMPLED = ortgpt.Sampling(temperature=1.0, top_p=0.98)


def collect(stream: ortgpt.Stream, n: int = 1) -> list[tuple[str, tuple[int, ...], str | None]]:
    """(text, ids, finish reason) of each choice, put together from events."""
    texts, ids = [""] * n, [()] * n
    reasons: list[str | None] = [None] * n
    for event in stream:
        assert reasons[event.index] is None  # nothing after the last event
        texts[event.index] += event.text
        ids[event.index] += event.token_ids
        reasons[event.index] = event.finish_reason
    return list(zip(texts, ids, reasons, strict=True))


def assert_same(model: ortgpt.Model, prompt: str, **options: Any) -> None:
    result = model.generate(prompt, SAMPLED, **options)
    streamed = collect(model.stream(prompt, SAMPLED, **options), options.get("n", 1))
    assert streamed == [(c.text, c.token_ids, c.finish_reason) for c in result.choices]


@pytest.mark.parametrize("seed", range(100))
def test_streamed_equals_collected_on_storyteller(storyteller_model: ortgpt.Model, seed: int) -> None:
    assert_same(storyteller_model, "The fox", seed=seed, max_new_tokens=50, stop=['."', "he said", "king"])


@pytest.mark.parametrize("seed", range(100))
def test_streamed_equals_collected_on_broken_bytes(tiny_model: ortgpt.Model, seed: int) -> None:
    # The random model writes single bytes, most of them invalid UTF-8.
    stop = ["\ufffd\ufffdA", "ab"] if seed % 2 else []
    assert_same(tiny_model, "é", seed=seed, max_new_tokens=50, stop=stop, echo=seed % 3 == 0, n=1 + seed % 3)


def test_events_carry_the_logprobs_of_their_tokens(storyteller_model: ortgpt.Model) -> None:
    events = list(storyteller_model.stream("The fox", max_new_tokens=10))
    result = storyteller_model.generate("The fox", max_new_tokens=10, logprobs=0)
    entries = result.choices[0].logprobs
    assert entries is not None
    assert [event.logprob for event in events] == [entry.logprob for entry in entries]


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_a_closed_stream_is_cancelled_and_keeps_what_was_shown(
    storyteller_model: ortgpt.Model, taken: int
) -> None:
    stream = storyteller_model.stream("The fox", max_new_tokens=50)
    events = [next(stream) for _ in range(taken)]
    stream.close()
    assert list(stream) == []
    assert stream.result.finish_reason == "cancelled"
    assert stream.result.token_ids == sum((event.token_ids for event in events), ())
    # Text that was held back for a stop string or an unfinished character may still follow.
    assert stream.result.text.startswith("".join(event.text for event in events))


def test_with_closes_a_stream_that_was_left_early(storyteller_model: ortgpt.Model) -> None:
    with storyteller_model.stream("The fox", max_new_tokens=50) as stream:
        next(stream)
    assert stream.result.finish_reason == "cancelled"


def test_a_dropped_stream_frees_its_cache(
    storyteller_model: ortgpt.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 69"""
    made: list[weakref.ref[Cache]] = []
    plain_init = Cache.__init__

    def watched_init(self: Cache, *arguments: Any) -> None:
        plain_init(self, *arguments)
        made.append(weakref.ref(self))

    monkeypatch.setattr(Cache, "__init__", watched_init)
    stream = storyteller_model.stream("The fox", max_new_tokens=50)
    next(stream)
    assert any(ref() is not None and ref().nbytes > 0 for ref in made)
    del stream
    gc.collect()
    assert all(ref() is None or ref().nbytes == 0 for ref in made)


def test_an_exception_in_the_reader_cancels(storyteller_model: ortgpt.Model) -> None:
    stream = storyteller_model.stream("The fox", max_new_tokens=50)

    def read() -> None:
        with stream:
            next(stream)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read()
    assert stream.result.finish_reason == "cancelled"


def test_the_model_does_not_run_after_the_last_token(
    storyteller_model: ortgpt.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = 0
    plain_run = storyteller_model._session.run

    def counted(binding: object) -> None:
        nonlocal runs
        runs += 1
        plain_run(binding)

    monkeypatch.setattr(storyteller_model._session, "run", counted)
    storyteller_model.generate("The fox", max_new_tokens=7, stop_token_ids=[])
    assert runs == 7  # one prefill gives the first token, six steps the others


def test_nothing_runs_until_the_first_event_is_asked_for(
    storyteller_model: ortgpt.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storyteller_model._session, "run", lambda binding: pytest.fail("ran"))
    storyteller_model.stream("The fox").close()


def test_bad_arguments_are_refused_before_the_first_event(storyteller_model: ortgpt.Model) -> None:
    with pytest.raises(ortgpt.OptionError, match="max_new_tokens"):
        storyteller_model.stream("The fox", max_new_tokens=-1)


def test_stop_text_is_never_shown_even_in_part(storyteller_model: ortgpt.Model) -> None:
    """FAULTS 38"""
    free = storyteller_model.generate("The fox", max_new_tokens=60)
    for start in range(5, 60, 7):
        stop = free.text[start : start + 6]
        events = list(storyteller_model.stream("The fox", max_new_tokens=60, stop=[stop]))
        shown = "".join(event.text for event in events)
        assert shown == free.text[: free.text.index(stop)]
        so_far = ""
        for event in events:
            so_far += event.text
            assert free.text.startswith(so_far)


def test_two_streams_can_be_read_in_turn(storyteller_model: ortgpt.Model) -> None:
    first = storyteller_model.stream("The fox", max_new_tokens=15)
    second = storyteller_model.stream("The king", max_new_tokens=15)
    pairs = list(zip(first, second, strict=True))
    assert "".join(a.text for a, _ in pairs) == storyteller_model.generate("The fox", max_new_tokens=15).text
    assert "".join(b.text for _, b in pairs) == storyteller_model.generate("The king", max_new_tokens=15).text


def test_asyncio_tasks_stream_side_by_side_while_the_loop_stays_free(storyteller_model: ortgpt.Model) -> None:
    """FAULTS 69"""

    async def tell(prompt: str) -> str:
        text, stream = "", storyteller_model.stream(prompt, max_new_tokens=30)
        while (event := await asyncio.to_thread(next, stream, None)) is not None:
            text += event.text
        return text

    async def both() -> tuple[list[str], int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0)
                ticks += 1

        ticking = asyncio.create_task(tick())
        texts = await asyncio.gather(tell("The fox"), tell("The king"))
        ticking.cancel()
        return texts, ticks

    texts, ticks = asyncio.run(both())
    expected = [storyteller_model.generate(p, max_new_tokens=30).text for p in ("The fox", "The king")]
    assert list(texts) == expected
    assert ticks > 30

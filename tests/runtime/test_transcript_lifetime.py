"""Transcripts in use: closed streams, errors, bounds, memory, threads."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_runs import Runs

import ortgpt
from ortgpt.inference.cache import Cache
from ortgpt.testing import FakeDecoder

PROMPT = "0123456789"
NEVER: dict[str, Any] = {"stop_token_ids": []}
SAMPLED = ortgpt.Sampling(top_k=40)
BEAMS = ortgpt.BeamSearch(num_beams=3)
CONTRASTIVE = ortgpt.ContrastiveSearch(top_k=4)
STRATEGIES = [ortgpt.Greedy(), SAMPLED, BEAMS, CONTRASTIVE]


@pytest.mark.parametrize("taken", [0, 1, 4])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_a_stream_closed_early_leaves_what_it_gave(
    tiny_model: ortgpt.Model, runs: Runs, transcript: ortgpt.Transcript, strategy: ortgpt.Sampling, taken: int
) -> None:
    before, stream = transcript.token_ids, transcript.stream(strategy, max_new_tokens=20, **NEVER)
    for _ in range(taken):
        next(stream)
    assert transcript.token_ids == before  # while it is open
    stream.close()
    assert stream.result.finish_reason == "cancelled"
    assert transcript.token_ids == before + (stream.result.token_ids if taken else ())
    whole = tiny_model.generate(transcript.token_ids, max_new_tokens=3)
    assert transcript.generate(max_new_tokens=3).choices == whole.choices


def test_an_abandoned_stream_gives_the_transcript_back(transcript: ortgpt.Transcript) -> None:
    for _ in transcript.stream(max_new_tokens=20, **NEVER):
        break
    assert len(transcript) == 11
    stream = transcript.stream(max_new_tokens=20, **NEVER)
    next(stream), next(stream)
    del stream
    gc.collect()
    assert len(transcript) == 13
    transcript.stream()  # never read
    gc.collect()
    assert len(transcript) == 13
    transcript.append("x")
    assert len(transcript) == 14


def test_a_stream_that_keeps_nothing_leaves_the_text_when_closed(transcript: ortgpt.Transcript) -> None:
    with transcript.stream(keep=False, max_new_tokens=20, **NEVER) as stream:
        next(stream)
    assert transcript.text == PROMPT


def fails_on(length: int) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """A processor with a fault."""

    def process(token_ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
        if len(token_ids) >= length:
            raise ZeroDivisionError
        return logits

    return process


@pytest.mark.parametrize(
    ("strategy", "options", "nan_at", "error"),
    [
        (ortgpt.Greedy(), {}, {(0, 0)}, ortgpt.NonFiniteLogitsError),
        (ortgpt.Greedy(), {}, {(2, 0)}, ortgpt.NonFiniteLogitsError),
        (SAMPLED, {"n": 3}, {(2, 1)}, ortgpt.NonFiniteLogitsError),
        (BEAMS, {}, {(2, 1)}, ortgpt.NonFiniteLogitsError),
        (CONTRASTIVE, {}, {(2, 0)}, ortgpt.NonFiniteLogitsError),
        (ortgpt.Greedy(), {"suppress_tokens": range(257)}, set(), ortgpt.ConstraintError),
        (SAMPLED, {"n": 2, "processors": [fails_on(13)]}, set(), ZeroDivisionError),
        (CONTRASTIVE, {"processors": [fails_on(13)]}, set(), ZeroDivisionError),
        (ortgpt.Greedy(), {"temperature": 2}, set(), ortgpt.OptionError),
        (ortgpt.Greedy(), {"seed": [1, 2]}, set(), ortgpt.OptionError),
        (ortgpt.Greedy(), {"keep": 1}, set(), ortgpt.OptionError),
    ],
)
def test_an_error_leaves_the_text_and_the_transcript_in_order(
    tiny_model: ortgpt.Model,
    runs: Runs,
    strategy: ortgpt.Sampling,
    options: dict[str, Any],
    nan_at: set[tuple[int, int]],
    error: type[Exception],
) -> None:
    runs.nan_at = nan_at
    with tiny_model.transcript(PROMPT) as transcript:
        with pytest.raises(error):
            transcript.generate(strategy, max_new_tokens=10, **{**NEVER, **options})
        assert transcript.text == PROMPT
        runs.nan_at = set()
        for _ in range(2):
            whole = tiny_model.generate(transcript.token_ids, max_new_tokens=4, **NEVER)
            assert transcript.generate(max_new_tokens=4, **NEVER).choices == whole.choices


def test_rows_stay_where_there_is_no_memory_for_a_copy_of_the_first(
    tiny_model: ortgpt.Model, runs: Runs, transcript: ortgpt.Transcript, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: FakeDecoder) -> FakeDecoder:
        raise ortgpt.ProviderError("no memory")

    monkeypatch.setattr(FakeDecoder, "fork", refuse)
    for seed in range(2):
        before = transcript.token_ids
        result = transcript.generate(SAMPLED, n=3, max_new_tokens=4, seed=seed)
        assert (
            result.choices == tiny_model.generate(before, SAMPLED, n=3, max_new_tokens=4, seed=seed).choices
        )


@pytest.fixture
def cache_bytes(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """What all caches made from now on hold together."""
    made: list[weakref.ref[Cache]] = []
    plain_init = Cache.__init__

    def watched_init(self: Cache, *arguments: Any) -> None:
        plain_init(self, *arguments)
        made.append(weakref.ref(self))

    monkeypatch.setattr(Cache, "__init__", watched_init)
    return lambda: sum(cache.nbytes for ref in made if (cache := ref()) is not None)


def test_a_transcript_holds_one_row_and_nothing_once_closed(
    tiny_model: ortgpt.Model, cache_bytes: Callable[[], int]
) -> None:
    with tiny_model.transcript(PROMPT) as transcript:
        transcript.generate(max_new_tokens=5)
        one_row = cache_bytes()
        assert one_row > 0
        for strategy, n in ((SAMPLED, 8), (BEAMS, 1), (CONTRASTIVE, 1)):
            transcript.generate(strategy, n=n, keep=False, max_new_tokens=5)
            assert cache_bytes() == one_row
        twin = transcript.fork()
        assert cache_bytes() == 2 * one_row
        twin.close()
        assert cache_bytes() == one_row
    assert cache_bytes() == 0


@pytest.mark.parametrize("length", [0, -1, 11, 2.0, None, True])
def test_trim_takes_a_length_of_the_text(transcript: ortgpt.Transcript, length: Any) -> None:
    with pytest.raises(ortgpt.OptionError, match="length must be"):
        transcript.trim(length)
    assert transcript.text == PROMPT
    transcript.trim(10)
    assert transcript.generate(max_new_tokens=0).prompt == PROMPT  # nothing was cut
    transcript.trim(1)
    assert transcript.text == "0"


@pytest.mark.parametrize("text", [None, b"x", 5, [257], [-1], ["a"], "\ud800"])
def test_what_is_no_text_is_not_appended(transcript: ortgpt.Transcript, text: Any) -> None:
    with pytest.raises(ortgpt.OptionError, match="text"):
        transcript.append(text)
    assert transcript.text == PROMPT


def test_the_context_bounds_the_text(tiny_model: ortgpt.Model, runs: Runs) -> None:
    with tiny_model.transcript([5] * 62) as transcript:
        with pytest.raises(ortgpt.ContextLengthError, match="has 65 tokens, the model's context is 64"):
            transcript.append("abc")
        assert len(transcript) == 62
        assert transcript.generate(max_new_tokens=10, **NEVER).finish_reason == "length"
        assert len(transcript) == 65  # the last token is never run
        for refused in (transcript.generate, transcript.stream):
            with pytest.raises(ortgpt.ContextLengthError, match="has 65 tokens, the model's context is 64"):
                refused()
        transcript.trim(64)
        assert len(transcript.generate(max_new_tokens=10, **NEVER).token_ids) == 1
        transcript.trim(40)
        assert len(transcript.generate(max_new_tokens=10, **NEVER).token_ids) == 10


def test_an_empty_transcript_starts_from_the_bos_id(tiny_model: ortgpt.Model, runs: Runs) -> None:
    with tiny_model.transcript() as transcript:
        assert (transcript.token_ids, transcript.text, len(transcript)) == ((256,), "", 1)
        expected = tiny_model.generate("", max_new_tokens=4)
        assert transcript.generate(max_new_tokens=4).choices == expected.choices


def uses(transcript: ortgpt.Transcript) -> list[Callable[[], object]]:
    return [
        transcript.generate,
        transcript.stream,
        transcript.fork,
        lambda: transcript.append("x"),
        lambda: transcript.trim(1),
    ]


def test_a_closed_transcript_has_only_its_text(transcript: ortgpt.Transcript) -> None:
    transcript.close()
    transcript.close()
    for use in uses(transcript):
        with pytest.raises(ortgpt.OrtgptError, match="the transcript is closed"):
            use()
    assert transcript.text == PROMPT


def test_an_open_stream_keeps_everything_else_out(transcript: ortgpt.Transcript) -> None:
    stream = transcript.stream(max_new_tokens=5, **NEVER)
    for _ in range(2):
        for use in uses(transcript):
            with pytest.raises(ortgpt.OrtgptError, match="has an open stream"):
                use()
        next(stream)
    assert len(list(stream)) == 3
    assert len(transcript) == 15
    open_at_the_end = transcript.stream(max_new_tokens=5, **NEVER)
    next(open_at_the_end)
    transcript.close()
    assert list(open_at_the_end) == []
    assert len(transcript) == 16


def test_a_second_thread_is_kept_out(transcript: ortgpt.Transcript) -> None:
    is_running, may_go_on = threading.Event(), threading.Event()

    def wait(token_ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
        is_running.set()
        assert may_go_on.wait(30)
        return logits

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(transcript.generate, max_new_tokens=2, processors=[wait], **NEVER)
        assert is_running.wait(30)
        try:
            for use in uses(transcript):
                with pytest.raises(ortgpt.OrtgptError, match="has an open stream"):
                    use()
            with pytest.raises(ortgpt.OrtgptError, match="in use in another thread"):
                transcript.close()
        finally:
            may_go_on.set()
        assert len(running.result().token_ids) == 2
    assert len(transcript) == 12


def test_threads_that_start_at_once_are_let_in_one_at_a_time(transcript: ortgpt.Transcript) -> None:
    def attempt(_: int) -> int:
        try:
            return len(transcript.generate(max_new_tokens=1, **NEVER).token_ids)
        except ortgpt.OrtgptError:
            return 0

    with ThreadPoolExecutor(8) as pool:
        generated = sum(pool.map(attempt, range(40)))
    assert len(transcript) == 10 + generated > 10


def test_a_closed_model_ends_its_transcripts(make_bundle: Callable[..., Path]) -> None:
    model = ortgpt.load(make_bundle(), threads=1)
    transcript = model.transcript(PROMPT)
    transcript.generate(max_new_tokens=3, **NEVER)
    model.close()
    with pytest.raises(ortgpt.OrtgptError, match="the model is closed"):
        transcript.generate()
    assert len(transcript) == 13
    transcript.close()


def test_nothing_runs_before_the_first_event(transcript: ortgpt.Transcript, runs: Runs) -> None:
    transcript.stream().close()
    assert runs.take() == []

"""Transcript: only what is new is run, and the texts are those of generating from the whole."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from fake_runs import Runs

import ortgpt
from ortgpt.interfaces import Floats, Ids, Processor
from ortgpt.testing import ByteTokenizer

PROMPT = "0123456789"
NEVER: dict[str, Any] = {"stop_token_ids": []}
SAMPLED = ortgpt.Sampling(top_k=40)
BEAMS = ortgpt.BeamSearch(num_beams=3)
CONTRASTIVE = ortgpt.ContrastiveSearch(top_k=4)
STRATEGIES = [ortgpt.Greedy(), SAMPLED, BEAMS, CONTRASTIVE]


def test_a_continuation_runs_the_last_token_and_its_own(transcript: ortgpt.Transcript, runs: Runs) -> None:
    transcript.generate(max_new_tokens=3, **NEVER)
    assert runs.take() == [[10], [1], [1]]
    transcript.generate(max_new_tokens=2, **NEVER)
    assert runs.take() == [[1], [1]]
    assert len(transcript) == 15


def test_appending_runs_nothing_until_the_next_call(transcript: ortgpt.Transcript, runs: Runs) -> None:
    transcript.generate(max_new_tokens=3, **NEVER)
    runs.take()
    transcript.append("abcd")
    transcript.append(np.array([1, 2]))
    transcript.append("")
    assert runs.take() == []
    assert len(transcript) == 19
    transcript.generate(max_new_tokens=1)
    assert runs.take() == [[1 + 4 + 2]]


@pytest.mark.parametrize("strategy", [ortgpt.Greedy(), SAMPLED])
def test_many_continuations_of_one_text_read_it_once(
    transcript: ortgpt.Transcript, runs: Runs, strategy: ortgpt.Sampling
) -> None:
    for attempt in range(4):
        transcript.generate(strategy, keep=False, max_new_tokens=3, seed=attempt, **NEVER)
        assert runs.take() == [[10] if attempt == 0 else [1], [1], [1]]
    assert transcript.text == PROMPT


def test_rows_side_by_side_read_the_text_once_too(transcript: ortgpt.Transcript, runs: Runs) -> None:
    for attempt in range(3):
        transcript.generate(SAMPLED, n=3, keep=False, max_new_tokens=2, **NEVER)
        assert runs.take() == [[10] if attempt == 0 else [1], [1, 1, 1]]
    transcript.generate(BEAMS, keep=False, max_new_tokens=2, **NEVER)
    assert runs.take() == [[1], [1, 1, 1]]
    transcript.generate(SAMPLED, n=3, max_new_tokens=4, **NEVER)
    runs.take()
    transcript.generate(max_new_tokens=1)
    assert runs.take() == [[4]]  # the continuation that was kept is new to the first row


def test_contrastive_search_reads_the_text_again_and_leaves_it_read(
    transcript: ortgpt.Transcript, runs: Runs
) -> None:
    transcript.generate(keep=False, max_new_tokens=1)
    assert runs.take() == [[10]]
    transcript.generate(CONTRASTIVE, max_new_tokens=2, **NEVER)
    assert runs.take() == [[10], [4], [4]]
    transcript.generate(max_new_tokens=1)
    assert runs.take() == [[1]]


def test_a_fork_has_read_what_its_source_has(transcript: ortgpt.Transcript, runs: Runs) -> None:
    transcript.generate(max_new_tokens=3, **NEVER)
    twin = transcript.fork()
    runs.take()
    twin.append("ab")
    twin.generate(max_new_tokens=1)
    transcript.generate(max_new_tokens=1)
    assert runs.take() == [[3], [1]]


def test_trimming_keeps_the_cache_of_what_is_left(transcript: ortgpt.Transcript, runs: Runs) -> None:
    transcript.generate(max_new_tokens=3, **NEVER)
    transcript.append("abcdef")
    transcript.trim(15)  # 12 of them are cached
    runs.take()
    transcript.generate(keep=False, max_new_tokens=1)
    assert runs.take() == [[3]]
    transcript.trim(6)
    transcript.append("xy")
    transcript.generate(max_new_tokens=1)
    assert runs.take() == [[2]]
    assert transcript.text.startswith("012345xy")


def test_a_stop_id_is_left_out_of_the_text(transcript: ortgpt.Transcript, runs: Runs) -> None:
    before = transcript.token_ids
    free = transcript.generate(keep=False, max_new_tokens=5, **NEVER).token_ids
    stopped = transcript.generate(max_new_tokens=5, stop_token_ids=[free[3]])
    assert stopped.token_ids == free[:4]
    assert transcript.token_ids == before + free[:3]
    runs.take()
    again = transcript.generate(max_new_tokens=1, **NEVER)
    assert (again.token_ids, runs.take()) == (free[3:4], [[1]])


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
@pytest.mark.parametrize("seed", range(8))
def test_any_history_of_calls_gives_what_the_whole_text_gives(
    tiny_model: ortgpt.Model, runs: Runs, strategy: ortgpt.Sampling, seed: int
) -> None:
    rng = random.Random(seed)
    transcripts = [tiny_model.transcript(PROMPT)]
    for step in range(25):
        transcript = rng.choice(transcripts)
        others = {other: other.token_ids for other in transcripts if other is not transcript}
        before, act = transcript.token_ids, rng.choice("gggggsaatf")
        if act in "gs" and len(before) < 50:
            options: dict[str, Any] = {
                "max_new_tokens": rng.randrange(8),
                "seed": step,
                "echo": rng.random() < 0.3,
                "repetition_penalty": rng.choice([1.0, 1.5]),
                "stop_token_ids": rng.sample(range(257), rng.choice([0, 60])),
            }
            chosen, keep = rng.choice([strategy, strategy, ortgpt.Greedy()]), rng.random() < 0.6
            if not isinstance(chosen, ortgpt.BeamSearch):
                options["n"] = rng.choice([1, 1, 3])
            if act == "g":
                result = transcript.generate(chosen, keep=keep, **options)
            else:
                stream = transcript.stream(chosen, keep=keep, **options)
                list(stream)
                result = stream.result
            assert result.choices == tiny_model.generate(before, chosen, **options).choices
            ends = result.token_ids[-1:] if result.finish_reason == "stop" else ()
            new = result.token_ids[: len(result.token_ids) - len(ends)]
            assert transcript.token_ids == before + (new if keep else ())
        elif act == "a":
            transcript.append("x" * rng.randrange(3))
        elif act == "t":
            transcript.trim(rng.randint(len(before) // 2, len(before)))
        elif act == "f":
            transcripts.append(transcript.fork())
        assert all(other.token_ids == ids for other, ids in others.items())


@pytest.mark.parametrize("strategy", [*STRATEGIES, ortgpt.ContrastiveSearch(top_k=9, penalty_alpha=1.0)])
def test_text_that_follows_a_continuation_sees_its_last_token(
    tiny_model: ortgpt.Model, runs: Runs, strategy: ortgpt.Sampling
) -> None:
    for seed in range(5):
        with tiny_model.transcript(PROMPT) as transcript:
            transcript.generate(strategy, max_new_tokens=4, seed=seed, **NEVER)
            transcript.append("x")
            whole = tiny_model.generate(transcript.token_ids, max_new_tokens=4)
            assert transcript.generate(max_new_tokens=4).choices == whole.choices


def gap(model: ortgpt.Model, prompt: tuple[int, ...], one: ortgpt.Result, other: ortgpt.Result) -> float:
    """How far apart the logits of the first two tokens that differ are."""
    ids = list(zip(one.token_ids, other.token_ids, strict=False))
    count = next(place for place, (a, b) in enumerate(ids) if a != b)
    logits = model.decoder().extend([prompt + one.token_ids[:count]]).logits[0, -1]
    return float(abs(logits[ids[count][0]] - logits[ids[count][1]]))


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_on_the_real_model_calls_give_what_the_whole_text_gives(
    storyteller_model: ortgpt.Model, strategy: ortgpt.Sampling
) -> None:
    with storyteller_model.transcript("Once upon a time") as transcript:
        for seed, text in enumerate((" there was a fox", " Then the king said", "\n\nThe old woman", "")):
            transcript.append(text)
            before = transcript.token_ids
            result = transcript.generate(strategy, max_new_tokens=25, seed=seed)
            expected = storyteller_model.generate(before, strategy, max_new_tokens=25, seed=seed)
            assert transcript.text.endswith(result.text)
            if result.token_ids == expected.token_ids:
                assert result.text == expected.text
                assert result.choices[0].score == pytest.approx(expected.choices[0].score, abs=1e-4)
            else:  # a tie, which rounding may decide
                assert gap(storyteller_model, before, result, expected) < 1e-5


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_keywords_count_in_each_continuation_anew(
    tiny_model: ortgpt.Model, runs: Runs, strategy: ortgpt.Sampling
) -> None:
    options: Any = {"constraints": [ortgpt.Keywords(["no"])], "max_new_tokens": 8, "stop": ["!"], "seed": 3}
    with tiny_model.transcript("no ") as transcript:
        for _ in range(3):
            before = transcript.token_ids
            result = transcript.generate(strategy, **options)
            assert "no" in result.text.lower()
            assert result.choices == tiny_model.generate(before, strategy, **options).choices


@pytest.mark.parametrize("echo", [False, True])
def test_the_text_grows_by_what_is_shown_also_where_a_stop_string_cuts_a_token(
    storyteller_model: ortgpt.Model, echo: bool
) -> None:
    free = storyteller_model.generate("The fox", max_new_tokens=30)
    cut_inside = 0
    for start in range(1, 60, 3):
        stop = free.text[start : start + 4]
        with storyteller_model.transcript("The fox") as transcript:
            result = transcript.generate(max_new_tokens=30, stop=stop, echo=echo)
            shown = free.text[: free.text.index(stop)]
            assert result.text == ("The fox" if echo else "") + shown
            assert transcript.text == "The fox" + shown
            length = len(result.prompt_token_ids)
            cut_inside += transcript.token_ids[length:] != result.token_ids[: len(transcript) - length]
            following = transcript.generate(max_new_tokens=5, keep=False)
            whole = storyteller_model.generate(transcript.token_ids, max_new_tokens=5)
            assert following.token_ids == whole.token_ids
    assert cut_inside > 3


def writes(token_ids: list[int]) -> Processor:
    """Leaves only these tokens, one after the other, behind the prompt."""

    def process(so_far: Ids, logits: Floats) -> Floats:
        wanted = token_ids[len(so_far) - len(PROMPT)]
        return np.where(np.arange(257) == wanted, np.float32(0), np.float32(-np.inf))

    return process


class TokenizerWithHalves(ByteTokenizer):
    """Id 7 is the second byte of an é and a b."""

    def token_bytes(self, token_id: int) -> bytes:
        return b"\xa9b" if token_id == 7 else super().token_bytes(token_id)


@pytest.mark.parametrize(
    ("written", "stop", "kept"),
    [
        (b"a\xc3\xa9b", "b", "aé"),
        (b"a\xc3\xa9b", "é", "a"),
        (b"a\xc3\x07", "b", "aé"),
        (b"a\xc3\x07", "éb", "a"),
    ],
)
def test_a_character_that_ends_in_the_token_of_the_stop_is_kept_whole(
    tiny_model: ortgpt.Model,
    runs: Runs,
    monkeypatch: pytest.MonkeyPatch,
    written: bytes,
    stop: str,
    kept: str,
) -> None:
    monkeypatch.setattr(tiny_model, "tokenizer", TokenizerWithHalves())
    with tiny_model.transcript(PROMPT) as transcript:
        assert transcript.generate(processors=[writes(list(written))], stop=stop).text == kept
        assert transcript.token_ids == tuple((PROMPT + kept).encode())


def test_half_a_character_waits_for_its_rest(tiny_model: ortgpt.Model, runs: Runs) -> None:
    options: Any = {"processors": [writes(tiny_model.tokenizer.encode("é"))], "max_new_tokens": 1}
    with tiny_model.transcript(PROMPT) as transcript:
        transcript.generate(**options)
        assert transcript.text == PROMPT + "\ufffd"
        transcript.generate(**options)
        assert transcript.text == PROMPT + "é"


def test_a_result_names_the_text_it_continues(tiny_model: ortgpt.Model, runs: Runs) -> None:
    with tiny_model.transcript(PROMPT) as transcript:
        first = transcript.generate(SAMPLED, max_new_tokens=3, **NEVER)
        assert (first.prompt, list(first.prompt_token_ids)) == (PROMPT, tiny_model.tokenizer.encode(PROMPT))
        before = transcript.token_ids
        second = transcript.generate(SAMPLED, max_new_tokens=3, **NEVER)
        # A text would not say which ids it is made of, and the ids reproduce it.
        assert (second.prompt, second.prompt_token_ids) == (None, before)
        assert second.timings.prompt_tokens == len(before) == 13
        again = tiny_model.generate(before, SAMPLED, max_new_tokens=3, seed=second.seed, **NEVER)
        assert again.choices == second.choices

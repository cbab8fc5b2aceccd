"""Beam search against an obvious slow one, on a decoder whose logits tell what each beam has seen."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from ortgpt.choices import ChoiceState, Limits
from ortgpt.errors import ConstraintError, NonFiniteLogitsError
from ortgpt.interfaces import Floats, Ids
from ortgpt.numerics import log_softmax
from ortgpt.search.beam import Beam, Beams, beam_steps
from ortgpt.search.history import History
from ortgpt.strategies import BeamSearch
from ortgpt.testing import ByteTokenizer, FakeDecoder, fake_logits

VOCAB = 12
STOP = 3


def unchanged(token_ids: Ids, logits: Floats) -> Floats:
    return logits


def make_search(
    strategy: BeamSearch,
    prompt: tuple[int, ...],
    max_tokens: int,
    process: Callable[[Ids, Floats], Floats] = unchanged,
    stop_ids: tuple[int, ...] = (STOP,),
    seed: int = 0,
) -> Beams[ChoiceState]:
    text = ChoiceState(0, ByteTokenizer(), Limits(max_tokens, 0, frozenset(stop_ids), ()))
    return Beams(
        strategy,
        Beam(0.0, History(prompt), text),
        process,
        num_stop_ids=len(stop_ids),
        max_tokens=max_tokens,
        rng=np.random.default_rng(seed),
    )


def run(searches: list[Beams[ChoiceState]], prompts: list[tuple[int, ...]], decoder: FakeDecoder) -> int:
    """Drive the searches to their end; returns the number of steps."""
    steps = beam_steps(decoder, decoder.extend(prompts), searches, lambda: False)
    count = 0
    while not all(search.is_done for search in searches):
        next(steps)
        count += 1
    with pytest.raises(StopIteration):
        next(steps)
    return count


def exhaustive(prompt: tuple[int, ...], length: int, penalty: float) -> list[tuple[float, tuple[int, ...]]]:
    """Every ended text of up to `length` tokens with its score, best first."""
    found: list[tuple[float, tuple[int, ...]]] = []

    def follow(tokens: tuple[int, ...], score: float) -> None:
        if tokens and (tokens[-1] == STOP or len(tokens) == length):
            found.append((score / len(tokens) ** penalty, tokens))
            return
        logprobs = log_softmax(fake_logits(prompt + tokens, VOCAB))
        for token in range(VOCAB):
            follow((*tokens, token), score + float(logprobs[token]))

    follow((), 0.0)
    return sorted(found, reverse=True)


@pytest.mark.parametrize("penalty", [0.0, 1.0, -0.5])
def test_beams_as_wide_as_the_tree_find_the_best_texts(penalty: float) -> None:
    strategy = BeamSearch(
        num_beams=64, num_return_sequences=64, early_stopping="never", length_penalty=penalty
    )
    for prompt in [(1, 2), (5,), (7, 7, 7)]:
        # Two tokens: 11 prefixes that go on fit into 64 beams, so nothing is ever cut off but ended texts.
        search = make_search(strategy, prompt, 2)
        run([search], [prompt], FakeDecoder(VOCAB, 50))
        expected = exhaustive(prompt, 2, penalty)
        assert search.finished[0].text.token_ids == list(expected[0][1])
        assert search.finished[0].score == pytest.approx(expected[0][0], abs=1e-5)


def slow_beams(
    prompt: tuple[int, ...], num_beams: int, max_tokens: int, penalty: float
) -> list[tuple[float, list[int]]]:
    """The textbook's loop with early stopping, nothing cached and nothing shared."""
    running: list[tuple[float, list[int]]] = [(0.0, [])]
    ended: list[tuple[float, list[int]]] = []
    while running and len(ended) < num_beams:
        candidates = [
            (score + float(logprob), [*tokens, token])
            for score, tokens in running
            for token, logprob in enumerate(log_softmax(fake_logits([*prompt, *tokens], VOCAB)))
        ]
        candidates = sorted(candidates, key=lambda pair: -pair[0])[: 2 * num_beams]
        running = []
        for rank, (score, tokens) in enumerate(candidates):
            if tokens[-1] == STOP or len(tokens) == max_tokens:
                ended += [(score / len(tokens) ** penalty, tokens)] if rank < num_beams else []
            elif len(running) < num_beams:
                running.append((score, tokens))
        ended = sorted(ended, key=lambda pair: -pair[0])[:num_beams]
    return ended


@pytest.mark.parametrize(("num_beams", "penalty"), list(itertools.product([1, 2, 3, 5], [0.0, 1.0, 2.0])))
def test_beams_equal_the_slow_loop(num_beams: int, penalty: float) -> None:
    strategy = BeamSearch(num_beams=num_beams, num_return_sequences=num_beams, length_penalty=penalty)
    for prompt in [(1, 2), (5,), (7, 7, 7), (0, 4)]:
        search = make_search(strategy, prompt, 9)
        run([search], [prompt], FakeDecoder(VOCAB, 50))
        expected = slow_beams(prompt, num_beams, 9, penalty)
        assert [one.text.token_ids for one in search.finished] == [tokens for _, tokens in expected]
        assert [one.score for one in search.finished] == pytest.approx([s for s, _ in expected], abs=1e-4)


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
def test_prompts_searched_together_end_as_they_would_alone(early_stopping: bool | str) -> None:
    strategy = BeamSearch(num_beams=3, num_return_sequences=3, early_stopping=early_stopping)  # type: ignore[arg-type]
    prompts = [(1, 2), (5,), (7, 7, 7), (0, 4)]
    together = [make_search(strategy, prompt, 9) for prompt in prompts]
    run(together, prompts, FakeDecoder(VOCAB, 50, rows=4))
    for prompt, search in zip(prompts, together, strict=True):
        alone = make_search(strategy, prompt, 9)
        run([alone], [prompt], FakeDecoder(VOCAB, 50))
        assert [(h.score, h.text.token_ids) for h in search.finished] == [
            (h.score, h.text.token_ids) for h in alone.finished
        ]


def test_a_single_beam_is_greedy_until_it_ends() -> None:
    search = make_search(BeamSearch(num_beams=1), (5,), 6, stop_ids=())
    run([search], [(5,)], FakeDecoder(VOCAB, 50))
    tokens: list[int] = []
    for _ in range(6):
        tokens.append(int(fake_logits([5, *tokens], VOCAB).argmax()))
    assert search.finished[0].text.token_ids == tokens


def test_the_prompt_is_run_once_and_the_last_tokens_never() -> None:
    decoder = FakeDecoder(VOCAB, 50)
    steps = run([make_search(BeamSearch(num_beams=4), (5, 6), 5, stop_ids=())], [(5, 6)], decoder)
    assert steps == 5
    assert decoder.verbs.count("extend") == 5


@pytest.mark.parametrize("early_stopping", [False, "never"])
def test_patience_never_returns_less_than_early_stopping(early_stopping: bool | str) -> None:
    for prompt in [(1,), (2,), (3, 4), (9, 9)]:
        patient = make_search(BeamSearch(num_beams=3, early_stopping=early_stopping), prompt, 12)  # type: ignore[arg-type]
        hasty = make_search(BeamSearch(num_beams=3, early_stopping=True), prompt, 12)
        run([patient], [prompt], FakeDecoder(VOCAB, 50))
        run([hasty], [prompt], FakeDecoder(VOCAB, 50))
        assert patient.finished[0].score >= hasty.finished[0].score - 1e-9


def test_processors_see_normalised_scores_and_each_beams_own_history() -> None:
    seen: list[tuple[int, ...]] = []

    def watch(token_ids: Ids, logits: Floats) -> Floats:
        seen.append(tuple(token_ids.tolist()))
        assert np.exp(logits.astype(np.float64)).sum() == pytest.approx(1, abs=1e-4)
        return logits

    run([make_search(BeamSearch(num_beams=2), (5,), 3, watch, stop_ids=())], [(5,)], FakeDecoder(VOCAB, 50))
    assert seen[0] == (5,)
    assert len(set(seen)) == len(seen) == 1 + 2 + 2


def test_dead_beams_are_dropped_and_never_returned() -> None:
    def only_two(token_ids: Ids, logits: Floats) -> Floats:
        scores = np.full_like(logits, -np.inf)
        scores[[1, 2]] = logits[[1, 2]]
        return scores

    search = make_search(BeamSearch(num_beams=5, num_return_sequences=5), (5,), 2, only_two, stop_ids=())
    run([search], [(5,)], FakeDecoder(VOCAB, 50))
    found = [tuple(one.text.token_ids) for one in search.finished]
    assert sorted(found) == [(1, 1), (1, 2), (2, 1), (2, 2)]


def test_a_search_without_tokens_or_with_nan_fails_alone() -> None:
    def nothing(token_ids: Ids, logits: Floats) -> Floats:
        return np.full_like(logits, -np.inf)

    prompts = [(1, 2), (5,), (4, 4)]
    searches = [
        make_search(BeamSearch(num_beams=2), prompts[0], 4, nothing),
        make_search(BeamSearch(num_beams=2), prompts[1], 4),
        make_search(BeamSearch(num_beams=2), prompts[2], 4),
    ]
    run(searches, prompts, FakeDecoder(VOCAB, 50, rows=3, nan_at=((0, 2),)))
    assert isinstance(searches[0].error, ConstraintError)
    assert isinstance(searches[2].error, NonFiniteLogitsError)
    alone = make_search(BeamSearch(num_beams=2), prompts[1], 4)
    run([alone], [prompts[1]], FakeDecoder(VOCAB, 50))
    assert [h.text.token_ids for h in searches[1].finished] == [h.text.token_ids for h in alone.finished]


def test_sampled_beams_follow_the_distribution() -> None:
    """Gumbel noise draws without replacement: the first of the draws is a plain draw (chi-square)."""
    counts = np.zeros(VOCAB)
    for seed in range(4000):
        search = make_search(BeamSearch(num_beams=1, sample=True), (5,), 1, stop_ids=(), seed=seed)
        search.advance(fake_logits((5,), VOCAB)[None], is_late=False)
        counts[search.finished[0].text.token_ids[0]] += 1
    expected = 4000 * np.exp(log_softmax(fake_logits((5,), VOCAB)))
    statistic = float(((counts - expected) ** 2 / expected).sum())
    assert statistic < 31.3  # 99.9 % point with 11 degrees of freedom

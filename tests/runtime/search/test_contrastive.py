"""Contrastive search against the definition, one full pass per candidate and nothing cached."""

from __future__ import annotations

import numpy as np
import pytest

from ortgpt.interfaces import Capabilities, Floats, Going, Ids
from ortgpt.numerics import softmax
from ortgpt.search.contrastive import ContrastiveRow, StateHistory, contrastive_scores, contrastive_steps
from ortgpt.search.history import History
from ortgpt.strategies import ContrastiveSearch
from ortgpt.testing import FakeDecoder

VOCAB = 30
PROMPTS = [(1, 2, 3), (4,), (5, 6)]
COPIED = Capabilities(hidden_states=True, shared_rows=False, ragged_widths=False, row_invariant=True)


def unchanged(token_ids: Ids, logits: Floats) -> Floats:
    return logits


def full_pass(tokens: list[int]) -> tuple[Floats, Floats]:
    outputs = FakeDecoder(VOCAB, 200).extend([tokens], hidden=True)
    assert outputs.hidden is not None
    return outputs.logits[0, -1].copy(), outputs.hidden[0].copy()


def cosine(one: Floats, other: Floats) -> float:
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


def slow_search(prompt: tuple[int, ...], strategy: ContrastiveSearch, count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        logits, states = full_pass(tokens)
        probabilities = softmax(logits)
        best = (-probabilities).argsort(kind="stable")[: strategy.top_k]
        scores = []
        for candidate in best:
            state = full_pass([*tokens, int(candidate)])[1][-1]
            penalty = max(cosine(state, earlier) for earlier in states)
            alpha = strategy.penalty_alpha
            scores.append((1 - alpha) * probabilities[candidate] - alpha * penalty)
        tokens.append(int(best[int(np.argmax(scores))]))
    return tokens[len(prompt) :]


def run(decoder: FakeDecoder, strategy: ContrastiveSearch, ends: list[int]) -> list[list[int]]:
    outputs = decoder.extend(PROMPTS, hidden=True)
    assert outputs.hidden is not None
    rows = [
        ContrastiveRow(History(prompt), unchanged, StateHistory(outputs.hidden[i, : len(prompt)]))
        for i, prompt in enumerate(PROMPTS)
    ]
    steps = contrastive_steps(decoder, outputs.at(np.arange(len(rows))), rows, strategy)
    tokens: list[list[int]] = [[] for _ in PROMPTS]
    running = list(range(len(PROMPTS)))
    step = next(steps)
    while True:
        for place, row in enumerate(running):
            tokens[row].append(int(step.token_ids[place]))
        going = [place for place, row in enumerate(running) if len(tokens[row]) < ends[row]]
        running = [running[place] for place in going]
        try:
            step = steps.send(Going(np.asarray(going, np.int64)))
        except StopIteration:
            return tokens


@pytest.mark.parametrize("capabilities", [None, COPIED], ids=["shared rows", "copied rows"])
@pytest.mark.parametrize(("top_k", "alpha"), [(4, 0.6), (1, 0.6), (5, 0.0), (3, 1.0), (8, 0.3)])
def test_tokens_are_those_of_the_definition(
    top_k: int, alpha: float, capabilities: Capabilities | None
) -> None:
    strategy = ContrastiveSearch(top_k=top_k, penalty_alpha=alpha)
    tokens = run(FakeDecoder(VOCAB, 200, rows=3, capabilities=capabilities), strategy, [7, 2, 5])
    assert tokens == [
        slow_search(prompt, strategy, end) for prompt, end in zip(PROMPTS, [7, 2, 5], strict=True)
    ]


def test_one_pass_per_token_serves_all_candidates_of_all_rows() -> None:
    decoder = FakeDecoder(VOCAB, 200, rows=3)
    run(decoder, ContrastiveSearch(top_k=4), [6, 6, 6])
    assert decoder.verbs.count("extend") == 1 + 6


def test_no_candidate_that_was_not_chosen_stays_in_the_cache() -> None:
    decoder = FakeDecoder(VOCAB, 200, rows=3)
    tokens = run(decoder, ContrastiveSearch(top_k=4), [6, 1, 1])
    assert decoder.histories[0][: len(PROMPTS[0]) + 5] == (*PROMPTS[0], *tokens[0][:5])


def test_without_penalty_it_is_greedy() -> None:
    decoder = FakeDecoder(VOCAB, 200, rows=3)
    tokens = run(decoder, ContrastiveSearch(top_k=6, penalty_alpha=0.0), [5, 5, 5])
    for prompt, found in zip(PROMPTS, tokens, strict=True):
        expected = list(prompt)
        for _ in range(5):
            expected.append(int(full_pass(expected)[0].argmax()))
        assert found == expected[len(prompt) :]


def test_scores_weigh_probability_against_similarity() -> None:
    probabilities, similarities = np.array([0.5, 0.2], np.float32), np.array([0.9, 0.1], np.float32)
    assert contrastive_scores(probabilities, similarities, 0.6) == pytest.approx([0.2 - 0.54, 0.08 - 0.06])


def test_the_greatest_similarity_is_over_all_states_and_grows_with_them() -> None:
    states = StateHistory(np.array([[2.0, 0.0], [0.0, 3.0]], np.float32))
    probe = np.array([[0.6, 0.8]], np.float32)
    assert states.greatest_similarity(probe) == pytest.approx([0.8])
    for _ in range(100):
        states.append(np.array([0.6, 0.8], np.float32))
    assert states.greatest_similarity(probe) == pytest.approx([1.0])


def test_a_row_with_nan_logits_fails_alone() -> None:
    decoder = FakeDecoder(VOCAB, 200, rows=3, nan_at=((0, 1),))
    outputs = decoder.extend(PROMPTS, hidden=True)
    assert outputs.hidden is not None
    rows = [
        ContrastiveRow(History(prompt), unchanged, StateHistory(outputs.hidden[i, : len(prompt)]))
        for i, prompt in enumerate(PROMPTS)
    ]
    step = next(contrastive_steps(decoder, outputs.at(np.arange(len(rows))), rows, ContrastiveSearch()))
    assert list(step.errors) == [1]
    assert step.token_ids[1] == -1
    expected = [slow_search(PROMPTS[row], ContrastiveSearch(), 1)[0] for row in (0, 2)]
    assert [int(step.token_ids[row]) for row in (0, 2)] == expected

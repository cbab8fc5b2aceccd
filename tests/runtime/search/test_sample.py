"""The steps of greedy and sampled decoding, on a decoder whose logits tell what each row has seen."""

from __future__ import annotations

import numpy as np
import pytest

from ortgpt.errors import ConstraintError, NonFiniteLogitsError
from ortgpt.interfaces import Floats, Going, Ids, Step
from ortgpt.numerics import log_softmax
from ortgpt.search.history import History
from ortgpt.search.sample import SampledRow, pick_best, sample_steps
from ortgpt.testing import FakeDecoder, fake_logits

VOCAB = 50
PROMPTS = [(1, 2, 3), (4,), (5, 6)]


def unchanged(token_ids: Ids, logits: Floats) -> Floats:
    return logits


def make_rows(prompts: list[tuple[int, ...]], process=unchanged) -> list[SampledRow]:
    return [SampledRow(History(prompt), process, pick_best) for prompt in prompts]


def slow_greedy(prompt: tuple[int, ...], count: int) -> list[int]:
    """What greedy decoding must give: each token from the whole history, nothing cached."""
    history = list(prompt)
    for _ in range(count):
        history.append(int(fake_logits(history, VOCAB).argmax()))
    return history[len(prompt) :]


def run(decoder: FakeDecoder, rows: list[SampledRow], ends: list[int]) -> list[list[int]]:
    """Drive the steps as the engine does; row i goes on until it has ends[i] tokens."""
    steps = sample_steps(decoder, decoder.extend([row.history.ids for row in rows]), rows)
    tokens: list[list[int]] = [[] for _ in rows]
    running = list(range(len(rows)))
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


@pytest.mark.parametrize("ends", [[8, 8, 8], [1, 5, 3], [7, 1, 1], [2, 6, 6]])
def test_rows_of_any_lengths_decode_as_they_would_alone(ends: list[int]) -> None:
    decoder = FakeDecoder(VOCAB, 100, rows=3)
    tokens = run(decoder, make_rows(PROMPTS), ends)
    assert tokens == [slow_greedy(prompt, end) for prompt, end in zip(PROMPTS, ends, strict=True)]


def test_rows_that_ended_leave_the_decoder() -> None:
    decoder = FakeDecoder(VOCAB, 100, rows=3)
    run(decoder, make_rows(PROMPTS), [1, 5, 1])
    assert decoder.histories == ((*PROMPTS[1], *slow_greedy(PROMPTS[1], 4)),)


def test_no_pass_follows_the_last_token() -> None:
    decoder = FakeDecoder(VOCAB, 100, rows=1)
    run(decoder, make_rows([(1,)]), [4])
    assert decoder.verbs.count("extend") == 4  # the prompt and three tokens; the fourth is not fed back


def first_step(process=unchanged, nan_at: tuple[tuple[int, int], ...] = ()) -> tuple[Step, FakeDecoder]:
    decoder = FakeDecoder(VOCAB, 100, rows=3, nan_at=nan_at)
    rows = make_rows(PROMPTS, process)
    return next(sample_steps(decoder, decoder.extend(PROMPTS), rows)), decoder


def test_logprobs_are_of_the_raw_logits_whatever_the_processors_do() -> None:
    def only_seven(token_ids: Ids, logits: Floats) -> Floats:
        scores = np.full_like(logits, -np.inf)
        scores[7] = 100
        return scores

    step, _ = first_step(only_seven)
    assert step.token_ids.tolist() == [7, 7, 7]
    expected = [log_softmax(fake_logits(prompt, VOCAB))[7] for prompt in PROMPTS]
    assert np.allclose(step.logprobs, expected)


def test_a_row_with_nan_logits_fails_alone() -> None:
    step, _ = first_step(nan_at=((0, 1),))
    assert step.token_ids.tolist()[1] == -1
    assert isinstance(step.errors[1], NonFiniteLogitsError)
    assert list(step.errors) == [1]
    assert [int(step.token_ids[row]) for row in (0, 2)] == [slow_greedy(PROMPTS[row], 1)[0] for row in (0, 2)]


def test_the_error_names_the_step_it_happened_at() -> None:
    decoder = FakeDecoder(VOCAB, 100, rows=1, nan_at=((2, 0),))
    steps = sample_steps(decoder, decoder.extend([(1,)]), make_rows([(1,)]))
    next(steps)
    steps.send(Going(np.asarray([0])))
    step = steps.send(Going(np.asarray([0])))
    assert isinstance(step.errors[0], NonFiniteLogitsError)
    assert step.errors[0].step == 2


def test_a_row_without_a_token_left_fails_alone() -> None:
    def refuse_two(token_ids: Ids, logits: Floats) -> Floats:
        if len(token_ids) == 2:
            raise ConstraintError("no token is left")
        return logits

    step, _ = first_step(refuse_two)
    assert list(step.errors) == [2]
    assert step.token_ids[2] == -1


def test_a_processor_sees_the_history_of_its_row() -> None:
    seen: list[list[int]] = []

    def watch(token_ids: Ids, logits: Floats) -> Floats:
        seen.append(token_ids.tolist())
        return logits

    decoder = FakeDecoder(VOCAB, 100, rows=2)
    run(decoder, make_rows(PROMPTS[:2], watch), [2, 2])
    first = [slow_greedy(prompt, 1) for prompt in PROMPTS[:2]]
    assert seen == [[1, 2, 3], [4], [1, 2, 3, *first[0]], [4, *first[1]]]


def test_equal_scores_give_the_lowest_id() -> None:
    assert pick_best(np.array([0]), np.array([1.0, 3.0, 3.0], np.float32)) == 1


def test_a_history_grows_without_losing_anything() -> None:
    history = History([5, 6])
    for token in range(200):
        history.append(token)
    assert history.ids.tolist() == [5, 6, *range(200)]
    assert history.ids.dtype == np.int64

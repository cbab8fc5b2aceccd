"""Guessed and checked tokens are those that decoding without guesses gives, in fewer passes."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from ortgpt.errors import ConstraintError, NonFiniteLogitsError, OrtgptError
from ortgpt.interfaces import Arrivals, Capabilities, Floats, Going, Ids, Outputs, Processor
from ortgpt.logits.pipeline import make_processors
from ortgpt.numerics import log_softmax, softmax
from ortgpt.options import Options
from ortgpt.row_run import make_pick
from ortgpt.search.draft_budget import ALLOWANCE, DRAFT_COST, FIRST_CREDIT, POSITION_COST, DraftBudget
from ortgpt.search.history import History
from ortgpt.search.sample import SampledRow, pick_best, sample_steps
from ortgpt.search.speculative import DraftedRow, speculative_steps
from ortgpt.strategies import Greedy, Sampling, Strategy
from ortgpt.testing import FakeDecoder, fake_logits

VOCAB = 50
CONTEXT = 100
PROMPTS = [(1, 2, 3), (4,), (5, 6)]
NOT_RAGGED = Capabilities(True, True, False, True)

Guess = Callable[[tuple[int, ...], int], list[int]]
"""(history, room) -> what comes next, maybe"""


def unchanged(token_ids: Ids, logits: Floats) -> Floats:
    return logits


def slow_greedy(prompt: Sequence[int], count: int) -> list[int]:
    history = list(prompt)
    for _ in range(count):
        history.append(int(fake_logits(history, VOCAB).argmax()))
    return history[len(prompt) :]


def right(history: tuple[int, ...], room: int) -> list[int]:
    return slow_greedy(history, room)


def wrong(history: tuple[int, ...], room: int) -> list[int]:
    return [(token_id + 1) % VOCAB for token_id in slow_greedy(history, room)]


def half_right(history: tuple[int, ...], room: int) -> list[int]:
    """As many right as the history decides, then wrong ones; sometimes none at all."""
    count = (sum(history) + len(history)) % (room + 2)
    return (right(history, min(count, room)) + wrong(history, room))[:room] if count else []


class ScriptedDrafter:
    """Guesses by a function of the history."""

    def __init__(self, guess: Guess) -> None:
        self.guess, self.num_releases = guess, 0

    def propose(self, rows: Sequence[SampledRow], rooms: Sequence[int]) -> list[list[int]]:
        pairs = zip(rows, rooms, strict=True)
        return [self.guess(tuple(row.history.ids.tolist()), room) if room else [] for row, room in pairs]

    def keep(self, rows: object) -> None:
        pass

    def join(self, rows: object) -> None:
        pass

    def release(self) -> None:
        self.num_releases += 1


class FreeBudget(DraftBudget):
    """Always drafts as much as there is room for."""

    has_credit = True

    def rooms(self, limits: Sequence[int]) -> list[int]:
        return [min(self._longest, limit) for limit in limits]


def make_rows(
    prompts: Sequence[tuple[int, ...]],
    process: Processor = unchanged,
    strategy: Strategy | None = None,
    max_length: int = CONTEXT + 1,
) -> list[DraftedRow]:
    picks = [make_pick(strategy or Greedy(), np.random.default_rng(i)) for i in range(len(prompts))]
    return [DraftedRow(History(p), process, pick, max_length) for p, pick in zip(prompts, picks, strict=True)]


class Driven:
    """The tokens of every row, as the engine would take them; row i ends at ends[i] tokens or by error."""

    def __init__(self, steps: Any, ends: Sequence[int]) -> None:
        self.tokens: list[list[int]] = [[] for _ in ends]
        self.logprobs: list[list[float]] = [[] for _ in ends]
        self.raw: list[list[Floats]] = [[] for _ in ends]
        self.errors: dict[int, OrtgptError] = {}
        running = list(range(len(ends)))
        step = next(steps)
        while True:
            for place, row in enumerate(running):
                if place in step.errors:
                    self.errors[row] = step.errors[place]
                    assert step.token_ids[place] == -1
                elif step.token_ids[place] >= 0:
                    self.tokens[row].append(int(step.token_ids[place]))
                    self.logprobs[row].append(float(step.logprobs[place]))
                    self.raw[row].append(step.logits[place].copy())
            going = [
                place
                for place, row in enumerate(running)
                if len(self.tokens[row]) < ends[row] and row not in self.errors
            ]
            running = [running[place] for place in going]
            try:
                step = steps.send(Going(np.asarray(going, np.int64)))
            except StopIteration:
                return


def drive(
    guess: Guess,
    rows: list[DraftedRow],
    ends: Sequence[int],
    *,
    longest: int = 4,
    decoder: FakeDecoder | None = None,
    budget: DraftBudget | None = None,
) -> Driven:
    decoder = decoder or FakeDecoder(VOCAB, CONTEXT, rows=len(rows))
    first = decoder.extend([row.history.ids for row in rows])
    budget = budget or FreeBudget(len(rows), longest)
    return Driven(speculative_steps(decoder, first, rows, ScriptedDrafter(guess), budget), ends)


def undrafted(rows: list[DraftedRow], ends: Sequence[int]) -> Driven:
    decoder = FakeDecoder(VOCAB, CONTEXT, rows=len(rows))
    return Driven(sample_steps(decoder, decoder.extend([r.history.ids for r in rows]), rows), ends)


@pytest.mark.parametrize("capabilities", [None, NOT_RAGGED], ids=["ragged", "not ragged"])
@pytest.mark.parametrize("ends", [[20, 20, 20], [1, 15, 3], [17, 1, 2], [6, 13, 13]])
@pytest.mark.parametrize("guess", [right, wrong, half_right, lambda history, room: []])
def test_rows_get_the_tokens_of_slow_greedy_decoding(
    guess: Guess, ends: list[int], capabilities: Capabilities | None
) -> None:
    decoder = FakeDecoder(VOCAB, CONTEXT, rows=3, capabilities=capabilities)
    driven = drive(guess, make_rows(PROMPTS), ends, decoder=decoder)
    assert driven.tokens == [slow_greedy(prompt, end) for prompt, end in zip(PROMPTS, ends, strict=True)]
    for prompt, tokens, raw, logprobs in zip(
        PROMPTS, driven.tokens, driven.raw, driven.logprobs, strict=True
    ):
        for count, (token_id, row, logprob) in enumerate(zip(tokens, raw, logprobs, strict=True)):
            expected = fake_logits([*prompt, *tokens[:count]], VOCAB)
            assert np.array_equal(row, expected)
            assert np.isclose(logprob, log_softmax(expected)[token_id])


@pytest.mark.parametrize("longest", [1, 4, 7])
def test_right_guesses_make_a_pass_of_one_token_and_all_guesses(longest: int) -> None:
    decoder = FakeDecoder(VOCAB, CONTEXT)
    count = 50
    drive(right, make_rows(PROMPTS[:1], max_length=3 + count), [count], longest=longest, decoder=decoder)
    assert decoder.verbs.count("extend") == 1 + -(-(count - 1) // (longest + 1))
    assert "trim" not in decoder.verbs


def test_without_guesses_the_decoder_does_what_it_does_in_plain_decoding() -> None:
    calls: dict[str, list[tuple[Any, ...]]] = {}
    for name in ("plain", "drafted"):

        class Recording(FakeDecoder):
            def extend(self, token_ids: Any, *, outputs: Any = "last", **options: Any) -> Outputs:
                calls.setdefault(name, []).append((outputs, [list(ids) for ids in token_ids]))  # noqa: B023
                return super().extend(token_ids, outputs=outputs, **options)

        decoder, rows, ends = Recording(VOCAB, CONTEXT, rows=3), make_rows(PROMPTS), [9, 4, 12]
        first = decoder.extend([row.history.ids for row in rows])
        if name == "plain":
            Driven(sample_steps(decoder, first, rows), ends)
        else:
            drafter = ScriptedDrafter(lambda history, room: [])
            Driven(speculative_steps(decoder, first, rows, drafter, FreeBudget(3, 4)), ends)
        calls.setdefault(name, []).append(tuple(decoder.verbs))
    assert calls["plain"] == calls["drafted"]


def test_a_row_without_a_guess_joins_the_pass_of_the_others() -> None:
    """With ragged widths, that makes one call of the graph: rows of one new token have calls of their own."""
    widths: list[list[int]] = []

    class Recording(FakeDecoder):
        def extend(self, token_ids: Any, **options: Any) -> Outputs:
            widths.append([len(ids) for ids in token_ids])
            return super().extend(token_ids, **options)

    def guess(history: tuple[int, ...], room: int) -> list[int]:
        return right(history, room) if history[0] == 1 else []

    for capabilities, narrow in ((None, 2), (NOT_RAGGED, 1)):
        widths.clear()
        decoder = Recording(VOCAB, CONTEXT, rows=3, capabilities=capabilities)
        drive(guess, make_rows(PROMPTS), [11, 11, 11], decoder=decoder)
        assert widths[1:3] == [[5, narrow, narrow]] * 2


def every_processor(max_tokens: int = 30) -> Processor:
    def only_odd_after_seven(token_ids: Ids, logits: Floats) -> Floats:
        scores = logits.copy()
        if token_ids[-1] == 7:
            scores[::2] = -np.inf
        return scores

    options = Options(
        min_new_tokens=5,
        repetition_penalty=1.2,
        presence_penalty=0.3,
        frequency_penalty=0.2,
        dry_multiplier=0.7,
        no_repeat_ngram_size=3,
        bad_words=[[3, 4], [9]],
        exponential_decay_length_penalty=(4, 1.1),
        forced_bos_token_id=11,
        suppress_tokens=[20, 21],
        begin_suppress_tokens=[22],
        sequence_bias={(11, 5): 1.0},
        logit_bias={6: 0.5},
        processors=[only_odd_after_seven],
    )
    return make_processors(
        options,
        prompt_length=1,
        max_tokens=max_tokens,
        stop_token_ids=[0],
        bad_word_ids=[(3, 4), (9,)],
        sequence_biases={(11, 5): 1.0},
        breakers=[(13,)],
        vocab_size=VOCAB,
        tokenizer_size=VOCAB - 1,
    )


STRATEGIES: list[Strategy] = [
    Greedy(),
    Sampling(),
    Sampling(temperature=0.8, top_k=20, top_p=0.9, min_p=0.01),
    Sampling(temperature=1.2, xtc_probability=0.5, xtc_threshold=0.05),
    Sampling(mirostat_tau=3.0, mirostat_eta=0.5),
    Sampling(dynatemp_range=0.5, typical_p=0.9),
]


@pytest.mark.parametrize("process", [unchanged, every_processor()], ids=["bare", "every processor"])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_the_text_of_a_seed_is_the_same_with_guesses_of_any_quality(
    strategy: Strategy, process: Processor
) -> None:
    """Each row's guesses are its own text with some ids replaced, so both kinds of check come to pass."""
    ends, rng = [30, 22, 27], np.random.default_rng(5)
    plain = undrafted(make_rows(PROMPTS, process, strategy), ends)
    for error_rate in (0.0, 0.2, 0.8):

        def guess(history: tuple[int, ...], room: int) -> list[int]:
            row = next(i for i, prompt in enumerate(PROMPTS) if history[: len(prompt)] == prompt)
            begin = len(history) - len(PROMPTS[row])
            ids = plain.tokens[row][begin : begin + room]
            return [int(rng.integers(VOCAB)) if rng.random() < error_rate else i for i in ids]  # noqa: B023

        drafted = drive(guess, make_rows(PROMPTS, process, strategy), ends)
        assert drafted.tokens == plain.tokens
        assert drafted.logprobs == plain.logprobs


def test_drafted_tokens_follow_the_models_distribution() -> None:
    """The second and third token, which are drawn in one drafted pass, over many seeds: Pearson's test."""
    vocab, seeds, strategy = 4, 4000, Sampling(temperature=3.0)

    def probabilities(*history: int) -> np.ndarray:
        return softmax(fake_logits(history, vocab) / 3)

    expected = sum(
        probabilities(1)[a] * probabilities(1, a)[:, None] * [probabilities(1, a, b) for b in range(vocab)]
        for a in range(vocab)
    )
    counts = np.zeros((vocab, vocab))
    for seed in range(seeds):
        pick = make_pick(strategy, np.random.default_rng(seed))
        row = DraftedRow(History([1]), unchanged, pick, 4)
        driven = drive(lambda history, room: [2, 3][:room], [row], [3], decoder=FakeDecoder(vocab, 8))
        counts[tuple(driven.tokens[0][1:])] += 1
    expected *= seeds
    assert expected.min() > 5
    assert ((counts - expected) ** 2 / expected).sum() < 37.7  # once in a thousand, 15 degrees of freedom


@pytest.mark.parametrize("guess", [right, wrong, half_right])
def test_a_budget_follows_the_rows_that_go_on(guess: Guess) -> None:
    """Each with the draft length that it has earned: here the last one, as its guesses alone are right."""
    last = PROMPTS[2]
    rooms: list[int] = []

    def by_row(history: tuple[int, ...], room: int) -> list[int]:
        if history[:2] != last:
            return guess(history, room)
        rooms.append(room)
        return right(history, room)

    ends = [4, 9, 60]
    driven = drive(by_row, make_rows(PROMPTS), ends, budget=DraftBudget(3, 8))
    assert driven.tokens == [slow_greedy(prompt, end) for prompt, end in zip(PROMPTS, ends, strict=True)]
    assert max(rooms) == 8


def test_wrong_guesses_are_bounded_by_the_budget() -> None:
    fed = []

    class Recording(FakeDecoder):
        def extend(self, token_ids: Any, **options: Any) -> Outputs:
            fed.append(sum(len(ids) for ids in token_ids))
            return super().extend(token_ids, **options)

    decoder = Recording(VOCAB, 2000)
    rows = make_rows([(1,)], max_length=2000)
    driven = drive(wrong, rows, [1000], decoder=decoder, budget=DraftBudget(1, 8))
    assert driven.tokens == [slow_greedy((1,), 1000)]
    wasted = [count - 1 for count in fed if count > 1]
    assert 0 < sum(DRAFT_COST + POSITION_COST * count for count in wasted) <= FIRST_CREDIT + ALLOWANCE * 1000


@pytest.mark.parametrize("end", range(1, 12))
def test_nothing_is_chosen_behind_the_token_that_a_row_ends_with(end: int) -> None:
    """Neither a draw is made nor a processor asked there: rows end in the middle of right guesses."""
    asked: list[int] = []

    def watch(token_ids: Ids, logits: Floats) -> Floats:
        asked.append(len(token_ids))
        return logits

    driven = drive(right, make_rows([(1,), (4,)], watch), [end, 9])
    assert driven.tokens == [slow_greedy((1,), end), slow_greedy((4,), 9)]
    assert sorted(asked) == sorted([*range(1, 1 + end), *range(1, 10)])


@pytest.mark.parametrize("guess", [right, wrong, half_right])
def test_no_guess_goes_past_the_tokens_that_are_asked_for(guess: Guess) -> None:
    decoder = FakeDecoder(VOCAB, CONTEXT, rows=2)
    longest_lengths: list[int] = []

    def watched(history: tuple[int, ...], room: int) -> list[int]:
        longest_lengths.append(len(history) + room)
        return guess(history, room)

    rows = make_rows([(1,), (2, 3)], max_length=12)
    driven = drive(watched, rows, [11, 10], decoder=decoder, longest=7)
    assert driven.tokens == [slow_greedy((1,), 11), slow_greedy((2, 3), 10)]
    assert max(longest_lengths) == 11  # one more is chosen behind the last guess


@pytest.mark.parametrize("guess", [right, wrong, half_right])
@pytest.mark.parametrize("capabilities", [None, NOT_RAGGED])
@pytest.mark.parametrize("max_length", [13, 1000])
def test_drafts_and_padding_stay_inside_the_context(
    guess: Guess, capabilities: Capabilities | None, max_length: int
) -> None:
    """The decoder refuses what goes beyond; the last token of a full context is never fed back."""
    decoder = FakeDecoder(VOCAB, 12, rows=3, capabilities=capabilities)
    rows = make_rows(PROMPTS, max_length=max_length)
    driven = drive(guess, rows, [10, 12, 11], decoder=decoder, longest=5)
    assert driven.tokens == [slow_greedy(prompt, 13 - len(prompt)) for prompt in PROMPTS]


def nan_after(poisoned: Sequence[int]) -> Callable[[tuple[int, ...]], Floats]:
    def logits_of(history: tuple[int, ...]) -> Floats:
        logits = fake_logits(history, VOCAB)
        return np.full_like(logits, np.nan) if history == tuple(poisoned) else logits

    return logits_of


def test_nan_at_a_guess_that_is_reached_fails_its_row_at_that_step_alone() -> None:
    text = slow_greedy(PROMPTS[0], 10)
    decoder = FakeDecoder(VOCAB, CONTEXT, rows=3, logits_of=nan_after([*PROMPTS[0], *text[:7]]))
    driven = drive(right, make_rows(PROMPTS), [10, 10, 10], decoder=decoder)
    assert driven.tokens == [text[:7], slow_greedy(PROMPTS[1], 10), slow_greedy(PROMPTS[2], 10)]
    assert list(driven.errors) == [0]
    assert isinstance(driven.errors[0], NonFiniteLogitsError)
    assert driven.errors[0].step == 7


def test_nan_at_a_guess_that_is_not_reached_does_no_harm() -> None:
    text = slow_greedy((1,), 10)
    guesses = [*text[1:3], (text[3] + 1) % VOCAB, 5]
    decoder = FakeDecoder(VOCAB, CONTEXT, logits_of=nan_after([1, text[0], *guesses[:3]]))
    guess: Guess = lambda history, room: guesses if len(history) == 2 else []  # noqa: E731
    driven = drive(guess, make_rows([(1,)]), [10], decoder=decoder)
    assert driven.tokens == [text]
    # Nor where the row has ended before it.
    decoder = FakeDecoder(VOCAB, CONTEXT, logits_of=nan_after([1, *text[:4]]))
    driven = drive(right, make_rows([(1,)]), [4], decoder=decoder)
    assert (driven.tokens, driven.errors) == ([text[:4]], {})


def test_a_row_without_a_token_left_fails_where_it_would_have_failed() -> None:
    def refuse_eight(token_ids: Ids, logits: Floats) -> Floats:
        if len(token_ids) == 8:
            raise ConstraintError("no token is left")
        return logits

    driven = drive(right, make_rows(PROMPTS, refuse_eight), [20, 4, 3])
    assert list(driven.errors) == [0]
    assert driven.tokens[0] == slow_greedy(PROMPTS[0], 5)


def test_processors_see_guided_scores_and_logprobs_are_of_the_logits() -> None:
    class Guided(FakeDecoder):
        def extend(self, token_ids: Any, **options: Any) -> Outputs:
            outputs = super().extend(token_ids, **options)
            return outputs._replace(guided=-outputs.logits)

    decoder = Guided(VOCAB, CONTEXT)
    guess: Guess = lambda history, room: [int(fake_logits(history, VOCAB).argmin())]  # noqa: E731
    driven = drive(guess, make_rows([(1,)]), [8], decoder=decoder)
    history = [1]
    for token_id, logprob in zip(driven.tokens[0], driven.logprobs[0], strict=True):
        logits = fake_logits(history, VOCAB)
        assert token_id == logits.argmin()
        assert np.isclose(logprob, log_softmax(logits)[token_id])
        history.append(token_id)


@pytest.mark.parametrize("way", ["end", "close", "fail"])
def test_the_drafter_is_released_however_it_ends(way: str) -> None:
    def guess(history: tuple[int, ...], room: int) -> list[int]:
        if way == "fail":
            raise OrtgptError("out of guesses")
        return right(history, room)

    decoder, rows, drafter = FakeDecoder(VOCAB, CONTEXT), make_rows([(1,)]), ScriptedDrafter(guess)
    steps = speculative_steps(decoder, decoder.extend([(1,)]), rows, drafter, FreeBudget(1, 4))
    next(steps)
    if way == "fail":
        with pytest.raises(OrtgptError, match="out of guesses"):
            steps.send(Going(np.array([0])))
    elif way == "end":
        with pytest.raises(StopIteration):
            steps.send(Going(np.array([], np.int64)))
    steps.close()
    assert drafter.num_releases == 1


@pytest.mark.parametrize("strategy", STRATEGIES[1:], ids=repr)
def test_a_copy_of_a_pick_draws_the_same_and_leaves_the_original_alone(strategy: Strategy) -> None:
    pick, twin = (make_pick(strategy, np.random.default_rng(3)) for _ in range(2))
    rows = [fake_logits([i], VOCAB) for i in range(30)]
    history = np.array([1])
    expected = [twin(history, row) for row in rows]
    for _ in range(2):
        copied = copy.deepcopy(pick)
        assert [copied(history, row) for row in rows] == expected
    assert [pick(history, row) for row in rows] == expected
    assert copy.deepcopy(pick_best) is pick_best


def test_a_history_knows_its_prompt_and_what_came_after() -> None:
    history = History([5, 6])
    for token_id in range(100):
        history.append(token_id)
    longer = history.extended(7)
    assert (history.num_new, longer.num_new, len(longer)) == (100, 101, 103)
    assert history.prompt.tolist() == longer.prompt.tolist() == [5, 6]
    assert list(itertools.islice(longer.ids, 3)) == [5, 6, 0]


def test_rows_may_join_only_between_passes_and_their_tokens_are_checked_like_others() -> None:
    """While guessed tokens of a pass still come, a step says so; what joins has its prompt's outputs."""
    rows, new = make_rows([(1, 2)]), make_rows([(3,), (4, 5)])
    decoder = FakeDecoder(VOCAB, CONTEXT)
    first = decoder.extend([(1, 2)])
    drafter, budget = ScriptedDrafter(right), FreeBudget(1, 3)
    steps = speculative_steps(decoder, first, rows, drafter, budget)
    ends, step = [next(steps).ends_pass], None
    for _ in range(8):
        step = steps.send(Going(np.array([0])))
        ends.append(step.ends_pass)
    assert ends == [True, False, False, False, True, False, False, False, True]
    other = FakeDecoder(VOCAB, CONTEXT, rows=2)
    outputs = other.extend([(3,), (4, 5)]).at(np.arange(2))
    step = steps.send(Going(np.array([0]), Arrivals(other, outputs, new)))
    assert step.token_ids[1:].tolist() == [slow_greedy((3,), 1)[0], slow_greedy((4, 5), 1)[0]]
    for _ in range(20):
        step = steps.send(Going(np.arange(3)))
    for row in (*rows, *new):
        prompt = row.history.prompt.tolist()
        assert row.history.ids[len(prompt) :].tolist() == slow_greedy(prompt, row.history.num_new)
    assert decoder.num_rows == 3
    assert min(row.history.num_new for row in new) > 8

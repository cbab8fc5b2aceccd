"""A draft model's guesses: chosen as the row chooses, from a cache that follows the text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from ortgpt.errors import ConstraintError, OrtgptError
from ortgpt.interfaces import Capabilities, Floats, Going, Ids, Processor
from ortgpt.row_run import make_pick
from ortgpt.search.draft_budget import DraftBudget
from ortgpt.search.draft_decoder import DraftDecoder
from ortgpt.search.history import History
from ortgpt.search.sample import SampledRow, sample_steps
from ortgpt.search.speculative import DraftedRow, speculative_steps
from ortgpt.strategies import Greedy, Sampling, Strategy
from ortgpt.testing import ByteTokenizer, FakeDecoder, fake_logits

VOCAB = 50
PROMPTS = [(1, 2, 3), (4,), (5, 6)]


def unchanged(token_ids: Ids, logits: Floats) -> Floats:
    return logits


class FakeModel:
    """Makes fake decoders, and keeps them."""

    tokenizer = ByteTokenizer()

    def __init__(
        self,
        logits_of: Callable[[tuple[int, ...]], Floats] | None = None,
        *,
        context: int = 200,
        vocab: int = VOCAB,
        ragged: bool = True,
    ) -> None:
        self._logits_of, self._context, self._vocab = logits_of, context, vocab
        self._capabilities = Capabilities(True, True, ragged, True)
        self.decoders: list[FakeDecoder] = []

    def decoder(self, rows: int = 1) -> FakeDecoder:
        made = FakeDecoder(
            self._vocab, self._context, rows, logits_of=self._logits_of, capabilities=self._capabilities
        )
        self.decoders.append(made)
        return made


def nearly(history: tuple[int, ...]) -> Floats:
    """A model that mostly agrees with the other one."""
    return fake_logits(history, VOCAB) + np.float32(0.4) * fake_logits((*history, 0), VOCAB)


class FreeBudget(DraftBudget):
    has_credit = True

    def rooms(self, limits: Sequence[int]) -> list[int]:
        return [min(self._longest, limit) for limit in limits]


class UnevenBudget(FreeBudget):
    """Rows get rooms of their own, that change from pass to pass; some get none."""

    def rooms(self, limits: Sequence[int]) -> list[int]:
        self._turn = getattr(self, "_turn", 0) + 1
        return [min((self._turn * (row + 2)) % 5, limit) for row, limit in enumerate(limits)]


def make_rows(
    strategy: Strategy,
    process: Processor = unchanged,
    prompts: Sequence[tuple[int, ...]] = PROMPTS,
    max_length: int = 101,
) -> list[DraftedRow]:
    picks = [make_pick(strategy, np.random.default_rng(i)) for i in range(len(prompts))]
    return [DraftedRow(History(p), process, pick, max_length) for p, pick in zip(prompts, picks, strict=True)]


def drive(steps, rows: Sequence[SampledRow], ends: Sequence[int]) -> list[list[int]]:
    """Row i goes on until it has ends[i] tokens."""
    running = list(range(len(rows)))
    step = next(steps)
    while True:
        assert not step.errors
        going = [place for place, row in enumerate(running) if rows[row].history.num_new < ends[row]]
        running = [running[place] for place in going]
        try:
            step = steps.send(Going(np.asarray(going, np.int64)))
        except StopIteration:
            return [row.history.ids[len(row.history.prompt) :].tolist() for row in rows]


def drafted(
    model: FakeModel, rows: list[DraftedRow], ends: Sequence[int], budget: DraftBudget | None = None
) -> tuple[list[list[int]], FakeDecoder]:
    decoder = FakeDecoder(VOCAB, 100, rows=len(rows))
    first = decoder.extend([row.history.ids for row in rows])
    drafter = DraftDecoder(model, VOCAB)
    budget = budget or FreeBudget(len(rows), 4)
    return drive(speculative_steps(decoder, first, rows, drafter, budget), rows, ends), decoder


def undrafted(rows: list[DraftedRow], ends: Sequence[int]) -> list[list[int]]:
    decoder = FakeDecoder(VOCAB, 100, rows=len(rows))
    first = decoder.extend([row.history.ids for row in rows])
    return drive(sample_steps(decoder, first, rows), rows, ends)


STRATEGIES: list[Strategy] = [
    Greedy(),
    Sampling(temperature=1.5),
    Sampling(top_p=0.9, xtc_probability=0.4, xtc_threshold=0.05),
    Sampling(mirostat_tau=3.0, mirostat_eta=0.8),
]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_a_model_that_is_its_own_draft_guesses_every_token(strategy: Strategy) -> None:
    """Sampling too: its guesses are drawn with the numbers that the tokens will be drawn with."""
    rows = make_rows(strategy, prompts=PROMPTS[:1], max_length=3 + 41)
    tokens, decoder = drafted(FakeModel(), rows, [41])
    assert tokens == undrafted(make_rows(strategy, prompts=PROMPTS[:1]), [41])
    assert decoder.verbs.count("extend") == 1 + 40 // 5
    assert "trim" not in decoder.verbs


@pytest.mark.parametrize("ragged", [True, False])
@pytest.mark.parametrize("budget", [FreeBudget, UnevenBudget])
@pytest.mark.parametrize("ends", [[30, 30, 30], [3, 25, 9], [14, 1, 20]])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_the_text_is_the_same_with_a_draft_model_that_errs(
    strategy: Strategy, ends: list[int], budget: type[DraftBudget], ragged: bool
) -> None:
    model = FakeModel(nearly, ragged=ragged)
    tokens, decoder = drafted(model, make_rows(strategy), ends, budget(3, 4))
    assert tokens == undrafted(make_rows(strategy), ends)
    assert decoder.verbs.count("extend") < max(ends)
    assert "trim" in decoder.verbs


@pytest.mark.parametrize("budget", [FreeBudget, UnevenBudget])
def test_what_the_draft_model_reads_is_the_text_and_its_guesses(budget: type[DraftBudget]) -> None:
    """Every history that it is asked about is one of a row, as far as that had been chosen, and guesses."""
    asked: list[tuple[int, ...]] = []

    def watched(history: tuple[int, ...]) -> Floats:
        asked.append(history)
        return nearly(history)

    ends = [25, 25, 25]
    rows = make_rows(Greedy())
    tokens, _ = drafted(FakeModel(watched), rows, ends, budget(3, 4))
    texts = [(*prompt, *text) for prompt, text in zip(PROMPTS, tokens, strict=True)]
    nearly_greedy = {}
    for history in asked:
        text = next(text for text in texts if history[0] == text[0])
        common = next(
            (i for i, pair in enumerate(zip(history, text, strict=False)) if pair[0] != pair[1]), None
        )
        for place in range(len(history) if common is None else common, len(history) - 1):
            guess = nearly_greedy.setdefault(history[:place], int(nearly(history[:place]).argmax()))
            assert history[place] == guess


def test_a_cache_is_read_once_and_then_only_what_is_new() -> None:
    widths: list[list[int]] = []

    class Recording(FakeDecoder):
        def extend(self, token_ids, **options):
            widths.append([len(ids) for ids in token_ids])
            return super().extend(token_ids, **options)

    model = FakeModel()
    model.decoder = lambda rows=1: Recording(VOCAB, 200, rows)  # type: ignore[method-assign]
    drafted(model, make_rows(Greedy(), prompts=[tuple(range(20))], max_length=20 + 16), [16])
    # The prompt; the first token, three guesses fed; then the fourth guess and the token after it.
    assert widths == [[20], [1], [1], [1], [1], [2], [1], [1], [1], [2], [1], [1], [1]]


def test_rows_of_one_prompt_read_it_once() -> None:
    model = FakeModel()
    rows = make_rows(Sampling(), prompts=[(1, 2, 3)] * 3 + [(4, 5)])
    seen: list[int] = []
    original = FakeDecoder.extend

    class Recording(FakeDecoder):
        def extend(self, token_ids, **options):
            seen.append(len(token_ids))
            return original(self, token_ids, **options)

    model.decoder = lambda rows=1: Recording(VOCAB, 200, rows)  # type: ignore[method-assign]
    tokens, _ = drafted(model, rows, [12] * 4)
    assert tokens == undrafted(make_rows(Sampling(), prompts=[(1, 2, 3)] * 3 + [(4, 5)]), [12] * 4)
    assert seen[:2] == [2, 4]


def test_a_row_that_is_too_long_for_the_draft_model_gets_no_more_guesses_and_others_do() -> None:
    long, short = tuple(range(1, 13)), (4,)
    for prompts in ([long, short], [short, long], [tuple(range(1, 31)), short]):
        model = FakeModel(context=16)
        rows = make_rows(Greedy(), prompts=prompts, max_length=60)
        ends = [3 if prompt != short else 13 for prompt in prompts]
        tokens, decoder = drafted(model, rows, ends)
        assert tokens == undrafted(make_rows(Greedy(), prompts=prompts), ends)
        assert decoder.verbs.count("extend") <= 1 + 4
    model = FakeModel(context=16)
    tokens, decoder = drafted(model, make_rows(Greedy(), prompts=[long], max_length=60), [30])
    assert tokens == undrafted(make_rows(Greedy(), prompts=[long]), [30])
    assert model.decoders[0].verbs[-1] == "release"
    # Up to 16 tokens it guesses, then every token has a pass.
    assert 30 - 6 <= decoder.verbs.count("extend") <= 30 - 2


def test_a_prompt_too_long_for_the_draft_model_leaves_plain_decoding() -> None:
    model = FakeModel(context=3)
    tokens, decoder = drafted(model, make_rows(Greedy(), prompts=[(1, 2, 3, 4)]), [10])
    assert tokens == undrafted(make_rows(Greedy(), prompts=[(1, 2, 3, 4)]), [10])
    assert decoder.verbs.count("extend") == 10
    assert "extend" not in model.decoders[0].verbs


def test_ids_that_only_the_draft_model_has_are_never_guessed() -> None:
    def more_ids(history: tuple[int, ...]) -> Floats:
        return np.concatenate([fake_logits(history, VOCAB), np.full(5, 100, np.float32)])

    model = FakeModel(more_ids, vocab=VOCAB + 5)
    tokens, decoder = drafted(model, make_rows(Greedy(), prompts=[(1,)], max_length=22), [21])
    assert tokens == undrafted(make_rows(Greedy(), prompts=[(1,)]), [21])
    assert decoder.verbs.count("extend") == 1 + 20 // 5


def refuse_from_eight(token_ids: Ids, logits: Floats) -> Floats:
    if len(token_ids) >= 8:
        raise ConstraintError("no token is left")
    return logits


def break_from_eight(token_ids: Ids, logits: Floats) -> Floats:
    return logits if len(token_ids) < 8 else logits[token_ids[100]]


@pytest.mark.parametrize("process", [refuse_from_eight, break_from_eight])
def test_a_rule_that_fails_at_a_guess_ends_the_draft_and_nothing_else(process: Processor) -> None:
    """The row ends before the text gets there."""
    rows = make_rows(Greedy(), process, prompts=[(1,), (4,)])
    tokens, _ = drafted(FakeModel(), rows, [7, 5])
    assert tokens == undrafted(make_rows(Greedy(), prompts=[(1,), (4,)]), [7, 5])


def test_a_draft_model_with_nan_logits_guesses_nothing() -> None:
    model = FakeModel(lambda history: np.full(VOCAB, np.nan, np.float32))
    tokens, decoder = drafted(model, make_rows(Sampling()), [6, 6, 6])
    assert tokens == undrafted(make_rows(Sampling()), [6, 6, 6])
    assert decoder.verbs.count("extend") == 6


def test_a_released_drafter_has_freed_its_decoder_and_one_never_used_has_none() -> None:
    model = FakeModel()
    drafter = DraftDecoder(model, VOCAB)
    drafter.release()
    assert model.decoders == []
    drafter.propose(make_rows(Greedy()), [0, 0, 0])
    assert model.decoders == []
    drafter.propose(make_rows(Greedy()), [2, 0, 1])
    drafter.release()
    with pytest.raises(OrtgptError, match="released"):
        model.decoders[0].extend([[1]])


def right_guesses(history: Ids, count: int) -> list[int]:
    ids = history.tolist()
    for _ in range(count):
        ids.append(int(fake_logits(ids, VOCAB).argmax()))
    return ids[len(history) :]


def test_rows_that_join_or_change_places_are_followed_to_where_they_are() -> None:
    """A row that is too long for the draft model leaves, and the last one takes its place."""
    long = tuple(range(1, 30))
    drafter = DraftDecoder(FakeModel(context=25), VOCAB)
    rows = make_rows(Greedy(), prompts=[long, (1, 2), (3,), (4, 5, 6)])

    def propose() -> None:
        expected = [[] if len(row.history) >= 25 else right_guesses(row.history.ids, 2) for row in rows]
        assert drafter.propose(rows, [2] * len(rows)) == expected

    propose()
    for order in ([3, 1, 2], [2, 1], [1, 0]):
        drafter.keep(order)
        rows = [rows[place] for place in order]
        propose()
        new = make_rows(Greedy(), prompts=[(7, len(order)), (8,), long])
        drafter.join(new)
        rows = [*rows, *new]
        propose()
        for row in rows:  # their texts grow, otherwise than guessed
            row.history.append(9)


def test_a_drafter_that_follows_no_row_any_more_follows_those_that_join() -> None:
    model = FakeModel(context=8)
    drafter = DraftDecoder(model, VOCAB)
    rows = make_rows(Greedy(), prompts=[(1, 2), (3,)])
    drafter.propose(rows, [1, 1])
    drafter.keep([])
    new = make_rows(Greedy(), prompts=[(4,), tuple(range(9))])
    drafter.join(new)
    assert drafter.propose(new, [2, 2]) == [right_guesses(new[0].history.ids, 2), []]
    drafter.release()
    assert all(decoder.capacity == 0 for decoder in model.decoders)


def test_reading_is_put_off_for_rows_that_join_as_well() -> None:
    model = FakeModel()
    drafter = DraftDecoder(model, VOCAB)
    first, second = make_rows(Greedy(), prompts=[(1,)]), make_rows(Greedy(), prompts=[(2, 3)])
    drafter.join(second)
    assert model.decoders == []
    assert drafter.propose([*first, *second], [1, 1]) == [
        right_guesses(one.history.ids, 1) for one in (*first, *second)
    ]


def test_what_fails_while_rows_join_leaves_no_decoder_behind() -> None:
    model = FakeModel()
    drafter = DraftDecoder(model, VOCAB)
    drafter.propose(make_rows(Greedy()), [1, 1, 1])
    with pytest.raises(OrtgptError):
        drafter.join(make_rows(Greedy(), prompts=[(VOCAB,)]))  # an id that it does not have
    assert model.decoders[-1].capacity == 0
    drafter.release()
    assert all(decoder.capacity == 0 for decoder in model.decoders)

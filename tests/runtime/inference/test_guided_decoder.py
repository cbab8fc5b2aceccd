"""The guided decoder: two decoders, one after the prompts and one after the negative prompts, in one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ortgpt.errors import OptionError
from ortgpt.inference.guided_decoder import GuidedDecoder, guided_scores
from ortgpt.interfaces import Floats
from ortgpt.numerics import log_softmax
from ortgpt.testing import FakeDecoder, fake_logits

VOCAB = 30
PROMPTS = [(1, 2, 3), (4,), (5, 6)]
NEGATIVES = [(7, 8), (9, 10, 11, 12), (6,)]
SCALE = 1.5

Rows = list[tuple[tuple[int, ...], tuple[int, ...]]]  # (own tokens, tokens behind the negative prompt)


def expected_scores(own: tuple[int, ...], behind: tuple[int, ...]) -> Floats:
    liked, avoided = (log_softmax(fake_logits(history, VOCAB)) for history in (own, behind))
    return SCALE * (liked - avoided) + avoided


def started(**options: object) -> tuple[GuidedDecoder, FakeDecoder, Rows]:
    inner = FakeDecoder(VOCAB, 100, rows=3, **options)  # type: ignore[arg-type]
    decoder = GuidedDecoder(inner, SCALE, NEGATIVES)
    decoder.extend(PROMPTS)
    return decoder, inner, list(zip(PROMPTS, NEGATIVES, strict=True))


def assert_rows(decoder: GuidedDecoder, rows: Rows, tokens: list[tuple[int, ...]]) -> None:
    """After these tokens every row sees what it should, and so does its other half."""
    outputs = decoder.extend(tokens, outputs="all", hidden=True)
    plain = FakeDecoder(VOCAB, 100, rows=len(rows))
    plain.extend([own for own, _ in rows])
    expected = plain.extend(tokens, outputs="all", hidden=True)
    assert outputs.hidden is not None
    assert expected.hidden is not None
    assert np.array_equal(outputs.logits, expected.logits, equal_nan=True)
    assert np.array_equal(outputs.hidden, expected.hidden, equal_nan=True)
    assert outputs.guided is not None
    for index, ((own, behind), new) in enumerate(zip(rows, tokens, strict=True)):
        for place in range(len(new)):
            scores = expected_scores(own + new[: place + 1], behind + new[: place + 1])
            assert np.allclose(outputs.guided[index, place], scores, atol=1e-5)
    assert decoder.lengths.tolist() == [len(own + new) for (own, _), new in zip(rows, tokens, strict=True)]


def test_the_first_outputs_are_those_of_prompts_and_negative_prompts() -> None:
    decoder = GuidedDecoder(FakeDecoder(VOCAB, 100, rows=3), SCALE, NEGATIVES)
    outputs = decoder.extend(PROMPTS, hidden=True)
    assert outputs.guided is not None
    assert outputs.hidden is not None
    assert outputs.logits.shape == outputs.guided.shape == (3, 1, VOCAB)
    assert outputs.hidden.shape[:2] == (3, 3)
    assert outputs.scores is outputs.guided
    for index, (prompt, negative) in enumerate(zip(PROMPTS, NEGATIVES, strict=True)):
        assert np.array_equal(outputs.logits[index, 0], fake_logits(prompt, VOCAB))
        assert np.allclose(outputs.guided[index, 0], expected_scores(prompt, negative), atol=1e-5)


def test_one_pass_serves_both_halves() -> None:
    decoder, inner, _ = started()
    decoder.extend([(1,), (2,), (3,)])
    assert inner.verbs.count("extend") == 2


VERBS: dict[str, tuple[Callable[[GuidedDecoder], object], list[int]]] = {
    "extend": (lambda decoder: None, [0, 1, 2]),
    "reorder": (lambda decoder: decoder.reorder([2, 0, 0, 1]), [2, 0, 0, 1]),
    "fewer": (lambda decoder: decoder.reorder(np.array([1])), [1]),
    "repeat": (lambda decoder: decoder.repeat(2), [0, 0, 1, 1, 2, 2]),
}


@pytest.mark.parametrize("verb", VERBS)
def test_both_halves_of_a_row_move_together(verb: str) -> None:
    decoder, _, rows = started()
    move, sources = VERBS[verb]
    move(decoder)
    rows = [rows[source] for source in sources]
    assert decoder.num_rows == len(rows)
    tokens = [tuple(range(1, 1 + index % 3 + 1)) for index in range(len(rows))]
    assert_rows(decoder, rows, tokens)


def test_siblings_are_chosen_in_both_halves() -> None:
    decoder, _, rows = started()
    outputs = decoder.extend([(1, 2), (3, 4), (5, 6)], outputs="all", siblings=True)
    assert outputs.guided is not None
    for index, (own, behind) in enumerate(rows):
        for place in range(2):
            token = (1 + 2 * index + place,)
            scores = expected_scores(own + token, behind + token)
            assert np.allclose(outputs.guided[index, place], scores, atol=1e-5)
    decoder.keep([[1], [0], [1]])
    kept = [(2,), (3,), (6,)]
    rows = [(own + new, behind + new) for (own, behind), new in zip(rows, kept, strict=True)]
    assert_rows(decoder, rows, [(7,), (8, 9), (10,)])


def test_trimming_takes_the_same_tokens_from_both_halves() -> None:
    decoder, _, rows = started()
    decoder.extend([(1, 2, 3), (4, 5), (6,)])
    decoder.reorder([1, 0, 2])
    decoder.trim([2, 4, 2])
    rows = [
        (rows[1][0] + (4,), rows[1][1] + (4,)),
        (rows[0][0] + (1,), rows[0][1] + (1,)),
        rows[2],
    ]
    assert_rows(decoder, rows, [(7,), (8, 9), (10,)])


def test_a_fork_goes_its_own_way() -> None:
    decoder, _, rows = started()
    twin = decoder.fork()
    twin.extend([(1,), (2,), (3,)])
    twin.reorder([2])
    assert_rows(decoder, rows, [(4,), (5,), (6, 7)])
    assert_rows(twin, [(rows[2][0] + (3,), rows[2][1] + (3,))], [(8,)])


def test_rows_that_hold_a_beginning_already_get_the_rest_of_their_prompts() -> None:
    inner = FakeDecoder(VOCAB, 100, rows=2)
    inner.extend([(1, 2), (5,)])
    decoder = GuidedDecoder(inner, SCALE, NEGATIVES[:2])
    outputs = decoder.extend([(3,), (6, 7)])
    assert outputs.guided is not None
    for index, (own, behind) in enumerate([((1, 2, 3), NEGATIVES[0]), ((5, 6, 7), NEGATIVES[1])]):
        assert np.allclose(outputs.guided[index, 0], expected_scores(own, behind), atol=1e-5)


@pytest.mark.parametrize(
    ("verb", "named"),
    [
        (lambda decoder: decoder.extend([(1,), (2,)]), "token_ids"),
        (lambda decoder: decoder.reorder([3]), "source_rows[0]"),  # a row of the other half
        (lambda decoder: decoder.keep([[0], [0], [0]]), "chosen"),
        (lambda decoder: decoder.trim([2, 1, 2]), "lengths"),
        (lambda decoder: decoder.trim([3, 1]), "lengths"),
    ],
)
def test_what_would_tear_the_halves_apart_is_refused(
    verb: Callable[[GuidedDecoder], object], named: str
) -> None:
    decoder, _, rows = started()
    with pytest.raises(OptionError) as caught:
        verb(decoder)
    assert caught.value.option == named
    assert_rows(decoder, rows, [(1,), (2,), (3,)])


@pytest.mark.parametrize("options", [{"outputs": "all"}, {"siblings": True}])
def test_places_before_the_prompts_ends_have_no_guided_scores(options: dict[str, object]) -> None:
    decoder = GuidedDecoder(FakeDecoder(VOCAB, 100, rows=3), SCALE, NEGATIVES)
    with pytest.raises(OptionError, match="outputs"):
        decoder.extend(PROMPTS, **options)  # type: ignore[arg-type]


def test_what_the_inner_decoder_can_do_can_be_done() -> None:
    decoder, inner, _ = started()
    assert decoder.capabilities is inner.capabilities
    assert (decoder.context, decoder.vocab_size) == (inner.context, inner.vocab_size)
    assert (decoder.capacity, decoder.nbytes) == (inner.capacity, inner.nbytes)
    decoder.release()
    assert inner.nbytes == 0


def test_scores_move_away_from_what_is_avoided() -> None:
    liked, avoided = np.log([[[0.5, 0.3, 0.2]]]), np.log([[[0.25, 0.5, 0.25]]])
    logits = liked.astype(np.float32) + 7, avoided.astype(np.float32) - 3  # a constant makes no difference
    scores = guided_scores(*logits, 2.0)
    assert scores.dtype == np.float32
    assert scores[0, 0] == pytest.approx(np.log([0.5**2 / 0.25, 0.3**2 / 0.5, 0.2**2 / 0.25]), abs=1e-5)
    assert guided_scores(*logits, 0.0)[0, 0] == pytest.approx(avoided[0, 0], abs=1e-5)


def test_no_scale_and_no_excluded_token_makes_scores_that_are_no_numbers() -> None:
    liked = np.array([[[0.0, -1.0, -np.inf, -np.inf]]], np.float32)
    avoided = np.array([[[-1.0, -np.inf, 0.0, -np.inf]]], np.float32)
    for scale in (0.0, 0.5, 3.0, 1e308):
        assert np.isfinite(guided_scores(liked, avoided, scale)).all()
    assert guided_scores(liked, avoided, 3.0)[0, 0, 2:].max() <= np.finfo(np.float32).min


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("half", [0, 1])
def test_logits_that_are_no_numbers_give_no_scores(half: int, bad: float) -> None:
    halves = [np.zeros((2, 1, 4), np.float32), np.zeros((2, 1, 4), np.float32)]
    halves[half][1, 0, 2] = bad
    scores = guided_scores(halves[0], halves[1], 1.5)
    assert np.isfinite(scores[0]).all()
    assert np.isnan(scores[1]).all()


def test_both_halves_of_rows_that_join_come_along() -> None:
    decoder, _, rows = started()
    decoder.extend([(1,), (2,), (3,)])
    rows = [(own + new, behind + new) for (own, behind), new in zip(rows, [(1,), (2,), (3,)], strict=True)]
    decoder.reorder([2, 0])
    prompts, negatives = [(13, 14), (15,)], [(16,), (17, 18, 19)]
    other = GuidedDecoder(FakeDecoder(VOCAB, 100, rows=2), SCALE, negatives)
    other.extend(prompts)
    decoder.join(other)
    rows = [rows[2], rows[0], *zip(prompts, negatives, strict=True)]
    with pytest.raises(OptionError, match="first extend"):  # it brought what the new rows hold
        decoder.trim([1, 1, 1, 1])
    with pytest.raises(OptionError, match="later extend"):
        decoder.keep([[0]] * 4)
    assert_rows(decoder, rows, [(20,), (21, 22), (23,), (24, 25)])


def test_rows_join_before_the_prompts_are_read_as_well() -> None:
    decoder = GuidedDecoder(FakeDecoder(VOCAB, 100, rows=1), SCALE, NEGATIVES[:1])
    decoder.join(GuidedDecoder(FakeDecoder(VOCAB, 100, rows=2), SCALE, NEGATIVES[1:]))
    decoder.extend(PROMPTS)
    assert_rows(decoder, list(zip(PROMPTS, NEGATIVES, strict=True)), [(1,), (2,), (3,)])


def test_what_is_guided_otherwise_or_stands_elsewhere_can_not_join() -> None:
    decoder, inner, _ = started()
    unread = GuidedDecoder(FakeDecoder(VOCAB, 100), SCALE, [(1,)])
    otherwise = GuidedDecoder(FakeDecoder(VOCAB, 100), 2.5, [(1,)])
    otherwise.extend([(1,)])
    for other, problem in (
        (unread, "read its prompts"),
        (otherwise, "guided by 1.5"),
        (inner, "guided by 1.5"),
    ):
        with pytest.raises(OptionError, match=problem):
            decoder.join(other)  # type: ignore[arg-type]
    assert decoder.num_rows == 3

"""The fakes keep the contracts that they stand in for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ortgpt.errors import ContextLengthError, OptionError, OrtgptError
from ortgpt.interfaces import Decoder, Tokenizer
from ortgpt.testing import ByteTokenizer, FakeDecoder, fake_logits

VOCAB = 257


def logits_after(*histories: tuple[int, ...]) -> np.ndarray:
    return np.stack([fake_logits(history, VOCAB) for history in histories])


@pytest.fixture
def decoder() -> FakeDecoder:
    """Two rows that hold (1, 2, 3) and (7,)."""
    decoder = FakeDecoder(VOCAB, context=16, rows=2)
    decoder.extend([[1, 2, 3], [7]])
    return decoder


def test_the_fakes_have_the_types_of_the_protocols() -> None:
    tokenizer: Tokenizer = ByteTokenizer()
    decoder: Decoder = FakeDecoder(VOCAB, 8)
    assert (tokenizer.size, decoder.vocab_size, decoder.context) == (257, VOCAB, 8)


def test_bytes_are_tokens_and_the_end_of_text_is_special() -> None:
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode("é<|endoftext|>x<|endoftext|>")
    assert ids == [0xC3, 0xA9, 256, ord("x"), 256]
    assert tokenizer.decode(ids) == "éx"
    assert [tokenizer.token_text(i) for i in (256, ord("x"), 0xC3)] == ["<|endoftext|>", "x", "\ufffd"]
    assert tokenizer.token_bytes(256) == tokenizer.token_bytes(999) == b""
    with pytest.raises(OptionError):
        tokenizer.encode("\ud800")


def test_logits_are_a_function_of_the_whole_history_and_of_nothing_else() -> None:
    first, second = FakeDecoder(VOCAB, 16), FakeDecoder(VOCAB, 16, rows=3)
    first.extend([[1, 2]])
    in_steps = first.extend([[3]]).logits[0, -1]
    second.extend([[9], [1], [5]])
    at_once = second.extend([[9], [2, 3], [5]]).logits[1, -1]
    np.testing.assert_array_equal(in_steps, at_once)
    np.testing.assert_array_equal(in_steps, fake_logits((1, 2, 3), VOCAB))
    assert not np.array_equal(in_steps, fake_logits((2, 1, 3), VOCAB))
    assert not np.array_equal(in_steps, fake_logits((0, 1, 2, 3), VOCAB))


def test_extend_gives_the_last_outputs_or_all_of_them(decoder: FakeDecoder) -> None:
    last = decoder.extend([[4, 5], [8]])
    assert last.logits.shape == (2, 1, VOCAB)
    assert last.hidden is None
    np.testing.assert_array_equal(last.logits[:, -1], logits_after((1, 2, 3, 4, 5), (7, 8)))
    every = decoder.extend([[6, 9], [10]], outputs="all", hidden=True)
    assert every.logits.shape == (2, 2, VOCAB)
    assert every.hidden is not None
    assert every.hidden.shape == (2, 2, 8)
    np.testing.assert_array_equal(every.logits[0, 0], fake_logits((1, 2, 3, 4, 5, 6), VOCAB))
    np.testing.assert_array_equal(every.logits[1, 0], fake_logits((7, 8, 10), VOCAB))
    assert np.isnan(every.logits[1, 1]).all()  # padding


def test_siblings_see_the_past_and_themselves_and_keep_chooses(decoder: FakeDecoder) -> None:
    outputs = decoder.extend([[4, 5], [8, 9]], outputs="all", siblings=True)
    expected = logits_after((1, 2, 3, 4), (1, 2, 3, 5), (7, 8), (7, 9))
    np.testing.assert_array_equal(outputs.logits.reshape(4, VOCAB), expected)
    decoder.keep([[1], []])
    assert decoder.histories == ((1, 2, 3, 5), (7,))


def test_keep_moves_the_chosen_tokens_down(decoder: FakeDecoder) -> None:
    decoder.extend([[4, 5, 6], [8]])
    decoder.keep([[0, 2], [0]])
    assert decoder.histories == ((1, 2, 3, 4, 6), (7, 8))


def test_rows_can_be_reordered_repeated_and_trimmed(decoder: FakeDecoder) -> None:
    decoder.reorder([1, 0, 1])
    assert decoder.histories == ((7,), (1, 2, 3), (7,))
    decoder.reorder([1, 0])
    decoder.repeat(2)
    assert decoder.histories == ((1, 2, 3), (1, 2, 3), (7,), (7,))
    decoder.trim([1, 2, 0, 1])
    assert decoder.histories == ((1,), (1, 2), (), (7,))
    assert decoder.lengths.tolist() == [1, 2, 0, 1]
    assert decoder.num_rows == 4


def test_rows_that_join_come_behind_and_their_decoder_is_released(decoder: FakeDecoder) -> None:
    other = FakeDecoder(VOCAB, context=16, rows=2)
    other.extend([[4], [5, 6]])
    decoder.join(other)
    assert decoder.histories == ((1, 2, 3), (7,), (4,), (5, 6))
    assert (other.histories, other.capacity) == ((), 0)
    decoder.keep([[0], [0], [], [1]])  # of the tokens that came last, in either decoder
    assert decoder.histories == ((1,), (7,), (), (6,))
    with pytest.raises(OrtgptError, match="released"):
        other.extend([[1]])


def test_a_fork_goes_its_own_way(decoder: FakeDecoder) -> None:
    twin = decoder.fork()
    twin.extend([[4], [8]])
    decoder.release()
    assert twin.histories == ((1, 2, 3, 4), (7, 8))
    assert (decoder.histories, decoder.nbytes, decoder.capacity) == ((), 0, 0)


@pytest.mark.parametrize(
    "verb",
    [
        lambda decoder: decoder.extend([[1], [1]]),
        lambda decoder: decoder.reorder([0]),
        lambda decoder: decoder.repeat(2),
        lambda decoder: decoder.fork(),
        lambda decoder: decoder.keep([[0], [0]]),
        lambda decoder: decoder.trim([1, 1]),
        lambda decoder: decoder.join(FakeDecoder(VOCAB, 16)),
        lambda decoder: decoder.release(),
    ],
    ids=["extend", "reorder", "repeat", "fork", "keep", "trim", "join", "release"],
)
def test_outputs_are_valid_until_the_next_verb(verb: Callable[[FakeDecoder], object]) -> None:
    decoder = FakeDecoder(VOCAB, 16, rows=2)
    logits, hidden, _ = decoder.extend([[1], [2]], hidden=True)
    assert hidden is not None
    assert np.isfinite(logits).all()
    verb(decoder)
    assert np.isnan(logits).all()
    assert np.isnan(hidden).all()


def test_nan_comes_at_the_call_and_row_that_were_named() -> None:
    decoder = FakeDecoder(VOCAB, 16, rows=2, nan_at=[(1, 0)])
    assert np.isfinite(decoder.extend([[1], [2]]).logits).all()
    assert np.isnan(decoder.extend([[1], [2]]).logits).all(axis=(1, 2)).tolist() == [True, False]
    assert np.isfinite(decoder.extend([[1], [2]]).logits).all()


def test_logits_can_be_given_by_the_caller() -> None:
    decoder = FakeDecoder(4, 16, logits_of=lambda history: np.full(4, sum(history), np.float32))
    assert decoder.extend([[1, 3]], outputs="all").logits[0, :, 0].tolist() == [1, 4]


def test_the_verbs_are_recorded(decoder: FakeDecoder) -> None:
    decoder.repeat(2)
    decoder.extend([[4]] * 4)
    decoder.release()
    decoder.release()
    assert decoder.verbs == ["extend", "repeat", "extend", "release"]


def test_the_context_is_a_limit() -> None:
    decoder = FakeDecoder(VOCAB, context=3)
    decoder.extend([[1, 2]])
    decoder.extend([[3, 4, 5]], siblings=True)  # all at the third place
    decoder.keep([[2]])
    with pytest.raises(ContextLengthError):
        decoder.extend([[6]])


@pytest.mark.parametrize(
    "misuse",
    [
        lambda decoder: decoder.extend([[1]]),
        lambda decoder: decoder.extend([[1], []]),
        lambda decoder: decoder.extend([[1], [VOCAB]]),
        lambda decoder: decoder.extend([[1], [-1]]),
        lambda decoder: decoder.reorder([2]),
        lambda decoder: decoder.reorder([-1]),
        lambda decoder: decoder.repeat(0),
        lambda decoder: decoder.keep([[0]]),
        lambda decoder: decoder.keep([[3], []]),
        lambda decoder: decoder.keep([[1, 1], []]),
        lambda decoder: decoder.trim([4, 1]),
        lambda decoder: decoder.trim([1]),
        lambda decoder: decoder.join(decoder),
        lambda decoder: decoder.join(FakeDecoder(VOCAB + 1, 16)),
    ],
)
def test_misuse_is_an_error(decoder: FakeDecoder, misuse: Callable[[FakeDecoder], object]) -> None:
    before = decoder.histories
    with pytest.raises(OptionError):
        misuse(decoder)
    assert decoder.histories == before


def test_siblings_need_a_choice_of_one_before_the_row_can_go_on(decoder: FakeDecoder) -> None:
    decoder.extend([[4, 5], [8, 9]], siblings=True)
    with pytest.raises(OptionError, match="siblings"):
        decoder.extend([[6], [6]])
    with pytest.raises(OptionError, match="sibling"):
        decoder.keep([[0, 1], [0]])
    with pytest.raises(OptionError, match="siblings"):
        decoder.join(FakeDecoder(VOCAB, 16))
    with pytest.raises(OptionError, match="siblings"):
        FakeDecoder(VOCAB, 16).join(decoder)


def test_a_released_decoder_can_not_be_used(decoder: FakeDecoder) -> None:
    decoder.release()
    with pytest.raises(OrtgptError, match="released"):
        decoder.extend([])

"""Options that are given as text, as token ids."""

from __future__ import annotations

from collections.abc import Sequence

import ortgpt
from ortgpt.option_ids import bad_word_ids, breaker_ids, sequence_biases
from ortgpt.options import Options


class Pieces:
    """A tokenizer of given pieces: the longest that fits comes first."""

    special_ids: frozenset[int] = frozenset()

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces
        self.size = len(pieces)
        self.longest_token = max(map(len, pieces))

    def token_bytes(self, token_id: int) -> bytes:
        return self.pieces[token_id]

    def token_text(self, token_id: int) -> str:
        return self.pieces[token_id].decode("utf-8", "replace")

    def decode(self, token_ids: Sequence[int]) -> str:
        return b"".join(map(self.token_bytes, token_ids)).decode("utf-8", "replace")

    def encode(self, text: str) -> list[int]:
        data, ids = text.encode(), []
        while data:
            best = max((piece for piece in self.pieces if piece and data.startswith(piece)), key=len)
            ids.append(self.pieces.index(best))
            data = data[len(best) :]
        return ids


def breakers(tokenizer: Pieces, *texts: str) -> set[tuple[int, ...]]:
    return set(breaker_ids(Options(dry_multiplier=1.0, dry_sequence_breakers=texts), tokenizer))


def test_a_token_that_holds_a_breaker_is_one() -> None:
    tokenizer = Pieces(b"a", b"\n", b"a\n", b"\nb", b"b")
    assert breakers(tokenizer, "\n") == {(1,), (2,), (3,)}


def test_a_token_that_ends_with_the_beginning_of_a_breaker_is_one_before_the_rest() -> None:
    tokenizer = Pieces(b"x", b"\n", b"\n\n", b"x\n", b"##", b"#", b"\n#", b"y#\n")
    assert breakers(tokenizer, "\n\n#") == {
        (1, 6),  # "\n" and "\n#"
        (2, 5),
        (2, 6),  # its second half, "\n", before "\n#"
        (3, 6),
        (7, 6),
    }
    assert breakers(tokenizer, "##") == {(4,), (5, 5), (6, 5)}


def test_half_a_character_goes_before_the_token_of_the_other_half() -> None:
    tokenizer = Pieces(b"a", b"\xe2\x80", b"\xa6", b"\xe2", b"\x80\xa6", "…".encode(), b"\x80")
    assert breakers(tokenizer, "…") == {(5,), (1, 2), (3, 4)}


def test_without_dry_nothing_is_looked_up() -> None:
    assert breaker_ids(Options(), Pieces(b"\n")) == []


def test_the_default_breakers_are_those_of_llama_cpp(storyteller_model: ortgpt.Model) -> None:
    tokenizer = storyteller_model.tokenizer
    found = set(breaker_ids(Options(dry_multiplier=1.0), tokenizer))
    expected = {
        (token_id,)
        for token_id in range(tokenizer.size)
        if any(sign in tokenizer.token_bytes(token_id) for sign in (b"\n", b":", b'"', b"*"))
    }
    assert found == expected
    assert len(expected) > 3
    assert breaker_ids(Options(dry_multiplier=1.0, dry_sequence_breakers=[]), tokenizer) == []


def test_a_text_is_biased_at_the_beginning_and_after_a_space(storyteller_model: ortgpt.Model) -> None:
    encode = storyteller_model.tokenizer.encode
    options = Options(sequence_bias={"golden key": 2.0, " fox": 1.0, (5, 6): -1.0})
    assert sequence_biases(options, storyteller_model.tokenizer) == {
        tuple(encode("golden key")): 2.0,
        tuple(encode(" golden key")): 2.0,
        tuple(encode(" fox")): 1.0,
        (5, 6): -1.0,
    }


def test_biases_of_the_same_ids_add_up(storyteller_model: ortgpt.Model) -> None:
    fox = tuple(storyteller_model.tokenizer.encode(" fox"))
    options = Options(sequence_bias={"fox": 2.0, fox: 1.5})
    assert sequence_biases(options, storyteller_model.tokenizer)[fox] == 3.5


def test_a_bad_word_is_banned_at_the_beginning_and_after_a_space(storyteller_model: ortgpt.Model) -> None:
    encode = storyteller_model.tokenizer.encode
    found = bad_word_ids(Options(bad_words=["fox", [7, 8], " fox"]), storyteller_model.tokenizer)
    assert found == [tuple(encode("fox")), tuple(encode(" fox")), (7, 8)]

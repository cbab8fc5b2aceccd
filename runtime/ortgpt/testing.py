"""Fakes for tests: a tokenizer of bytes and a decoder whose logits are a function of its history.

Neither needs a model. What a strategy does with a `FakeDecoder` can be checked exactly, because
`fake_logits(history, vocab_size)` says what every row must have seen.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Sequence
from typing import Literal, Self

import numpy as np

from ortgpt.checks import check_int, check_text, check_token_ids
from ortgpt.errors import ContextLengthError, OptionError, OrtgptError
from ortgpt.interfaces import Capabilities, Floats, Ids, Outputs

END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_ID = 256

History = tuple[int, ...]


class ByteTokenizer:
    """One token per UTF-8 byte, and <|endoftext|>, which is recognised in a text."""

    size = 257
    special_ids = frozenset((END_OF_TEXT_ID,))
    prefix_ids: tuple[int, ...] = ()
    longest_token = len(END_OF_TEXT)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for index, part in enumerate(check_text("prompt", text).split(END_OF_TEXT)):
            ids += [END_OF_TEXT_ID] if index else []
            ids += part.encode()
        return ids

    def encode_prompt(self, text: str) -> list[int]:
        return [*self.prefix_ids, *self.encode(text)]

    def token_bytes(self, token_id: int) -> bytes:
        return bytes((token_id,)) if 0 <= token_id < 256 else b""

    def token_text(self, token_id: int) -> str:
        return END_OF_TEXT if token_id == END_OF_TEXT_ID else self.decode((token_id,))

    def decode(self, token_ids: Sequence[int]) -> str:
        return b"".join(map(self.token_bytes, token_ids)).decode("utf-8", "replace")


def fake_logits(history: Sequence[int] | Ids, vocab_size: int) -> Floats:
    """The default logits (vocab,) after a history: normally distributed, seeded by all its ids."""
    return _noise(history, 0, vocab_size)


class FakeDecoder:
    """Implements `ortgpt.interfaces.Decoder` without a model.

    vocab_size, context   as a model's; a row can't grow beyond the context
    rows                  empty rows to begin with
    hidden_size           width of the hidden states
    logits_of             logits (vocab,) after a history; None: `fake_logits`
    nan_at                (call, row) pairs: there `extend`, counted from 0, gives NaN logits
    capabilities          what it claims; by default all

    Its outputs are overwritten with NaN at the next verb, so that a caller who keeps them too long
    is found out.

    histories  the ids of each row
    verbs      the names of the verbs called so far, those of the ancestors of a fork included
    """

    def __init__(
        self,
        vocab_size: int,
        context: int,
        rows: int = 1,
        *,
        hidden_size: int = 8,
        logits_of: Callable[[History], Floats] | None = None,
        nan_at: Collection[tuple[int, int]] = (),
        capabilities: Capabilities | None = None,
    ) -> None:
        self.vocab_size, self.context, self._hidden_size = vocab_size, context, hidden_size
        self.capabilities = capabilities or Capabilities(True, True, True, True)
        self.verbs: list[str] = []
        self._logits_of = logits_of or (lambda history: fake_logits(history, vocab_size))
        self._nan_at = frozenset(nan_at)
        self._rows: list[History] = [()] * check_int("rows", rows, 1)
        self._added = [0] * rows  # how many ids of each row the last extend brought
        self._has_siblings = False
        self._num_calls = 0
        self._outputs: list[Floats] = []
        self._is_released = False

    @property
    def histories(self) -> tuple[History, ...]:
        return tuple(self._rows)

    @property
    def num_rows(self) -> int:
        return len(self._rows)

    @property
    def lengths(self) -> Ids:
        return np.array([len(row) for row in self._rows], np.int64)

    @property
    def capacity(self) -> int:
        return 0 if self._is_released else self.context

    @property
    def nbytes(self) -> int:
        """Eight bytes per token that the rows have room for."""
        return 8 * self.capacity * self.num_rows

    def extend(
        self,
        token_ids: Sequence[Sequence[int] | Ids] | Ids,
        *,
        outputs: Literal["last", "all"] = "last",
        hidden: bool = False,
        siblings: bool = False,
    ) -> Outputs:
        """As in the protocol. Raises OptionError for bad ids, ContextLengthError for too many."""
        self._begin("extend")
        added = self._checked(token_ids, siblings)
        width = max(map(len, added))
        logits = np.full((len(added), 1 if outputs == "last" else width, self.vocab_size), np.nan, np.float32)
        states = np.full((len(added), width, self._hidden_size), np.nan, np.float32)
        for row, ids in enumerate(added):
            seen = _histories(self._rows[row], ids, siblings)
            states[row, : len(ids)] = [_noise(history, 1, self._hidden_size) for history in seen]
            if (self._num_calls, row) not in self._nan_at:
                wanted = seen if outputs == "all" else seen[-1:]
                logits[row, : len(wanted)] = [self._logits_of(history) for history in wanted]
        self._rows = [row + ids for row, ids in zip(self._rows, added, strict=True)]
        self._added, self._has_siblings = list(map(len, added)), siblings
        self._num_calls += 1
        self._outputs = [logits, states]
        return Outputs(logits, states if hidden else None)

    def reorder(self, source_rows: Sequence[int] | Ids) -> None:
        self._begin("reorder")
        self._take(check_token_ids("source_rows", source_rows, self.num_rows))

    def repeat(self, times: int) -> None:
        self._begin("repeat")
        self._take([row for row in range(self.num_rows) for _ in range(check_int("times", times, 1))])

    def fork(self) -> Self:
        self._begin("fork")
        twin = type(self)(
            self.vocab_size,
            self.context,
            hidden_size=self._hidden_size,
            logits_of=self._logits_of,
            nan_at=self._nan_at,
            capabilities=self.capabilities,
        )
        twin._rows, twin._added = self._rows.copy(), self._added.copy()
        twin._has_siblings = self._has_siblings
        twin._num_calls, twin.verbs = self._num_calls, self.verbs.copy()
        return twin

    def keep(self, chosen: Sequence[Sequence[int]]) -> None:
        self._begin("keep")
        _check_count("chosen", len(chosen), self.num_rows)
        for row, (added, kept) in enumerate(zip(self._added, chosen, strict=True)):
            places = check_token_ids(f"chosen[{row}]", kept, added)
            if len(set(places)) != len(places) or (self._has_siblings and len(places) > 1):
                raise OptionError(f"chosen[{row}]", "must name different tokens, and one sibling at most")
            first = len(self._rows[row]) - added
            self._rows[row] = self._rows[row][:first] + tuple(self._rows[row][first + i] for i in places)
        self._added, self._has_siblings = list(map(len, chosen)), False

    def trim(self, lengths: Sequence[int] | Ids) -> None:
        self._begin("trim")
        _check_count("lengths", len(lengths), self.num_rows)
        for row, length in enumerate(lengths):
            self._rows[row] = self._rows[row][: check_int("lengths", length, 0, len(self._rows[row]))]
        self._added, self._has_siblings = [0] * self.num_rows, False

    def join(self, other: FakeDecoder) -> None:
        self._begin("join")
        if other is self or not isinstance(other, FakeDecoder) or other.vocab_size != self.vocab_size:
            raise OptionError("other", "must be another decoder of the same model")
        if self._has_siblings or other._has_siblings:
            raise OptionError("other", "comes after siblings of which `keep` has chosen none")
        rows, added = self._rows + other._rows, self._added + other._added
        other.release()
        self._rows, self._added = rows, added

    def release(self) -> None:
        """Rows are gone; releasing again does nothing."""
        if not self._is_released:
            self._begin("release")
            self._rows, self._added, self._is_released = [], [], True

    def _begin(self, verb: str) -> None:
        """What every verb does first: old outputs are no longer valid."""
        if self._is_released:
            raise OrtgptError(f"{verb} on a decoder that has been released")
        self.verbs.append(verb)
        for array in self._outputs:
            array.fill(np.nan)
        self._outputs = []

    def _take(self, source_rows: Sequence[int]) -> None:
        self._rows = [self._rows[row] for row in source_rows]
        self._added = [self._added[row] for row in source_rows]

    def _checked(self, token_ids: Sequence[Sequence[int] | Ids] | Ids, siblings: bool) -> list[History]:
        if self._has_siblings:
            raise OptionError("token_ids", "come after siblings of which `keep` has chosen none")
        _check_count("token_ids", len(token_ids), self.num_rows)
        added = [check_token_ids(f"token_ids[{i}]", ids, self.vocab_size) for i, ids in enumerate(token_ids)]
        for index, (row, ids) in enumerate(zip(self._rows, added, strict=True)):
            if not ids:
                raise OptionError(f"token_ids[{index}]", "is empty")
            length = len(row) + (1 if siblings else len(ids))
            if length > self.context:
                raise ContextLengthError(
                    f"token_ids[{index}]", f"makes {length} tokens, the context is {self.context}"
                )
        return added


def _histories(past: History, ids: History, siblings: bool) -> list[History]:
    """What each new token sees, itself included."""
    if siblings:
        return [(*past, token_id) for token_id in ids]
    return [past + ids[: count + 1] for count in range(len(ids))]


def _noise(history: Sequence[int] | Ids, stream: int, size: int) -> Floats:
    seed = zlib.crc32(np.asarray(history, np.int64).tobytes())
    rng = np.random.default_rng((seed, len(history), stream))
    return 2 * rng.standard_normal(size, dtype=np.float32)


def _check_count(name: str, got: int, rows: int) -> None:
    if got != rows:
        raise OptionError(name, f"must have one entry per row, got {got} for {rows} rows")

"""Protocols between the floors: what a part must offer, so that no part needs to know another."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, NamedTuple, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from ortgpt.errors import OrtgptError
from ortgpt.results import FinishReason

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]
R = TypeVar("R")


class Processor(Protocol):
    """Changes the scores of one row. Pure: never writes into its input, keeps no state between calls.

    token_ids  int64 (length,): prompt and output so far
    logits     float32 (vocab,): the row's scores
    returns    float32 (vocab,): new scores; -inf excludes a token
    """

    def __call__(self, token_ids: Ids, logits: Floats, /) -> Floats: ...


class Constraint(Protocol):
    """A demand on one sequence's text, bound to its prompt and budget.

    Pure: everything follows from the generated ids, int64 (length,), the output without its prompt.
    So a constraint holds for whatever row a sequence is in, in any order, and when tokens are taken back.
    """

    def apply(self, generated: Ids, scores: Floats, /) -> Floats:
        """Scores float32 (vocab,) of the next token, -inf where it would break the demand."""
        ...

    def may_end(self, generated: Ids, place: int | None = None, /) -> bool:
        """Whether the output's text may end: as it stands, or where a stop cuts it, at character `place`."""
        ...

    def is_complete(self, generated: Ids, /) -> bool:
        """Whether nothing may follow: the text is to end now."""
        ...

    def owes(self, generated: Ids, /) -> bool:
        """Whether something promised for certain is missing: not even the length excuses that."""
        ...

    def fits(self, generated: Ids, token_ids: Sequence[int], /) -> bool:
        """Whether these ids may come next, one after the other."""
        ...


class Tokenizer(Protocol):
    """Text to ids and ids to bytes."""

    size: int  # ids 0 .. size - 1 are known
    special_ids: frozenset[int]
    prefix_ids: tuple[int, ...]  # special tokens that stand before every prompt; mostly none
    longest_token: int  # bytes of the longest one: bounds from below how many tokens a text has

    def encode(self, text: str) -> list[int]:
        """The ids of a text that stands anywhere: their bytes are those of the text."""
        ...

    def encode_prompt(self, text: str) -> list[int]:
        """The ids of a text that nothing stands before: prefix_ids come first."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for; b"" for special tokens, which text never shows."""
        ...

    def token_text(self, token_id: int) -> str:
        """One token for showing, special tokens by name, incomplete characters as U+FFFD."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str: ...


@dataclass(frozen=True)
class Capabilities:
    """What a decoder can do beyond the verbs; asked for, never guessed from its type."""

    hidden_states: bool
    shared_rows: bool  # several candidates in one row, through attention_bias
    ragged_widths: bool  # several rows with several new tokens on a past, in one call
    row_invariant: bool  # a row's logits do not depend on the other rows


class Outputs(NamedTuple):
    """What a forward pass returns. Buffers are reused: valid until the decoder's next verb.

    logits  float32 (rows, outputs, vocab), raw
    hidden  float32 (rows, width, n_embd) after the last layer norm, or None when not asked for
    guided  float32 (rows, outputs, vocab): what the processors are to see in place of the logits,
            where the decoder applies guidance; else None
    """

    logits: Floats
    hidden: Floats | None
    guided: Floats | None = None

    @property
    def scores(self) -> Floats:
        """(rows, outputs, vocab): what the processors see."""
        return self.logits if self.guided is None else self.guided

    def at(self, rows: Ids, places: Ids | int = -1) -> Outputs:
        """One output of each of these rows, (rows, 1, vocab): copies, which outlast the next verb."""
        guided = None if self.guided is None else self.guided[rows, places][:, None]
        return Outputs(self.logits[rows, places][:, None], None, guided)

    def followed_by(self, other: Outputs) -> Outputs:
        """Of the rows of both: copies, padded behind where one has fewer outputs, without hidden states."""
        guided = None
        if self.guided is not None and other.guided is not None:
            guided = _stacked(self.guided, other.guided)
        return Outputs(_stacked(self.logits, other.logits), None, guided)

    def last(self, row: int) -> tuple[Floats, Floats]:
        """A row's last output, raw logits and scores (vocab,); without guidance one and the same array."""
        raw: Floats = self.logits[row, -1]
        return raw, raw if self.guided is None else self.guided[row, -1]


class Decoder(Protocol):
    """Rows of tokens with their cache. The verbs are a closed list.

    A decoder belongs to one generation; many decoders may share one session.
    """

    capabilities: Capabilities
    context: int
    vocab_size: int

    @property
    def num_rows(self) -> int: ...
    @property
    def lengths(self) -> Ids: ...
    @property
    def capacity(self) -> int: ...
    @property
    def nbytes(self) -> int: ...

    def extend(
        self,
        token_ids: Sequence[Sequence[int] | Ids] | Ids,
        *,
        outputs: Literal["last", "all"] = "last",
        hidden: bool = False,
        siblings: bool = False,
    ) -> Outputs:
        """Append new tokens to every row (prefill, decode, drafts) and run the model on them.

        token_ids  one sequence of ids per row; widths may differ, none may be empty
        outputs    logits of each row's last new token, or of all (padded to the widest row)
        hidden     also return the hidden states of all new tokens
        siblings   the new tokens are alternatives to each other: each sees the row's past and
                   itself only, all at the same position; `keep` then chooses among them.
                   OptionError without the capability shared_rows
        """
        ...

    def reorder(self, source_rows: Sequence[int] | Ids) -> None:
        """Row i continues from row source_rows[i]; the number of rows may change."""
        ...

    def repeat(self, times: int) -> None:
        """Every row becomes `times` adjacent rows."""
        ...

    def fork(self) -> Decoder:
        """An independent copy: same rows, own cache."""
        ...

    def keep(self, chosen: Sequence[Sequence[int]]) -> None:
        """Of the tokens that the last `extend` appended to row i keep chosen[i], in that order."""
        ...

    def trim(self, lengths: Sequence[int] | Ids) -> None:
        """Shorten row i to lengths[i] tokens."""
        ...

    def join(self, other: Self) -> None:
        """Append the rows of another decoder of the same model, with what they hold; that one is released."""
        ...

    def release(self) -> None:
        """Free the cache; the decoder can't be used afterwards."""
        ...


class DraftModel(Protocol):
    """A loaded model as far as speculative decoding needs to know it."""

    tokenizer: Tokenizer

    def decoder(self, rows: int = 1) -> Decoder: ...


class TextState(Protocol):
    """A sequence's way from ids to text, as far as a search needs to know it.

    A search that follows several continuations of one sequence feeds each to a copy.
    """

    token_ids: list[int]
    finish_reason: FinishReason | None  # None until a stop id, a stop string or a limit ends it

    @property
    def is_met(self) -> bool:
        """Whether the text, as it stands, holds to its constraints."""
        ...

    def feed(self, token_id: int, logprob: float, logits: Floats, *, is_late: bool) -> object: ...

    def copy(self) -> Self: ...


@dataclass(frozen=True)
class Step:
    """One token for every running row, as every strategy yields it.

    token_ids    int64 (rows,); -1 in a row that failed, or that gets none in this step because others
                 had more of their guessed tokens accepted
    source_rows  int64 (rows,): which of the previous rows each row continues
    logprobs     float64 (rows,): the tokens' raw log-probabilities
    logits       float32 (rows, vocab), raw; valid until the generator is resumed
    errors       what went wrong, by row
    ends_pass    whether the model runs before the next step, so that rows may join
    """

    token_ids: Ids
    source_rows: Ids
    logprobs: NDArray[np.float64]
    logits: Floats
    errors: dict[int, OrtgptError] = field(default_factory=dict)
    ends_pass: bool = True


@dataclass(frozen=True)
class Arrivals(Generic[R]):
    """Rows that join a running strategy: what a strategy of their own would begin with.

    decoder  holds their prompts, a row each; it is joined to the strategy's own, and so released
    outputs  (rows, outputs, vocab) of the prompts' last tokens, at [:, -1]; not the decoder's buffers
    rows     what the strategy knows of each
    """

    decoder: Decoder
    outputs: Outputs
    rows: Sequence[R]


@dataclass(frozen=True)
class Going(Generic[R]):
    """Which rows take part from now on; a strategy ends when none do.

    rows      int64: of the last step's rows those that go on, in the order that they are to have
    arrivals  those that come behind them, whose first tokens come with the next step; only after a step
              that ends a pass, or where no row goes on
    """

    rows: Ids
    arrivals: Arrivals[R] | None = None

    @property
    def new_rows(self) -> Sequence[R]:
        return () if self.arrivals is None else self.arrivals.rows

    def __len__(self) -> int:
        return len(self.rows) + len(self.new_rows)


Steps = Generator[Step, Going[R], None]
"""Yields a Step, is sent which rows go on, ends when none do."""


def _stacked(first: Floats, second: Floats) -> Floats:
    """(n, a, vocab) and (m, b, vocab) -> (n + m, max(a, b), vocab)"""
    width = max(first.shape[1], second.shape[1])
    both = np.zeros((len(first) + len(second), width, first.shape[2]), np.float32)
    both[: len(first), : first.shape[1]] = first
    both[len(first) :, : second.shape[1]] = second
    return both

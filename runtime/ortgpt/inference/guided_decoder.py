"""Classifier-free guidance (Sanchez 2023): every row twice, after its prompt and after what to avoid.

Works on any decoder. One pass over the weights serves both halves.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ortgpt.checks import check_token_ids
from ortgpt.errors import OptionError
from ortgpt.interfaces import Decoder, Floats, Ids, Outputs
from ortgpt.numerics import log_normaliser

LARGEST = float(np.finfo(np.float32).max)


class GuidedDecoder:
    """A decoder whose outputs are guided; see `ortgpt.interfaces.Decoder` for the verbs.

    inner      its rows 0 .. R - 1 become this decoder's rows, with what they hold. R more are put behind
               them, empty: row R + i follows row i after its negative prompt. It belongs to this decoder
    negatives  the ids of each row's negative prompt, none of them empty

    The first `extend` ends the prompts; while the rows take their part, the rows behind take the negative
    prompts. From then on both halves take the same tokens. What `Outputs` say of logits and hidden states
    is the rows' own. `lengths`, `trim` and `keep` are about the rows' own tokens as well, and take back
    none of the first `extend`.
    """

    def __init__(self, inner: Decoder, scale: float, negatives: Sequence[Sequence[int]]) -> None:
        rows = inner.num_rows
        if len(negatives) != rows:
            raise OptionError("negatives", f"must have one entry for each of {rows} rows")
        self._inner, self._scale, self._negatives = inner, scale, negatives
        self._num_extends = 0
        self._starts: Ids = np.zeros(rows, np.int64)  # each row's length after the first extend
        self.capabilities = inner.capabilities
        self.context, self.vocab_size = inner.context, inner.vocab_size
        lengths = inner.lengths
        inner.reorder(np.tile(np.arange(rows), 2))
        inner.trim(np.concatenate([lengths, np.zeros_like(lengths)]))

    @property
    def num_rows(self) -> int:
        return self._inner.num_rows // 2

    @property
    def lengths(self) -> Ids:
        return self._inner.lengths[: self.num_rows]

    @property
    def capacity(self) -> int:
        return self._inner.capacity

    @property
    def nbytes(self) -> int:
        return self._inner.nbytes

    def extend(
        self,
        token_ids: Sequence[Sequence[int] | Ids] | Ids,
        *,
        outputs: Literal["last", "all"] = "last",
        hidden: bool = False,
        siblings: bool = False,
    ) -> Outputs:
        """As in the protocol; the first one can give the outputs of the last tokens only."""
        rows = self.num_rows
        _check_count("token_ids", len(token_ids), rows)
        is_first = self._num_extends == 0
        if is_first and (outputs == "all" or siblings):
            raise OptionError("outputs", 'must be "last" where the prompts and the negative prompts end')
        both = [*token_ids, *(self._negatives if is_first else token_ids)]
        found = self._inner.extend(both, outputs=outputs, hidden=hidden, siblings=siblings)
        self._num_extends += 1
        if is_first:
            self._starts = self.lengths
        width = max(len(ids) for ids in token_ids)  # a negative prompt may be wider
        return Outputs(
            found.logits[:rows],
            None if found.hidden is None else found.hidden[:rows, :width],
            guided_scores(found.logits[:rows], found.logits[rows:], self._scale),
        )

    def reorder(self, source_rows: Sequence[int] | Ids) -> None:
        sources = np.asarray(check_token_ids("source_rows", source_rows, self.num_rows), np.int64)
        self._inner.reorder(np.concatenate([sources, self.num_rows + sources]))
        self._follow(sources)

    def repeat(self, times: int) -> None:
        sources = np.repeat(np.arange(self.num_rows), times)
        self._inner.repeat(times)
        self._follow(sources)

    def fork(self) -> GuidedDecoder:
        twin = copy.copy(self)
        twin._inner = self._inner.fork()
        return twin

    def keep(self, chosen: Sequence[Sequence[int]]) -> None:
        _check_count("chosen", len(chosen), self.num_rows)
        if self._num_extends == 1:
            raise OptionError("chosen", "must name tokens of a later extend than the first")
        self._inner.keep([*chosen, *chosen])

    def trim(self, lengths: Sequence[int] | Ids) -> None:
        wanted = np.asarray(lengths, np.int64)
        _check_count("lengths", len(wanted), self.num_rows)
        if (wanted < self._starts).any():
            raise OptionError("lengths", "must leave what the first extend brought")
        own, behind = np.split(self._inner.lengths, 2)
        self._inner.trim(np.concatenate([wanted, behind - (own - wanted)]))

    def join(self, other: GuidedDecoder) -> None:
        """As in the protocol; either both have had their first extend, or neither has."""
        if not isinstance(other, GuidedDecoder) or other._scale != self._scale:
            raise OptionError("other", f"must be guided by {self._scale:g} as well")
        if (other._num_extends == 0) != (self._num_extends == 0):
            raise OptionError("other", "must have read its prompts where these rows have")
        rows, new = self.num_rows, other.num_rows
        starts, negatives = [*self._starts, *other._starts], [*self._negatives, *other._negatives]
        self._inner.join(other._inner)  # own, behind, own of the new, behind of the new
        order = np.split(np.arange(2 * (rows + new)), [rows, 2 * rows, 2 * rows + new])
        self._inner.reorder(np.concatenate([order[0], order[2], order[1], order[3]]))
        self._starts, self._negatives = np.array(starts, np.int64), negatives
        self._num_extends = min(self._num_extends, other._num_extends)

    def release(self) -> None:
        self._inner.release()

    def _follow(self, sources: Ids) -> None:
        """What is known of the rows moves with them."""
        self._starts = self._starts[sources]
        self._negatives = [self._negatives[source] for source in sources]


def guided_scores(conditional: Floats, unconditional: Floats, scale: float) -> Floats:
    """scale * (log_softmax(conditional) - log_softmax(unconditional)) + log_softmax(unconditional).

    All float32 (rows, outputs, vocab), finite where the logits are. Rows whose logits are not usable give
    scores that are not.
    """
    scores = np.empty_like(conditional)
    for place in np.ndindex(conditional.shape[:2]):
        liked, avoided = _logprobs(conditional[place]), _logprobs(unconditional[place])  # (vocab,)
        with np.errstate(over="ignore"):
            scores[place] = (scale * (liked - avoided) + avoided).clip(-LARGEST, LARGEST)
    return scores


def _logprobs(logits: Floats) -> NDArray[np.float64]:
    """Log-probabilities (vocab,) of one row, none below float32's lowest number; NaN if it is not usable."""
    normaliser = log_normaliser(logits)
    if not np.isfinite(normaliser):
        return np.full(logits.shape, np.nan)
    return np.maximum(logits.astype(np.float64) - normaliser, -LARGEST)


def _check_count(name: str, got: int, rows: int) -> None:
    if got != rows:
        raise OptionError(name, f"must have one entry for each of {rows} rows, got {got}")

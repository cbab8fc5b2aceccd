"""The decoder for portable graphs, whose cache comes back grown: what Optimum and other exporters write.

Knows the graph contract and the cache; knows nothing of text, sampling or prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from ortgpt.errors import OptionError
from ortgpt.inference.cells import CellLayout, Cells
from ortgpt.inference.collected_outputs import CollectedOutputs
from ortgpt.inference.grown_cache import GrownCache
from ortgpt.inference.portable_step import PortableStep, Tokens
from ortgpt.inference.row_groups import RowGroup, RowGroups
from ortgpt.inference.session import Session
from ortgpt.inference.verb_checks import (
    check_chosen,
    check_new_tokens,
    check_source_rows,
    check_trimmed,
    is_plain_step,
)
from ortgpt.interfaces import Capabilities, Floats, Ids, Outputs
from ortgpt.manifest import Manifest, PortableGraph

# Families whose attention reaches back to the first token and takes a token's place from position_ids. Others
# may have windows, which count cells: a gap would push tokens out of them.
GAP_PROOF = frozenset({"codegen", "gpt2", "gpt_bigcode", "gpt_neox", "gptj", "llama", "phi"})
GAP_PROOF_BY_MASK = frozenset({"opt"})  # a token's place is that among those that the mask lets it see


class PortableDecoder:
    """Rows and their cache on a shared session; see `ortgpt.interfaces.Decoder` for the verbs.

    chunk: most new tokens, of all rows together and with their padding, that one run of the graph takes, but
    for one token of each row: it gives logits of them all.
    """

    def __init__(
        self, session: Session, manifest: Manifest, graph: PortableGraph, *, rows: int = 1, chunk: int
    ) -> None:
        self._session, self._manifest, self._graph, self._chunk = session, manifest, graph, chunk
        self._step = PortableStep(session, manifest, graph)
        shape = manifest.architecture
        is_padded = _is_gap_proof(graph, shape.model_type)
        cache = GrownCache(
            Cells(CellLayout.of(shape, graph), session.memory, rows), np.zeros((rows, 0), np.int64)
        )
        self._rows = RowGroups([RowGroup(list(range(rows)), cache)], padded=is_padded, context=shape.context)
        self._added = [0] * rows  # widths of the last extend, for keep
        self.context, self.vocab_size = shape.context, shape.vocab_size
        self.capabilities = Capabilities(
            hidden_states=graph.hidden_states,
            shared_rows=False,
            ragged_widths=is_padded,
            row_invariant=manifest.row_invariant,
        )

    @property
    def num_rows(self) -> int:
        return len(self._added)

    @property
    def lengths(self) -> Ids:
        return self._rows.lengths

    @property
    def capacity(self) -> int:
        return max((group.cache.cells.capacity for group in self._rows.groups), default=0)

    @property
    def nbytes(self) -> int:
        return sum(group.cache.cells.nbytes for group in self._rows.groups)

    def extend(
        self,
        token_ids: Sequence[Sequence[int] | Ids] | Ids,
        *,
        outputs: Literal["last", "all"] = "last",
        hidden: bool = False,
        siblings: bool = False,
    ) -> Outputs:
        new = self._check(token_ids, hidden, siblings)
        widths = [1] * len(new) if isinstance(new, np.ndarray) else list(map(len, new))
        self._rows.arrange(widths)
        groups = self._rows.groups
        if len(groups) == 1 and len(widths) * max(widths) <= max(self._chunk, len(widths)):
            found = self._step.run(groups[0].cache, new, 0, widths, max(widths), hidden=hidden)
            if outputs == "last":
                found = Outputs(_last(found.logits, widths), found.hidden)
        else:
            collected = CollectedOutputs(widths, outputs, self.vocab_size)
            for group in groups:
                self._run_group(group, new, outputs, hidden, collected)
            found = collected.outputs()
        self._added = widths
        return found

    def reorder(self, source_rows: Sequence[int] | Ids) -> None:
        rows = check_source_rows(source_rows, self.num_rows)
        self._rows.reorder(rows)
        self._added = [self._added[row] for row in rows]

    def repeat(self, times: int) -> None:
        self.reorder(np.repeat(np.arange(self.num_rows), times))

    def fork(self) -> PortableDecoder:
        twin = PortableDecoder(self._session, self._manifest, self._graph, rows=0, chunk=self._chunk)
        twin._rows = self._rows.copy()
        twin._added = list(self._added)
        return twin

    def keep(self, chosen: Sequence[Sequence[int]]) -> None:
        check_chosen(chosen, self._added)
        for group in self._rows.groups:
            picks, added = [chosen[row] for row in group.rows], [self._added[row] for row in group.rows]
            group.cache.keep(picks, added)
        self._added = [len(picks) for picks in chosen]

    def trim(self, lengths: Sequence[int] | Ids) -> None:
        wanted = check_trimmed(lengths, self.lengths)
        for group in self._rows.groups:
            group.cache.trim(wanted[group.rows])
        self._added = [0] * self.num_rows

    def join(self, other: PortableDecoder) -> None:
        if other is self or not isinstance(other, PortableDecoder) or other._session is not self._session:
            raise OptionError("other", "must be another decoder of the same model")
        self._rows.join(other._rows)
        self._added += other._added
        other.release()

    def release(self) -> None:
        self._step.release()
        self._rows.groups = []
        self._added = []

    def _check(self, token_ids: Sequence[Sequence[int] | Ids] | Ids, hidden: bool, siblings: bool) -> Tokens:
        """The new ids by row, as arrays."""
        if siblings:
            raise OptionError("siblings", "can't share a row of a portable graph")
        if hidden and not self.capabilities.hidden_states:
            raise OptionError("hidden", "is not what this graph gives: it has no output of hidden states")
        lengths, vocab, context = self._rows.lengths, self.vocab_size, self.context
        if isinstance(token_ids, np.ndarray):
            longest = max(lengths.tolist(), default=0)
            if is_plain_step(token_ids, longest, rows=self.num_rows, vocab_size=vocab, context=context):
                return token_ids
        return check_new_tokens(token_ids, lengths, vocab_size=vocab, context=context)

    def _run_group(
        self,
        group: RowGroup,
        new: Tokens,
        outputs: Literal["last", "all"],
        hidden: bool,
        collected: CollectedOutputs,
    ) -> None:
        """As many runs as the rows' new tokens take."""
        rows, own = np.array(group.rows), [new[row] for row in group.rows]
        widths = list(map(len, own))
        most = max(1, self._chunk // len(own))
        for begin in range(0, max(widths), most):
            width = min(most, max(widths) - begin)
            counts = [min(max(0, total - begin), width) for total in widths]
            part = self._step.run(group.cache, own, begin, counts, width, hidden=hidden)
            if outputs == "all":
                collected.add_logits(rows, begin, part.logits)
            else:
                ended = [place for place, total in enumerate(widths) if begin < total <= begin + width]
                last = part.logits[ended, [counts[place] - 1 for place in ended]]
                collected.add_logits(rows[ended], 0, last[:, None])
            if part.hidden is not None:
                collected.add_hidden(rows, begin, part.hidden)


def _is_gap_proof(graph: PortableGraph, family: str) -> bool:
    """Whether a row may have cells that hold none of its tokens."""
    knows_places = family in GAP_PROOF and graph.position_ids
    return graph.attention_mask and (knows_places or family in GAP_PROOF_BY_MASK)


def _last(logits: Floats, widths: list[int]) -> Floats:
    """Of logits (rows, width, vocab) each row's last new token's, (rows, 1, vocab)."""
    if min(widths) == logits.shape[1]:
        return logits[:, -1:]
    last: Floats = logits[np.arange(len(widths)), np.array(widths) - 1]
    return last[:, None]

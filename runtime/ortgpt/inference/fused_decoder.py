"""The decoder for fused graphs: in-place cache, ragged rows, candidates that share a row.

Knows the graph contract and the cache; knows nothing of text, sampling or prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from ortgpt.errors import OptionError
from ortgpt.graph_contract import has_shared_rows
from ortgpt.inference.bound_step import BoundStep, StepKey
from ortgpt.inference.cache import Cache
from ortgpt.inference.collected_outputs import CollectedOutputs
from ortgpt.inference.plan import DEFAULT_CHUNK, Call, plan_calls
from ortgpt.inference.session import Session
from ortgpt.inference.verb_checks import (
    check_chosen,
    check_new_tokens,
    check_source_rows,
    check_trimmed,
    is_plain_step,
)
from ortgpt.interfaces import Capabilities, Ids, Outputs
from ortgpt.manifest import Manifest

# New tokens, of all rows together, from which a call runs on the second graph. Its products take 1.2 to 1.6
# times as long as the first one's at one token, and about half as long from 8 on. In between, where it gains
# less, beams and drafts keep the finer rounding of the first.
WIDE_TOKENS = 8
KEPT_LOGITS = 64  # rows of logits that bound steps kept for reuse may hold together


class FusedDecoder:
    """Rows and their cache on a shared session; see `ortgpt.interfaces.Decoder` for the verbs.

    chunk: most new tokens of a row that one run of the graph takes; results do not depend on it.
    wide: runs the calls of WIDE_TOKENS and more, on the same cache; None: the one session runs all.
    """

    def __init__(
        self,
        session: Session,
        manifest: Manifest,
        *,
        rows: int = 1,
        chunk: int = DEFAULT_CHUNK,
        wide: Session | None = None,
    ) -> None:
        self._session, self._manifest, self._chunk = session, manifest, chunk
        self._wide = wide
        self._cache = Cache(manifest.architecture, rows, manifest.element_type, session.memory)
        self._steps: dict[StepKey, BoundStep] = {}  # the last used comes last
        self._last_step: BoundStep | None = None
        # The last widths, whether siblings, and their calls.
        self._planned: tuple[tuple[list[int], bool], list[Call]] | None = None
        self._added: list[int] = [0] * rows  # widths of the last extend, for keep
        self._siblings = False
        self.context = manifest.architecture.context
        self.vocab_size = manifest.architecture.vocab_size
        self.capabilities = Capabilities(
            hidden_states=True,
            shared_rows=has_shared_rows(manifest.element_type),
            ragged_widths=manifest.ragged_widths,
            row_invariant=manifest.row_invariant,
        )

    @property
    def num_rows(self) -> int:
        return self._cache.num_rows

    @property
    def lengths(self) -> Ids:
        return self._cache.lengths.copy()

    @property
    def capacity(self) -> int:
        return self._cache.capacity

    @property
    def nbytes(self) -> int:
        return self._cache.nbytes

    def extend(
        self,
        token_ids: Sequence[Sequence[int] | Ids] | Ids,
        *,
        outputs: Literal["last", "all"] = "last",
        hidden: bool = False,
        siblings: bool = False,
    ) -> Outputs:
        new = self._check(token_ids, siblings)
        widths = list(map(len, new))
        self._cache.reserve(self._cache.longest + max(widths))
        calls = self._plan(widths, siblings)
        if len(calls) == 1:  # its buffers are handed out as they are
            run = self._run(calls[0], new, outputs, hidden, siblings)
            longest = max(widths)  # a spare token's outputs stay here
            states = None if run.hidden is None else run.hidden[:, :longest]
            found = Outputs(run.logits[:, :longest] if outputs == "all" else run.logits, states)
        else:
            collected = CollectedOutputs(widths, outputs, self.vocab_size)
            for call in calls:
                part = self._run(call, new, outputs, hidden, siblings)
                rows, taken = slice(call.first, call.last), max(call.counts)
                if outputs == "all":
                    collected.add_logits(rows, call.begin, part.logits[:, :taken])
                elif call.is_end:
                    collected.add_logits(rows, 0, part.logits)
                if part.hidden is not None:
                    collected.add_hidden(rows, call.begin, part.hidden[:, :taken])
            found = collected.outputs()
        self._added, self._siblings = widths, siblings
        return found

    def reorder(self, source_rows: Sequence[int] | Ids) -> None:
        rows = check_source_rows(source_rows, self.num_rows)
        self._cache.reorder(rows)
        self._added = [self._added[row] for row in rows]

    def repeat(self, times: int) -> None:
        self.reorder(np.repeat(np.arange(self.num_rows), times))

    def fork(self) -> FusedDecoder:
        twin = FusedDecoder(self._session, self._manifest, rows=0, chunk=self._chunk, wide=self._wide)
        twin._cache = self._cache.copy()
        twin._added, twin._siblings = list(self._added), self._siblings
        return twin

    def keep(self, chosen: Sequence[Sequence[int]]) -> None:
        check_chosen(chosen, self._added, siblings=self._siblings)
        for row, picks in enumerate(chosen):
            self._cache.keep(row, int(self._cache.lengths[row]) - self._added[row], picks)
        self._added = [len(picks) for picks in chosen]
        self._siblings = False

    def trim(self, lengths: Sequence[int] | Ids) -> None:
        self._cache.lengths = check_trimmed(lengths, self._cache.lengths)
        self._added = [0] * self.num_rows

    def join(self, other: FusedDecoder) -> None:
        if other is self or not isinstance(other, FusedDecoder) or other._session is not self._session:
            raise OptionError("other", "must be another decoder of the same model")
        if self._siblings or other._siblings:
            raise OptionError("other", "comes after siblings of which `keep` has chosen none")
        added = self._added + other._added
        self._cache.join(other._cache)
        other.release()
        self._added = added

    def release(self) -> None:
        self._steps.clear()
        self._last_step = None
        self._cache.release()
        self._added = []

    def _plan(self, widths: list[int], siblings: bool) -> list[Call]:
        # A decode loop plans the same call at every step.
        if self._planned is not None and self._planned[0] == (widths, siblings):
            return self._planned[1]
        # Siblings see each other's places hidden, so a row's siblings can't be cut into chunks; but several
        # rows share a call, like any others.
        chunk = max(self._chunk, *widths) if siblings else self._chunk
        calls = list(plan_calls(widths, chunk=chunk, ragged=self.capabilities.ragged_widths))
        self._planned = (widths, siblings), calls
        return calls

    def _check(self, token_ids: Sequence[Sequence[int] | Ids] | Ids, siblings: bool) -> Sequence[Ids] | Ids:
        """The new ids by row, as arrays."""
        shape = self._manifest.architecture
        if isinstance(token_ids, np.ndarray) and not siblings:
            rows, longest = self.num_rows, self._cache.longest
            if is_plain_step(
                token_ids, longest, rows=rows, vocab_size=shape.vocab_size, context=shape.context
            ):
                return token_ids
        if siblings and not self.capabilities.shared_rows:
            raise OptionError("siblings", f"can't share a row of this {self._manifest.precision} bundle")
        return check_new_tokens(
            token_ids,
            self._cache.lengths,
            vocab_size=shape.vocab_size,
            context=shape.context,
            siblings=siblings,
        )

    def _run(
        self,
        call: Call,
        new: Sequence[Ids] | Ids,
        outputs: Literal["last", "all"],
        hidden: bool,
        siblings: bool,
    ) -> Outputs:
        """One run of the graph; brings the lengths of its rows up to date."""
        fewest = self._session.fewest_outputs
        num_outputs = call.width if outputs == "all" else max(int(call.is_end), fewest)
        key = (self._cache.generation, call.first, call.last, call.width, num_outputs, hidden)
        step = self._bound_step(key)
        lengths = self._cache.lengths[call.first : call.last]
        step.fill(call, new[call.first : call.last], lengths, siblings)
        step.session.run(step.binding)
        if isinstance(new, np.ndarray):
            self._cache.record_step(new[:, 0])
        else:
            for row, count in enumerate(call.counts, start=call.first):
                self._cache.record(row, new[row][call.begin : call.begin + count], siblings=siblings)
        return Outputs(step.logits, step.hidden)

    def _bound_step(self, key: StepKey) -> BoundStep:
        """One with these shapes: drafts of changing widths find theirs again."""
        if self._last_step is not None and self._last_step.key == key:
            return self._last_step
        if any(step.key[0] != key[0] for step in self._steps.values()):
            self._steps.clear()  # they are bound to a buffer that the cache has left
        step = self._steps.pop(key, None)
        self._steps[key] = step or BoundStep(key, self._session_for(key), self._manifest, self._cache)
        while (
            len(self._steps) > 1
            and sum(one.logits[..., 0].size for one in self._steps.values()) > KEPT_LOGITS
        ):
            del self._steps[next(iter(self._steps))]
        self._last_step = self._steps[key]
        return self._last_step

    def _session_for(self, key: StepKey) -> Session:
        _, first, last, width, *_ = key
        is_wide = (last - first) * width >= WIDE_TOKENS
        return self._wide if is_wide and self._wide is not None else self._session

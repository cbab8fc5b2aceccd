"""Guesses of a smaller model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ortgpt.interfaces import Decoder, DraftModel, Floats, Ids
from ortgpt.search.history import History
from ortgpt.search.sample import SampledRow


class DraftDecoder:
    """Guesses with a smaller model, in rows of its own that follow those it guesses for.

    Each token is chosen by the row's own rules and drawn with a copy of its random generator: with the
    very number that the token itself will be drawn with, so guess and token agree where the two models
    do. For a row that is too long for the draft model's context there are no more guesses.

    vocab_size  of the model it guesses for; the draft model has no fewer ids
    """

    def __init__(self, model: DraftModel, vocab_size: int) -> None:
        self._model, self._vocab_size = model, vocab_size
        self._has_begun = False  # reading, which it puts off until guesses are first wanted
        self._decoder: Decoder | None = None  # None: there is no row to follow
        # By row; None: too long. The decoder's rows are the others, in their order.
        self._read: list[_Read | None] = []

    def propose(self, rows: Sequence[SampledRow], rooms: Sequence[int]) -> list[list[int]]:
        if not any(rooms):
            return [[] for _ in rows]
        if not self._has_begun:
            self._has_begun = True
            self._begin(rows)
        context = 0 if self._decoder is None else self._decoder.context
        lengths = [len(row.history) for row in rows]
        self._follow([row for row in self._followed if lengths[row] < context])
        followed = self._followed
        drafts = {row: _Draft(rows[row], min(rooms[row], context - lengths[row])) for row in followed}
        if any(draft.is_open for draft in drafts.values()):
            logits = self._catch_up([rows[row].history.ids for row in followed])
            while True:
                for place, draft in enumerate(drafts.values()):
                    if draft.is_open:
                        draft.guess(logits[place, -1, : self._vocab_size])
                if not any(draft.is_open for draft in drafts.values()):
                    break
                logits = self._feed(list(drafts.values()))
        return [drafts[row].ids if row in drafts else [] for row in range(len(rows))]

    def keep(self, rows: Sequence[int] | Ids) -> None:
        if self._has_begun:
            self._follow([row for row in rows if self._read[row] is not None])
            self._read = [self._read[row] for row in rows]

    def join(self, rows: Sequence[SampledRow]) -> None:
        if self._has_begun:
            self._begin(rows)

    def release(self) -> None:
        if self._decoder is not None:
            self._decoder.release()

    @property
    def _followed(self) -> list[int]:
        """The row that each of the decoder's rows follows."""
        return [row for row, read in enumerate(self._read) if read is not None]

    @property
    def _reads(self) -> list[_Read]:
        """By the decoder's rows."""
        return [read for read in self._read if read is not None]

    def _begin(self, rows: Sequence[SampledRow]) -> None:
        """Read the prompts of rows that come behind, each once however many rows begin with it."""
        prompts = [tuple(row.history.prompt.tolist()) for row in rows]
        decoder = self._model.decoder(rows=len(rows))
        fitting = [prompt for prompt in prompts if len(prompt) < decoder.context]
        self._read += [_Read(len(prompt)) if len(prompt) < decoder.context else None for prompt in prompts]
        if not fitting:
            decoder.release()
            return
        different = list(dict.fromkeys(fitting))
        try:
            decoder.reorder(range(len(different)))
            decoder.extend(different)
            decoder.reorder([different.index(prompt) for prompt in fitting])
            if self._decoder is not None:
                self._decoder.join(decoder)
        except BaseException:
            decoder.release()
            raise
        if self._decoder is None:
            self._decoder = decoder

    def _follow(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone, which it follows, in their order."""
        followed = self._followed
        if self._decoder is not None and list(rows) != followed:
            if rows:
                self._decoder.reorder([followed.index(row) for row in rows])
            else:
                self._decoder.release()
                self._decoder = None
            self._read = [read if row in rows else None for row, read in enumerate(self._read)]

    def _catch_up(self, histories: Sequence[Ids]) -> Floats:
        """Read what the histories have that the decoder has not; logits (rows, 1, vocab) after it."""
        assert self._decoder is not None
        # Several rows run in one pass only if none has a single new token: so an old one is read again.
        fewest = 1 if len(histories) == 1 else 2
        for read, ids in zip(self._reads, histories, strict=True):
            read.length = min(read.num_shared(ids), max(0, len(ids) - fewest))
            read.guesses = []
        self._trim()
        new = [ids[read.length :] for read, ids in zip(self._reads, histories, strict=True)]
        for read, ids in zip(self._reads, histories, strict=True):
            read.length = len(ids)
        return self._decoder.extend(new).logits

    def _feed(self, drafts: Sequence[_Draft]) -> Floats:
        """Run the last guess of each open draft; other rows take an id that they lose again."""
        assert self._decoder is not None
        self._trim()
        for read, draft in zip(self._reads, drafts, strict=True):
            if draft.is_open:
                read.guesses.append(draft.ids[-1])
        return self._decoder.extend([[draft.ids[-1] if draft.is_open else 0] for draft in drafts]).logits

    def _trim(self) -> None:
        assert self._decoder is not None
        lengths = [read.length + len(read.guesses) for read in self._reads]
        if (self._decoder.lengths != lengths).any():
            self._decoder.trim(lengths)


@dataclass
class _Read:
    """What a row of the draft decoder holds: so many ids of the history, then these guesses."""

    length: int
    guesses: list[int] = field(default_factory=list)

    def num_shared(self, history: Ids) -> int:
        """How many of the ids it holds are the history's."""
        shared = self.length
        for guess, token_id in zip(self.guesses, history[self.length :], strict=False):
            if guess != token_id:
                break
            shared += 1
        return shared


class _Draft:
    """Guesses in the making. room: how many there may be."""

    def __init__(self, row: SampledRow, room: int) -> None:
        self.ids: list[int] = []
        self.is_open = room > 0
        self._process, self._room = row.process, room
        self._history = History(row.history.ids)
        self._pick = copy.deepcopy(row.pick) if room > 0 else row.pick

    def guess(self, logits: Floats) -> None:
        """Choose one more, from the draft model's logits (vocab,)."""
        ids = self._history.ids
        try:
            if not np.isfinite(logits.max()):
                raise ArithmeticError
            self.ids.append(self._pick(ids, self._process(ids, logits)))
        except Exception:  # what the rules say of a guess matters only if the text gets there
            self.is_open = False
        else:
            self._history.append(self.ids[-1])
            self.is_open = len(self.ids) < self._room

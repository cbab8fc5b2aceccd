"""Several constraints on one sequence, as one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ortgpt.constraints.keywords import KeywordTask
from ortgpt.interfaces import Constraint, Floats, Ids


class AllOf:
    """All of the constraints at once; itself a `ortgpt.interfaces.Constraint`.

    Keywords come last: they choose among what the others leave.
    """

    def __init__(self, others: Sequence[Constraint], keywords: KeywordTask | None) -> None:
        self._keywords = keywords
        self._members: tuple[Constraint, ...] = (*others, *([keywords] if keywords else []))

    def apply(self, generated: Ids, scores: Floats, /) -> Floats:
        for member in self._members:
            scores = member.apply(generated, scores)
        return scores

    def may_end(self, generated: Ids, place: int | None = None, /) -> bool:
        return all(member.may_end(generated, place) for member in self._members)

    def is_complete(self, generated: Ids, /) -> bool:
        return any(member.is_complete(generated) for member in self._members)

    def owes(self, generated: Ids, /) -> bool:
        return any(member.owes(generated) for member in self._members)

    def fits(self, generated: Ids, token_ids: Sequence[int], /) -> bool:
        return all(member.fits(generated, token_ids) for member in self._members)

    @property
    def has_banks(self) -> bool:
        """Whether beams are to be kept by how far they are with the keywords."""
        return self._keywords is not None and self._keywords.required > 0

    def progress(self, generated: Ids, /) -> int:
        return 0 if self._keywords is None else self._keywords.progress(generated)

    def advances(self, generated: Ids, /) -> Ids:
        return np.zeros(0, np.int64) if self._keywords is None else self._keywords.advances(generated)

"""Filters as the tests look at them: a row goes in, the row with -inf for what does not stay comes out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ortgpt.interfaces import Floats
from ortgpt.logits import entropy_filters, mirostat, warpers, xtc
from ortgpt.logits.survivors import Kept, keep_only


def on_rows(select: Callable[..., Kept]) -> Callable[..., Floats]:
    def apply(row: Floats, *arguments: Any, **named: Any) -> Floats:
        return keep_only(row, select(row, *arguments, **named))

    apply.__name__ = select.__name__.replace("select", "apply")
    return apply


apply_top_k = on_rows(warpers.select_top_k)
apply_top_p = on_rows(warpers.select_top_p)
apply_min_p = on_rows(warpers.select_min_p)
apply_typical_p = on_rows(warpers.select_typical_p)
apply_top_n_sigma = on_rows(warpers.select_top_n_sigma)
apply_epsilon = on_rows(entropy_filters.select_epsilon)
apply_eta = on_rows(entropy_filters.select_eta)
apply_xtc = on_rows(xtc.select_xtc)
apply_mirostat = on_rows(mirostat.select_mirostat)

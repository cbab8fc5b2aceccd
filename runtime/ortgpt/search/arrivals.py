"""How rows that arrive join those that run, and how few rows move when others leave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from ortgpt.interfaces import Arrivals, Decoder, Ids, Outputs


def extend_and_join(
    decoder: Decoder,
    token_ids: Sequence[Sequence[int] | Ids] | Ids,
    arrivals: Arrivals[Any] | None,
    *,
    outputs: Literal["last", "all"] = "last",
) -> Outputs:
    """Run the model on the decoder's rows, if it has any; then the arrivals' rows and outputs come behind.

    The arrivals have had their own pass: theirs are the outputs that it gave.
    """
    if arrivals is None:
        return decoder.extend(token_ids, outputs=outputs)
    found = arrivals.outputs
    if decoder.num_rows:
        found = decoder.extend(token_ids, outputs=outputs).followed_by(found)
    decoder.join(arrivals.decoder)
    return found


def fill_gaps(staying: Sequence[int]) -> list[int]:
    """Places, ascending, in an order that leaves most where they are: the last fill the gaps of what left."""
    behind = [place for place in staying if place >= len(staying)]
    kept = set(staying)
    return [place if place in kept else behind.pop() for place in range(len(staying))]

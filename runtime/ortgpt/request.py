"""What a caller asks the engine for, and where the time goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ortgpt.option_checks import BATCH_ROWS
from ortgpt.options import Options
from ortgpt.prompts import Prompt
from ortgpt.search.draft_budget import POSITION_COST
from ortgpt.strategies import Strategy


@dataclass(frozen=True)
class Request:
    """What the caller asked for.

    seeds          one per prompt
    draft_cost     of a pass of options.draft, in passes of the model
    position_cost  of a token more in a pass, in passes of one
    max_rows       of the decoder, that run at once; the prompts that find no room wait for it
    """

    prompts: Sequence[Prompt]
    seeds: Sequence[int]
    strategy: Strategy
    options: Options
    started: float  # time.perf_counter() when the call came in
    draft_cost: float = 0.0
    position_cost: float = POSITION_COST
    max_rows: int = BATCH_ROWS


@dataclass
class Clock:
    """Seconds of one prompt; the caller's own time between events is not ours.

    first_token  from the call to its first token, the time that it waited for its turn included
    prefill      of reading it, and those that were read with it
    decode       of the steps that it took part in
    """

    first_token: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0

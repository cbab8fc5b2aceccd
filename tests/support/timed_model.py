"""A model on fake decoders that take a known time, by a clock that only they move."""

from __future__ import annotations

from typing import Any

from ortgpt.benchmark.measuring import GraphTime
from ortgpt.choices import ChoiceState
from ortgpt.interfaces import Outputs
from ortgpt.testing import FakeDecoder

PREFILL_S, STEP_S = 4.0, 0.5  # of a call of `extend`
GRAPH_SHARE = 0.75  # of either is in the graph
TOKEN_S = 0.0625  # on the host, for every token of every row


class TimedModel:
    """Patches a model's `decoder`; a call with one new token per row is a step.

    now       what the clock says
    calls     (rows, width, tokens in the first row afterwards) of each call of `extend`
    decoders  all that were made
    """

    def __init__(self, model: Any, monkeypatch: Any) -> None:
        self.now, self.graph_time, self.model = 0.0, GraphTime(), model
        self.calls: list[tuple[int, int, int]] = []
        self.decoders: list[FakeDecoder] = []
        monkeypatch.setattr(model, "decoder", self._decoder)
        monkeypatch.setattr(ChoiceState, "feed", self._slow(ChoiceState.feed))

    def clock(self) -> float:
        return self.now

    def _decoder(self, rows: int = 1) -> FakeDecoder:
        timed = self

        class Timed(FakeDecoder):
            def extend(self, token_ids: Any, **options: Any) -> Outputs:
                width = max(map(len, token_ids))
                outputs = super().extend(token_ids, **options)
                seconds = STEP_S if width == 1 else PREFILL_S
                timed.now += seconds
                timed.graph_time.add(GRAPH_SHARE * seconds)
                timed.calls.append((self.num_rows, width, int(self.lengths[0])))
                return outputs

        shape = self.model.manifest.architecture
        self.decoders.append(Timed(shape.vocab_size, shape.context, rows))
        return self.decoders[-1]

    def _slow(self, feed: Any) -> Any:
        def feed_slowly(*given: Any, **options: Any) -> Any:
            self.now += TOKEN_S
            return feed(*given, **options)

        return feed_slowly

"""Every kind of measurement has its turn in every round."""

from __future__ import annotations

import pytest
from timed_model import PREFILL_S, STEP_S, TOKEN_S, TimedModel

from ortgpt.benchmark import rounds
from ortgpt.benchmark.measuring import Measurer
from ortgpt.benchmark.plan import Plan
from ortgpt.benchmark.rounds import Samples, bandwidth_case, model_cases, take_rounds


def test_each_round_has_each_case_once_and_begins_with_another() -> None:
    order: list[str] = []
    cases = [lambda _, name=name: order.append(name) for name in "abc"]
    said: list[str] = []
    take_rounds(cases, 4, said.append)
    assert "".join(order) == "abcbcacababc"
    assert said == ["round 1/4", "round 2/4", "round 3/4", "round 4/4"]


def test_a_round_of_the_models_cases_is_what_the_plan_says(tiny_model, monkeypatch) -> None:
    timed = TimedModel(tiny_model, monkeypatch)
    plan = Plan(prompt_tokens=4, new_tokens=3, rows=(1, 2, 6), prefill_tokens=20, contexts=(10, 30))
    cases = model_cases(Measurer(tiny_model, timed.graph_time, plan, clock=timed.clock), plan)
    samples = take_rounds(cases, 2, lambda _: None)
    assert {rows: len(taken) for rows, taken in samples.decoding.items()} == {1: 2, 2: 2, 6: 2}
    assert {one.rows for one in samples.decoding[6]} == {6}
    assert {tokens: len(taken) for tokens, taken in samples.contexts.items()} == {10: 2, 30: 2}
    assert [one.decode_s for one in samples.sampling] == [2 * (STEP_S + TOKEN_S)] * 2
    assert samples.long_first_s == [PREFILL_S + TOKEN_S] * 2
    assert samples.prefill_s == [PREFILL_S] * 2
    assert timed.calls.count((1, 20, 20)) == 2 + 2


def test_the_bandwidth_is_noted_by_kernel() -> None:
    class Reader:
        def measure(self, repeats: int) -> dict[str, float]:
            return {"a": 1.0 * repeats, "b": 2.0}

    samples = Samples()
    bandwidth_case(Reader())(samples)
    bandwidth_case(Reader())(samples)
    assert samples.read == {"a": [5.0, 5.0], "b": [2.0, 2.0]}


@pytest.mark.parametrize(("share", "noted"), [(0.25, [0.25, 0.25]), (None, [])])
def test_what_others_took_is_noted_where_it_is_known(share, noted, monkeypatch) -> None:
    class Others:
        def share(self, own_cpu_s: float) -> float | None:
            assert own_cpu_s >= 0
            return share

    monkeypatch.setattr(rounds, "OtherProcesses", Others)
    assert take_rounds([lambda _: None], 2, lambda _: None).others == noted

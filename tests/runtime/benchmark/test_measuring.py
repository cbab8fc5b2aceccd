"""The definitions, on a model whose every call takes a known time."""

from __future__ import annotations

import pytest
from timed_model import GRAPH_SHARE, PREFILL_S, STEP_S, TOKEN_S, TimedModel

import ortgpt
from ortgpt.benchmark import measuring
from ortgpt.benchmark.measuring import CONTEXT_STEPS, Decoding, Measurer
from ortgpt.benchmark.plan import Plan
from ortgpt.errors import OrtgptError

PLAN = Plan(prompt_tokens=5, new_tokens=8, prefill_tokens=30)


@pytest.fixture
def timed(tiny_model: ortgpt.Model, monkeypatch: pytest.MonkeyPatch) -> TimedModel:
    return TimedModel(tiny_model, monkeypatch)


def measurer(timed: TimedModel, plan: Plan = PLAN) -> Measurer:
    return Measurer(timed.model, timed.graph_time, plan, clock=timed.clock)


@pytest.mark.parametrize("rows", [1, 3, 16])
def test_decoding_is_timed_from_the_first_token_of_all_rows_to_the_last(timed, rows) -> None:
    found = measurer(timed).decode(5, 8, rows=rows)
    step_s = STEP_S + rows * TOKEN_S
    assert found == Decoding(rows, PREFILL_S + rows * TOKEN_S, 7, 7 * step_s, 7 * STEP_S * GRAPH_SHARE)
    assert found.step_s == step_s
    assert found.tokens_per_s == rows / step_s
    assert found.host_share == pytest.approx(1 - STEP_S * GRAPH_SHARE / step_s)
    # The prompt once, then a step with all rows for every token but the first.
    assert timed.calls == [(1, 5, 5)] + [(rows, 1, 5 + step) for step in range(1, 8)]


def test_sampling_is_decoded_with_filters_and_a_penalty(timed, monkeypatch) -> None:
    asked = []
    plain = timed.model.stream
    monkeypatch.setattr(
        timed.model,
        "stream",
        lambda *given, **options: asked.append((given, options)) or plain(*given, **options),
    )
    assert measurer(timed).sample().steps == 7
    ((_, strategy), options) = asked[0]
    assert strategy == ortgpt.Sampling(top_k=50, top_p=0.95)
    assert (options["repetition_penalty"], options["seed"], options["stop_token_ids"]) == (1.2, 0, [])


@pytest.mark.parametrize("context", [2, 10, 17, 40, 64])
def test_at_a_context_the_last_steps_up_to_it_are_timed(timed, context) -> None:
    found = measurer(timed).decode_up_to(context)
    steps = min(CONTEXT_STEPS, context - 1)
    assert (found.steps, found.decode_s) == (steps, steps * (STEP_S + TOKEN_S))
    assert timed.calls[-1] == (1, 1, context)


def test_the_first_token_is_timed_from_the_call(timed) -> None:
    assert measurer(timed).first_token(30) == PREFILL_S + TOKEN_S
    assert timed.calls == [(1, 30, 30)]


def test_prefill_is_the_call_that_runs_the_long_prompt(timed) -> None:
    assert measurer(timed).prefill() == PREFILL_S
    assert timed.calls == [(1, 30, 30)]


def test_memory_is_read_while_the_row_holds_the_context(timed, monkeypatch) -> None:
    lengths = []
    monkeypatch.setattr(
        measuring, "resident_bytes", lambda: lengths.append(timed.decoders[-1].lengths.tolist()) or 12345
    )
    assert measurer(timed).resident_while_running(64) == 12345
    assert lengths == [[64]]  # not yet released


def test_no_token_ends_a_text(timed, monkeypatch) -> None:
    """Random prompts hold stop ids, and random models write them."""
    plain = timed.model.stream
    best = timed.model.generate(measurer(timed)._ids[:5], max_new_tokens=3, stop_token_ids=[]).token_ids
    shape = timed.model.manifest.architecture
    monkeypatch.setitem(vars(shape), "eos_token_ids", tuple(best))
    assert measurer(timed).decode(5, 8).steps == 7
    with plain(measurer(timed)._ids[:5], max_new_tokens=8) as stopped:
        assert len(list(stopped)) == 1


def test_a_text_that_ends_early_is_an_error(timed, monkeypatch) -> None:
    plain = timed.model.stream
    monkeypatch.setattr(
        timed.model, "stream", lambda *given, **options: plain(*given, **{**options, "max_new_tokens": 3})
    )
    with pytest.raises(OrtgptError, match="stopped before"):
        measurer(timed).decode(5, 8)


def test_the_prompts_follow_the_seed_and_lie_in_the_tokenizer(timed) -> None:
    same, other = measurer(timed), measurer(timed, Plan(seed=1))
    assert same._ids == measurer(timed)._ids != other._ids
    assert len(same._ids) == timed.model.manifest.architecture.context
    assert min(same._ids) >= 0
    assert max(same._ids) < timed.model.manifest.architecture.tokenizer_size

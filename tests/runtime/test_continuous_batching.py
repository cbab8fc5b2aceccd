"""More prompts than rows: each gives what it gives alone, and no row stays empty while prompts wait."""

from __future__ import annotations

import contextlib
import random
import shutil
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fake_runs import Runs

import ortgpt
from ortgpt.interfaces import Capabilities

MakeBundle = Callable[..., Path]
Prompts = list[list[int]]

CONTEXT, SPACE = 64, 220  # of the tiny model
SAMPLED = ortgpt.Sampling(top_p=0.95)
BEAMS = ortgpt.BeamSearch(num_beams=2)
DIVERSE = ortgpt.BeamSearch(num_beams=4, num_beam_groups=2, diversity_penalty=0.5)
SEVERAL = ortgpt.BeamSearch(num_beams=3, num_return_sequences=2, early_stopping=False, length_penalty=0.5)
WORDS = [ortgpt.Keywords(["ab", "c"]), ortgpt.Forbidden(["x"])]
GUIDED = {"guidance_scale": 1.5, "negative_prompt": [7, 8, 9]}

# name: (strategy, options)
CASES: dict[str, tuple[ortgpt.strategies.Strategy, dict[str, Any]]] = {
    "greedy": (ortgpt.Greedy(), {"repetition_penalty": 1.2}),
    "sampling": (SAMPLED, {"logprobs": 2}),
    "mirostat": (ortgpt.Sampling(mirostat_tau=4.0), {}),
    "xtc": (ortgpt.Sampling(xtc_probability=0.5), {"dry_multiplier": 0.8}),
    "n": (SAMPLED, {"n": 3}),
    "best of": (SAMPLED, {"n": 1, "best_of": 4}),
    "contrastive": (ortgpt.ContrastiveSearch(top_k=3), {}),
    "contrastive twice": (ortgpt.ContrastiveSearch(), {"n": 2}),
    "beams": (BEAMS, {"logprobs": 1}),
    "several beams": (SEVERAL, {}),
    "more beams than rows": (ortgpt.BeamSearch(num_beams=6), {}),
    "one beam": (ortgpt.BeamSearch(num_beams=1, sample=True), {}),
    "sampled beams": (ortgpt.BeamSearch(num_beams=2, sample=True, top_p=0.9), {}),
    "diverse beams": (DIVERSE, {}),
    "guided": (SAMPLED, GUIDED),
    "guided by itself": (ortgpt.Greedy(), {"guidance_scale": 2.0, "n": 2}),
    "guided contrastive": (ortgpt.ContrastiveSearch(), GUIDED),
    "guided beams": (BEAMS, GUIDED),
    "healed": (SAMPLED, {"token_healing": True}),
    "healed beams": (BEAMS, {"token_healing": True, "echo": True}),
    "words": (SAMPLED, {"constraints": WORDS}),
    "words with beams": (ortgpt.BeamSearch(num_beams=3), {"constraints": WORDS}),
    "words contrastive": (ortgpt.ContrastiveSearch(), {"constraints": WORDS}),
    "pattern": (SAMPLED, {"constraints": [ortgpt.Regex("[a-f]+(x|yz)")]}),
    "processor": (
        ortgpt.Greedy(),
        {"processors": [lambda ids, scores: np.where(ids[-1] > 99, scores, -scores)]},
    ),
}
DRAFTED: dict[str, tuple[ortgpt.strategies.Strategy, dict[str, Any]]] = {
    "lookup": (ortgpt.Greedy(), {"prompt_lookup": True}),
    "sampled lookup": (ortgpt.Sampling(top_k=3), {"prompt_lookup": True, "n": 2}),
    "guided lookup": (SAMPLED, {"prompt_lookup": True, **GUIDED}),
    "draft": (ortgpt.Greedy(), {"draft": True}),
    "sampled draft": (SAMPLED, {"draft": True, "n": 2, "num_draft_tokens": 3}),
    "words draft": (SAMPLED, {"draft": True, "constraints": WORDS}),
}
ALL = {**CASES, **DRAFTED}


def make_prompts(seed: int, count: int = 13) -> Prompts:
    """Of all lengths; the longest leave room for a few tokens only."""
    rng = random.Random(seed)
    lengths = [rng.choice([1, 2, 5, 9, 20, 33]) for _ in range(count - 3)] + [45, 51, 57]
    rng.shuffle(lengths)
    return [[rng.randrange(97, 123) for _ in range(length)] for length in lengths]


def ended_at_random(seed: int) -> dict[str, Any]:
    """Options that end texts of random logits now and then."""
    rng = random.Random(seed)
    stops = rng.sample([one for one in range(128, 257) if one != SPACE], 12)
    return {"stop_token_ids": stops, "stop": ["e", "AB"], "max_new_tokens": 22}


def alone(
    model: ortgpt.Model, prompts: Prompts, seed: int, *asked: Any, **options: Any
) -> list[ortgpt.Result]:
    return [model.generate(prompt, *asked, seed=seed + i, **options) for i, prompt in enumerate(prompts)]


def with_draft(model: ortgpt.Model, options: dict[str, Any]) -> dict[str, Any]:
    return {**options, "draft": model} if "draft" in options else options


@pytest.mark.parametrize("name", CASES)
def test_each_result_is_to_the_last_bit_what_the_prompt_gives_alone(
    tiny_model: ortgpt.Model, name: str
) -> None:
    strategy, options = CASES[name]
    prompts, options = make_prompts(len(name)), {**ended_at_random(len(name)), **options}
    batch = tiny_model.generate_batch(prompts, strategy, max_rows=4, seed=5, **options)
    expected = alone(tiny_model, prompts, 5, strategy, **options)
    assert [result.choices for result in batch] == [result.choices for result in expected]
    assert [result.prompt_token_ids for result in batch] == [one.prompt_token_ids for one in expected]
    assert [result.seed for result in batch] == [one.seed for one in expected]
    assert len({len(result.token_ids) for result in batch}) > 2  # rows did end at different times


@pytest.mark.parametrize("name", DRAFTED)
def test_guesses_give_the_tokens_that_the_prompt_gives_alone(tiny_model: ortgpt.Model, name: str) -> None:
    strategy, options = DRAFTED[name]
    options = with_draft(tiny_model, options)
    prompts, options = make_prompts(len(name)), {**ended_at_random(len(name)), **options}
    batch = tiny_model.generate_batch(prompts, strategy, max_rows=4, seed=5, **options)
    for result, one in zip(batch, alone(tiny_model, prompts, 5, strategy, **options), strict=True):
        # How many guesses share a pass shows in a logit's last bits, so in the log-probabilities.
        assert [choice.token_ids for choice in result.choices] == [choice.token_ids for choice in one.choices]
        assert [choice.text for choice in result.choices] == [choice.text for choice in one.choices]


@pytest.mark.parametrize(
    "capabilities",
    [None, Capabilities(True, False, False, True)],
    ids=["all capabilities", "rows copied, one by one"],
)
@pytest.mark.parametrize("max_rows", [1, 3, 8])
@pytest.mark.parametrize("name", ALL)
def test_any_number_of_rows_gives_the_same_results(
    tiny_model: ortgpt.Model, runs: Runs, name: str, max_rows: int, capabilities: Capabilities | None
) -> None:
    runs.capabilities = capabilities
    strategy, options = ALL[name]
    seed = max_rows + len(name)
    prompts, options = make_prompts(seed), {**ended_at_random(seed), **with_draft(tiny_model, options)}
    batch = tiny_model.generate_batch(prompts, strategy, max_rows=max_rows, seed=5, **options)
    expected = alone(tiny_model, prompts, 5, strategy, **options)
    assert [result.choices for result in batch] == [result.choices for result in expected]
    assert all(decoder.capacity == 0 for decoder in runs.decoders)  # nothing is left


@pytest.mark.parametrize("strategy", [ortgpt.Greedy(), SAMPLED, ortgpt.ContrastiveSearch(), BEAMS])
def test_stories_are_what_they_are_alone(storyteller_model: ortgpt.Model, strategy: Any) -> None:
    prompts = [
        f"{one} {two}" for one in ("The", "A small", "Once upon a time a") for two in ("fox", "king", "boat")
    ]
    options = {"max_new_tokens": 40, "stop": [".", "he "]}
    batch = storyteller_model.generate_batch(prompts, strategy, max_rows=4, seed=5, **options)
    for index, (prompt, result) in enumerate(zip(prompts, batch, strict=True)):
        one = storyteller_model.generate(prompt, strategy, seed=5 + index, **options)
        assert (result.prompt, result.choices) == (prompt, one.choices)


def slow_schedule(lengths: Sequence[tuple[int, int]], max_rows: int) -> list[list[int]]:
    """The calls for prompts of (tokens, new tokens): a row each, refilled in order at once."""
    waiting = deque(enumerate(lengths))
    left: dict[int, int] = {}
    calls: list[list[int]] = []
    while waiting or left:
        arrivals = [waiting.popleft() for _ in range(min(len(waiting), max_rows - len(left)))]
        if arrivals:
            calls.append([width for _, (width, _) in arrivals])
        if left:
            calls.append([1] * len(left))
        left |= {index: count for index, (_, count) in arrivals}
        left = {index: count - 1 for index, count in left.items() if count > 1}
    return calls


@pytest.mark.parametrize("max_rows", [1, 2, 5, 12, 40])
def test_a_row_is_refilled_as_soon_as_it_is_free(tiny_model: ortgpt.Model, runs: Runs, max_rows: int) -> None:
    prompts = make_prompts(max_rows, 30)
    options = ended_at_random(max_rows)
    batch = tiny_model.generate_batch(prompts, SAMPLED, max_rows=max_rows, seed=5, **options)
    lengths = [(len(result.prompt_token_ids), len(result.token_ids)) for result in batch]
    assert runs.take() == slow_schedule(lengths, max_rows)


def test_no_pass_is_run_for_prompts_that_get_no_token(tiny_model: ortgpt.Model, runs: Runs) -> None:
    results = tiny_model.generate_batch([[97], [98] * CONTEXT] * 20, max_new_tokens=0, max_rows=3)
    assert [result.finish_reason for result in results] == ["length"] * 40
    assert runs.take() == []
    full = [97] * CONTEXT  # a contrastive candidate has no place there
    results = tiny_model.generate_batch(
        [full, [98], full, [99]], ortgpt.ContrastiveSearch(), max_new_tokens=1, max_rows=1, stop_token_ids=[]
    )
    assert [len(result.token_ids) for result in results] == [0, 1, 0, 1]
    assert runs.take() == [[1], [4], [1], [4]]


@pytest.mark.parametrize(
    ("strategy", "options", "each"),
    [
        (SAMPLED, {}, 1),
        (SAMPLED, {"n": 2}, 2),
        (SAMPLED, {"best_of": 3}, 3),
        (SAMPLED, {"guidance_scale": 1.5}, 2),
        (BEAMS, {}, 2),
        (BEAMS, {"guidance_scale": 1.5}, 4),
        (SAMPLED, {"n": 9}, 9),
    ],
)
def test_no_more_rows_run_at_once_than_asked_for_unless_one_prompt_takes_more(
    tiny_model: ortgpt.Model, runs: Runs, strategy: Any, options: dict[str, Any], each: int
) -> None:
    prompts = make_prompts(1)
    tiny_model.generate_batch(prompts, strategy, max_rows=7, **options, **ended_at_random(1))
    widest = max(map(len, runs.take()))
    assert max(each, 7 // each * each) <= widest <= max(each, 7)


@pytest.mark.parametrize("max_rows", [0, 1025, 1.5, True, "4"])
def test_max_rows_is_checked(tiny_model: ortgpt.Model, max_rows: Any) -> None:
    for call in (tiny_model.generate_batch, tiny_model.iterate_batch):
        with pytest.raises(ortgpt.OptionError, match="max_rows"):
            call([[97]], max_rows=max_rows)


def test_prompts_that_would_wait_are_checked_before_any_is_run(tiny_model: ortgpt.Model, runs: Runs) -> None:
    prompts = [[97]] * 6 + [[97] * CONTEXT]
    with pytest.raises(ortgpt.OptionError, match="keywords need"):
        tiny_model.generate_batch(prompts, max_rows=2, constraints=ortgpt.Keywords(["dragon"]))
    with pytest.raises(ortgpt.OptionError, match=r"prompts\[7\]"):
        tiny_model.iterate_batch([*prompts, [300]], max_rows=2)
    assert runs.take() == []


def test_prompts_that_come_late_get_one_token_each(tiny_model: ortgpt.Model) -> None:
    for strategy in (SAMPLED, BEAMS, ortgpt.ContrastiveSearch()):
        results = tiny_model.generate_batch(
            make_prompts(2), strategy, max_rows=3, max_time=0.0, stop_token_ids=[]
        )
        assert [len(result.token_ids) for result in results] == [1] * 13
        assert {result.choices[0].stop_reason for result in results[:-1]} <= {"max_time", None}
        assert {result.finish_reason for result in results} == {"length"}


# Which calls of every decoder give NaN in its first row: reading, or the third token.
@pytest.mark.parametrize("call", [0, 3])
@pytest.mark.parametrize("name", ["greedy", "n", "beams", "contrastive", "draft", "guided"])
def test_a_prompt_that_fails_touches_no_other(
    tiny_model: ortgpt.Model, runs: Runs, name: str, call: int
) -> None:
    strategy, options = ALL[name]
    prompts = make_prompts(3)
    options = {**with_draft(tiny_model, options), **ended_at_random(3), "stop": [], "max_new_tokens": 9}
    expected = alone(tiny_model, prompts, 5, strategy, **options)
    runs.nan_at = {(call, 0)}
    outcomes = dict(tiny_model.iterate_batch(prompts, strategy, max_rows=7, seed=5, **options))
    assert sorted(outcomes) == list(range(len(prompts)))
    failed = {index for index, one in outcomes.items() if isinstance(one, ortgpt.OrtgptError)}
    assert failed
    assert len(failed) < len(prompts)
    for index, outcome in outcomes.items():
        if index in failed:
            assert isinstance(outcome, ortgpt.NonFiniteLogitsError)
            assert outcome.step == (call if name != "draft" else outcome.step)
        else:
            assert isinstance(outcome, ortgpt.Result)
            assert outcome.choices == expected[index].choices
    with pytest.raises(ortgpt.NonFiniteLogitsError) as caught:
        tiny_model.generate_batch(prompts, strategy, max_rows=7, seed=5, **options)
    assert caught.value.results is not None
    assert {i for i, one in enumerate(caught.value.results) if one is None} == failed


def test_what_a_failed_row_leaves_in_the_cache_harms_none_that_takes_its_place(
    make_bundle: MakeBundle, tmp_path: Path
) -> None:
    """FAULTS 43: position 40 is NaN, so prompts that reach it fail, with NaN in their cells from there on."""
    bundle = Path(shutil.copytree(make_bundle(), tmp_path / "bundle"))
    prompts = [[97] * 60, [98, 99], [98] * 41, [100] * 20, [99] * 50, [101, 102], [104] * 10]
    options: dict[str, Any] = {"max_new_tokens": 12, "stop_token_ids": []}
    with ortgpt.load(bundle, threads=1) as model:
        expected = alone(model, [prompts[i] for i in (1, 3, 5, 6)], 0, ortgpt.Greedy(), **options)
    spoil_position(bundle, 40)
    with ortgpt.load(bundle, threads=1, verify=False) as model:
        for max_rows in (1, 2, 3):
            outcomes = dict(model.iterate_batch(prompts, max_rows=max_rows, **options))
            failed = [index for index, one in sorted(outcomes.items()) if isinstance(one, Exception)]
            assert failed == [0, 2, 4]
            assert [outcomes[i].choices for i in (1, 3, 5, 6)] == [one.choices for one in expected]


def spoil_position(bundle: Path, position: int) -> None:
    """NaN in one row of the position table."""
    graph = onnx.load(bundle / "decoder.onnx", load_external_data=False).graph
    (table,) = (tensor for tensor in graph.initializer if tensor.name == "wpe.weight")
    offset = next(int(entry.value) for entry in table.external_data if entry.key == "offset")
    data = np.fromfile(bundle / "decoder.onnx.data", np.float32)
    begin = offset // 4 + position * table.dims[1]
    data[begin : begin + table.dims[1]] = np.nan
    data.tofile(bundle / "decoder.onnx.data")


def test_results_come_as_soon_as_their_prompts_have_ended(tiny_model: ortgpt.Model, runs: Runs) -> None:
    long, short = [97], [98] * (CONTEXT - 2)  # room for 3 tokens
    outcomes = tiny_model.iterate_batch(
        [long, short, short, long, short], max_rows=2, max_new_tokens=20, stop_token_ids=[]
    )
    assert runs.take() == []  # nothing runs before it is asked for
    seen = []
    for index, outcome in outcomes:
        assert isinstance(outcome, ortgpt.Result)
        seen.append((index, len(runs.take())))
    # Each with the calls since the one before: the second short one is read, then come its three passes.
    assert seen == [(1, 3), (2, 4), (0, 15), (4, 4), (3, 3)]


@pytest.mark.parametrize(
    "name", ["greedy", "n", "beams", "contrastive", "draft", "lookup", "guided", "healed"]
)
def test_whenever_it_is_interrupted_nothing_is_left_behind(
    tiny_model: ortgpt.Model, runs: Runs, name: str
) -> None:
    strategy, options = ALL[name]
    options = {**with_draft(tiny_model, options), **ended_at_random(4)}
    prompts = make_prompts(4)
    ended = 0
    for call in range(0, 60, 3):
        runs.interrupt_after(call)
        with contextlib.suppress(KeyboardInterrupt):
            tiny_model.generate_batch(prompts, strategy, max_rows=4, seed=5, **options)
            ended += 1
        assert all(decoder.capacity == 0 for decoder in runs.decoders)
    assert ended < 20


@pytest.mark.parametrize("name", ["greedy", "beams", "draft"])
def test_closing_the_iteration_frees_everything(tiny_model: ortgpt.Model, runs: Runs, name: str) -> None:
    strategy, options = ALL[name]
    options = {**with_draft(tiny_model, options), **ended_at_random(4)}
    outcomes = tiny_model.iterate_batch(make_prompts(4), strategy, max_rows=4, **options)
    next(outcomes)
    assert any(decoder.capacity for decoder in runs.decoders)
    outcomes.close()
    assert not any(decoder.capacity for decoder in runs.decoders)


def test_timings_are_a_prompts_own(tiny_model: ortgpt.Model, runs: Runs) -> None:
    def slow(token_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        time.sleep(0.002)
        return scores

    long, short = [97], [98] * (CONTEXT - 2)
    started = time.perf_counter()
    first, second, third = tiny_model.generate_batch(
        [long, short, short], max_rows=2, max_new_tokens=20, stop_token_ids=[], processors=[slow]
    )
    whole = time.perf_counter() - started
    assert 0 < second.timings.ttft_s == first.timings.ttft_s < third.timings.ttft_s < whole  # it had to wait
    assert third.timings.ttft_s > second.timings.decode_s
    assert 0 < second.timings.decode_s < first.timings.decode_s < whole
    assert 0 < third.timings.decode_s < first.timings.decode_s
    assert first.timings.prefill_s == second.timings.prefill_s != third.timings.prefill_s > 0
    speed = (third.timings.generated_tokens - 1) / third.timings.decode_s
    assert third.timings.tokens_per_second == pytest.approx(speed)


def test_a_bundle_that_reads_prompts_one_by_one_refills_as_well(make_bundle: MakeBundle) -> None:
    with ortgpt.load(make_bundle(onnxruntime_floor="1.31"), threads=1) as model:
        prompts, options = make_prompts(6), ended_at_random(6)
        for strategy in (SAMPLED, BEAMS, ortgpt.ContrastiveSearch()):
            batch = model.generate_batch(prompts, strategy, max_rows=4, seed=5, **options)
            expected = alone(model, prompts, 5, strategy, **options)
            assert [result.choices for result in batch] == [result.choices for result in expected]

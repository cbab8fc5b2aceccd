"""The plan covers every new token once and never issues a width that rounds differently."""

from __future__ import annotations

from random import Random

import pytest

from ortgpt.inference.plan import ATTENTION_BLOCK, plan_calls

CASES = [
    ([1], 512),
    ([1, 1, 1], 512),
    ([129], 512),
    ([257], 128),
    ([5, 1, 1, 300, 7, 7], 64),
    ([2, 600, 2], 1),
    ([130, 1, 129], 129),
]


def random_cases() -> list[tuple[list[int], int]]:
    random = Random(0)
    return [
        ([random.choice([1, 1, 2, 3, 17, 128, 129, 130, 400]) for _ in range(random.randint(1, 9))], chunk)
        for chunk in (1, 2, 7, 64, 128, 129, 257, 512)
        for _ in range(20)
    ]


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize(("widths", "chunk"), CASES + random_cases())
def test_every_token_is_run_once_in_order(widths: list[int], chunk: int, ragged: bool) -> None:
    done = [0] * len(widths)
    ended = [0] * len(widths)
    for call in plan_calls(widths, chunk=chunk, ragged=ragged):
        for row, count in zip(range(call.first, call.last), call.counts, strict=True):
            assert count > 0
            assert done[row] == call.begin
            done[row] += count
            ended[row] += call.is_end
    assert done == widths
    assert ended == [1] * len(widths)


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize(("widths", "chunk"), CASES + random_cases())
def test_no_prefill_leaves_a_block_of_one_token(widths: list[int], chunk: int, ragged: bool) -> None:
    for call in plan_calls(widths, chunk=chunk, ragged=ragged):
        is_decode = all(widths[row] == 1 for row in range(call.first, call.last))
        issued = [count + spare for count, spare in zip(call.counts, call.spares, strict=True)]
        if is_decode:
            assert issued == [1] * len(issued)
        else:
            assert all(width % ATTENTION_BLOCK != 1 for width in issued)
            assert all(widths[row] > 1 for row in range(call.first, call.last))


@pytest.mark.parametrize(("widths", "chunk"), CASES + random_cases())
def test_without_ragged_widths_every_prefill_has_one_row(widths: list[int], chunk: int) -> None:
    for call in plan_calls(widths, chunk=chunk, ragged=False):
        assert call.last - call.first == 1 or call.counts == (1,) * (call.last - call.first)


@pytest.mark.parametrize(("widths", "chunk"), CASES + random_cases())
def test_shared_calls_stay_within_the_chunk(widths: list[int], chunk: int) -> None:
    for call in plan_calls(widths, chunk=chunk, ragged=True):
        rows = call.last - call.first
        if rows > 1 and max(call.counts) > 1:
            assert rows * max(call.counts) <= chunk
        assert max(call.counts) <= chunk


def test_short_prompts_share_one_call() -> None:
    calls = list(plan_calls([5, 9, 3], chunk=512, ragged=True))
    assert [(call.first, call.last) for call in calls] == [(0, 3)]

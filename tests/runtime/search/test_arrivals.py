"""Rows that join others, and the gaps that rows leave."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ortgpt.interfaces import Arrivals, Outputs
from ortgpt.search.arrivals import extend_and_join, fill_gaps
from ortgpt.testing import FakeDecoder, fake_logits

VOCAB = 20


def read(*prompts: tuple[int, ...]) -> Arrivals[str]:
    decoder = FakeDecoder(VOCAB, 50, rows=len(prompts))
    outputs = decoder.extend(prompts).at(np.arange(len(prompts)))
    return Arrivals(decoder, outputs, ["row"] * len(prompts))


def test_arrivals_come_behind_with_the_outputs_of_their_own_pass() -> None:
    running, arrivals = read((1, 2), (3,)), read((4, 5, 6), (7,))
    decoder = running.decoder
    outputs = extend_and_join(decoder, [(8,), (9,)], arrivals)
    histories = [(1, 2, 8), (3, 9), (4, 5, 6), (7,)]
    assert decoder.histories == tuple(histories)
    assert np.array_equal(outputs.logits[:, -1], [fake_logits(one, VOCAB) for one in histories])
    assert arrivals.decoder.num_rows == 0


def test_where_no_row_is_left_the_arrivals_go_on_alone() -> None:
    running, arrivals = read((1, 2)), read((4, 5))
    running.decoder.reorder([])
    outputs = extend_and_join(running.decoder, [], arrivals)
    assert running.decoder.histories == ((4, 5),)
    assert np.array_equal(outputs.logits[0, -1], fake_logits((4, 5), VOCAB))
    assert running.decoder.verbs.count("extend") == 1


def test_without_arrivals_it_is_a_plain_pass() -> None:
    running = read((1, 2))
    outputs = extend_and_join(running.decoder, [(3, 4)], None, outputs="all")
    assert np.array_equal(outputs.logits[0], [fake_logits((1, 2, 3, 4)[:n], VOCAB) for n in (3, 4)])


def test_stacked_outputs_are_copies_padded_behind() -> None:
    first = Outputs(np.ones((2, 3, 4), np.float32), None, np.full((2, 3, 4), 2, np.float32))
    second = Outputs(np.full((1, 1, 4), 5, np.float32), None, np.full((1, 1, 4), 6, np.float32))
    for both, swapped in ((first.followed_by(second), False), (second.followed_by(first), True)):
        assert both.guided is not None
        assert both.logits.shape == both.guided.shape == (3, 3, 4)
        own, other = (slice(0, 1), slice(1, 3)) if swapped else (slice(2, 3), slice(0, 2))
        assert (both.logits[own, 0] == 5).all()
        assert (both.logits[own, 1:] == 0).all()
        assert (both.logits[other] == 1).all()
        assert (both.guided[own, 0] == 6).all()
        assert (both.guided[other] == 2).all()
        assert not np.shares_memory(both.logits, first.logits)
    assert Outputs(first.logits, None).followed_by(Outputs(second.logits, None)).guided is None


@pytest.mark.parametrize("count", range(7))
def test_gaps_are_filled_from_behind_so_that_no_row_moves_needlessly(count: int) -> None:
    for staying in itertools.chain.from_iterable(
        itertools.combinations(range(count), size) for size in range(count + 1)
    ):
        order = fill_gaps(staying)
        assert sorted(order) == list(staying)
        moved = sum(place != row for row, place in enumerate(order))
        assert moved == sum(place >= len(staying) for place in staying)  # those that lie beyond the end

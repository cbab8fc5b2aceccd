"""The decoder's numbers do not depend on chunks, neighbours or history; its verbs mean what they say."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from device_stand_in import put_on_stand_in

import ortgpt
from ortgpt.inference.fused_decoder import KEPT_LOGITS
from ortgpt.inference.session import Session
from ortgpt.interfaces import Decoder
from ortgpt.testing import FakeDecoder
from ortgpt_export.checkpoint import open_checkpoint
from ortgpt_export.config import read_config
from ortgpt_export.reference import forward

MakeBundle = Callable[..., Path]

# context 320: room for several attention blocks of 128
SHAPES = {
    "even": {"n_layer": 2, "n_head": 4, "n_embd": 64, "n_positions": 320},
    "odd heads of 12": {"n_layer": 3, "n_head": 3, "n_embd": 36, "n_positions": 320},
    "1.31": {"n_layer": 2, "n_head": 4, "n_embd": 64, "n_positions": 320, "onnxruntime_floor": "1.31"},
}


@pytest.fixture(scope="module", params=SHAPES)
def bundle(request: pytest.FixtureRequest, make_bundle: MakeBundle) -> Path:
    return make_bundle(**SHAPES[request.param])


@pytest.fixture(scope="module", params=["host", "device"])
def model(bundle: Path, request: pytest.FixtureRequest) -> ortgpt.Model:
    """With its cache in the host's memory, and in a device's."""
    model = ortgpt.load(bundle, threads=2)
    if request.param == "device":
        put_on_stand_in(model._session)
    return model


def ids(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng([seed, count]).integers(0, 257, count).tolist()


def all_logits(decoder: Decoder, tokens: Sequence[int]) -> np.ndarray:
    return decoder.extend([tokens], outputs="all").logits[0].copy()


@pytest.mark.parametrize("chunk", [1, 2, 7, 64, 127, 128, 129, 130, 257, 512])
def test_prefill_is_bit_equal_under_every_chunk_size(bundle: Path, model: ortgpt.Model, chunk: int) -> None:
    tokens = ids(300)
    whole = model.decoder().extend([tokens], outputs="all", hidden=True)
    with ortgpt.load(bundle, threads=2, prefill_chunk=chunk) as chunked:
        parts = chunked.decoder().extend([tokens], outputs="all", hidden=True)
        assert np.array_equal(parts.logits, whole.logits)
        assert np.array_equal(parts.hidden, whole.hidden)
        assert np.array_equal(chunked.decoder().extend([tokens]).logits[0, 0], whole.logits[0, -1])


def test_prefill_of_ragged_rows_is_bit_equal_to_each_alone(model: ortgpt.Model) -> None:
    prompts = [ids(width) for width in (1, 129, 7, 257, 2, 64, 300, 1)]
    together = model.decoder(len(prompts)).extend(prompts).logits
    for row, prompt in enumerate(prompts):
        assert np.array_equal(together[row], model.decoder().extend([prompt]).logits[0])


def test_a_decode_step_among_eight_ragged_rows_is_bit_equal_to_one_alone(model: ortgpt.Model) -> None:
    prompts = [ids(width) for width in (1, 129, 7, 257, 2, 64, 300, 1)]
    batch = model.decoder(len(prompts))
    batch.extend(prompts)
    alone = [model.decoder() for _ in prompts]
    for decoder, prompt in zip(alone, prompts, strict=True):
        decoder.extend([prompt])
    for step in range(5):
        new = [[token] for token in ids(len(prompts), seed=step)]
        together = batch.extend(new).logits
        for row, decoder in enumerate(alone):
            assert np.array_equal(together[row], decoder.extend([new[row]]).logits[0])


def test_prompt_and_64_cached_steps_match_the_plain_numpy_forward(bundle: Path, model: ortgpt.Model) -> None:
    tokens = ids(84)
    config = read_config(bundle.parent / "checkpoint")
    with open_checkpoint(bundle.parent / "checkpoint", config) as weights:
        expected = forward(dict(weights), config, np.asarray(tokens))
    decoder = model.decoder()
    first = decoder.extend([tokens[:20]], outputs="all", hidden=True)
    logits, hidden = [first.logits[0].copy()], [first.hidden[0].copy()]
    for token in tokens[20:]:
        step = decoder.extend([[token]], hidden=True)
        logits.append(step.logits[0].copy())
        hidden.append(step.hidden[0].copy())
    assert np.abs(np.concatenate(logits) - expected.logits).max() <= 2e-4
    assert np.abs(np.concatenate(hidden) - expected.hidden).max() <= 2e-4


def test_several_new_tokens_on_a_past_equal_the_same_tokens_at_once(model: ortgpt.Model) -> None:
    tokens = [ids(40), ids(25)]
    whole = [all_logits(model.decoder(), row) for row in tokens]
    decoder = model.decoder(2)
    decoder.extend([tokens[0][:30], tokens[1][:10]])
    part = decoder.extend([tokens[0][30:], tokens[1][10:]], outputs="all").logits
    assert np.array_equal(part[0, :10], whole[0][30:])
    assert np.array_equal(part[1, :15], whole[1][10:])


@pytest.mark.parametrize("source", [[2, 0, 1], [0, 2], [1], [1, 1, 0, 2, 2]])
def test_reorder_continues_rows_from_their_sources(model: ortgpt.Model, source: list[int]) -> None:
    prompts = [ids(9), ids(30), ids(4)]
    decoder = model.decoder(3)
    decoder.extend(prompts)
    decoder.reorder(source)
    new = ids(len(source), seed=1)
    logits = decoder.extend([[token] for token in new]).logits
    assert decoder.lengths.tolist() == [len(prompts[row]) + 1 for row in source]
    for row, origin in enumerate(source):
        alone = model.decoder()
        alone.extend([prompts[origin]])
        assert np.array_equal(logits[row], alone.extend([[new[row]]]).logits[0])


def test_repeat_makes_adjacent_equal_rows(model: ortgpt.Model) -> None:
    decoder = model.decoder(2)
    decoder.extend([ids(9), ids(30)])
    decoder.repeat(3)
    logits = decoder.extend([[5]] * 6).logits
    assert decoder.lengths.tolist() == [10, 10, 10, 31, 31, 31]
    assert np.array_equal(logits[0], logits[2])
    assert np.array_equal(logits[3], logits[5])
    assert not np.array_equal(logits[0], logits[3])


def test_a_fork_and_its_origin_go_different_ways(model: ortgpt.Model) -> None:
    decoder = model.decoder()
    decoder.extend([ids(20)])
    fork = decoder.fork()
    there = fork.extend([[1]]).logits.copy()
    here = decoder.extend([[2]]).logits.copy()
    fresh = model.decoder()
    fresh.extend([ids(20)])
    assert np.array_equal(here, fresh.extend([[2]]).logits)
    fresh.trim([20])
    assert np.array_equal(there, fresh.extend([[1]]).logits)


def test_trim_forgets_the_tokens_behind(model: ortgpt.Model) -> None:
    tokens = ids(40)
    decoder = model.decoder()
    decoder.extend([tokens])
    decoder.trim([15])
    again = decoder.extend([tokens[15:]], outputs="all").logits[0]
    assert np.array_equal(again, all_logits(model.decoder(), tokens)[15:])


def test_siblings_see_the_past_and_themselves_only(model: ortgpt.Model) -> None:
    prompts, candidates = [ids(21), ids(66)], [ids(4, seed=1), ids(4, seed=2)]
    decoder = model.decoder(2)
    decoder.extend(prompts)
    shared = decoder.extend(candidates, outputs="all", hidden=True, siblings=True)
    for row, prompt in enumerate(prompts):
        for place, candidate in enumerate(candidates[row]):
            alone = model.decoder()
            alone.extend([prompt])
            expected = alone.extend([[candidate]], hidden=True)
            assert np.abs(shared.logits[row, place] - expected.logits[0, 0]).max() < 2e-4
            assert np.abs(shared.hidden[row, place] - expected.hidden[0, 0]).max() < 2e-4


def test_siblings_of_several_rows_share_a_run_and_are_bit_equal_to_each_alone(
    model: ortgpt.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, candidates = [ids(9), ids(140), ids(30)], [[5, 6, 7, 8], [8, 9, 1, 2], [4, 3, 2, 1]]
    together = model.decoder(3)
    together.extend(prompts)
    runs: list[object] = []
    run = Session.run
    monkeypatch.setattr(Session, "run", lambda *arguments: (runs.append(arguments), run(*arguments)))
    outputs = together.extend(candidates, outputs="all", hidden=True, siblings=True)
    assert len(runs) == (1 if model.manifest.ragged_widths else 3)
    for row, (prompt, own) in enumerate(zip(prompts, candidates, strict=True)):
        decoder = model.decoder()
        decoder.extend([prompt])
        alone = decoder.extend([own], outputs="all", hidden=True, siblings=True)
        assert np.array_equal(outputs.logits[row], alone.logits[0])
        assert np.array_equal(outputs.hidden[row], alone.hidden[0])


def test_keeping_a_sibling_continues_as_if_it_had_come_alone(model: ortgpt.Model) -> None:
    prompts, candidates = [ids(21), ids(66)], [ids(4, seed=1), ids(4, seed=2)]
    decoder = model.decoder(2)
    decoder.extend(prompts)
    decoder.extend(candidates, outputs="all", siblings=True)
    decoder.keep([[2], [3]])
    plain = model.decoder(2)
    plain.extend([[*prompts[0], candidates[0][2]], [*prompts[1], candidates[1][3]]])
    assert decoder.lengths.tolist() == plain.lengths.tolist()
    difference = decoder.extend([[7], [8]]).logits - plain.extend([[7], [8]]).logits
    assert np.abs(difference).max() < 2e-4


def test_keep_of_drafts_drops_the_rejected_tail(model: ortgpt.Model) -> None:
    decoder = model.decoder()
    decoder.extend([ids(21)])
    decoder.extend([[1, 2, 3, 4]], outputs="all")
    decoder.keep([[0, 1]])
    plain = model.decoder()
    plain.extend([[*ids(21), 1, 2]])
    assert np.array_equal(decoder.extend([[9]]).logits, plain.extend([[9]]).logits)


def test_growth_of_the_cache_changes_nothing(model: ortgpt.Model) -> None:
    tokens = ids(319)
    decoder = model.decoder()
    decoder.extend([tokens[:10]])
    capacity = decoder.capacity
    for token in tokens[10:]:
        grown = decoder.extend([[token]]).logits[0, 0]
    assert decoder.capacity > capacity
    assert np.abs(grown - model.decoder().extend([tokens]).logits[0, 0]).max() < 2e-4


def test_widths_that_come_again_give_what_a_fresh_decoder_gives(model: ortgpt.Model) -> None:
    """Bindings are kept for them, until the cache moves."""
    decoder, seen, rng = model.decoder(), list(ids(5)), np.random.default_rng(4)
    decoder.extend([seen])
    buffer = weakref.ref(decoder._cache.cells)
    for width in [1, 3, 1, 2, 3, 5, 1] * 15:
        new = rng.integers(0, 257, width).tolist()
        seen += new
        logits = decoder.extend([new], outputs="all").logits[0].copy()
        if width == 1:  # the fresh one reads all before it at once
            fresh = model.decoder()
            expected = fresh.extend([seen]).logits[0, -1]
            assert np.abs(logits[-1] - expected).max() < 2e-4
        decoder.trim([len(seen) - width // 2])
        seen = seen[: len(seen) - width // 2]
    assert decoder.capacity > 64
    assert buffer() is None


def test_bindings_that_are_kept_hold_few_logits(model: ortgpt.Model) -> None:
    decoder = model.decoder()
    decoder.extend([ids(5)])
    for width in range(2, 60):
        decoder.extend([ids(width)], outputs="all")
        decoder.trim([5])
        assert sum(len(step.logits[0]) for step in decoder._steps.values()) <= max(KEPT_LOGITS, width)
    assert len(decoder._steps) == 1


def test_the_last_place_of_the_context_can_be_used_and_no_more(model: ortgpt.Model) -> None:
    decoder = model.decoder()
    decoder.extend([ids(319)])
    decoder.extend([[1]])
    with pytest.raises(ortgpt.ContextLengthError, match="321 tokens, the context is 320"):
        decoder.extend([[1]])


@pytest.mark.parametrize("bad", [[[-1]], [[257]], [[]], [[1], [2]], [[[1]]]])
def test_bad_ids_are_refused_before_the_graph_sees_them(model: ortgpt.Model, bad: list[list[int]]) -> None:
    with pytest.raises(ortgpt.OptionError, match="token_ids"):
        model.decoder().extend(bad)


def test_bad_rows_and_lengths_are_refused(model: ortgpt.Model) -> None:
    decoder = model.decoder(2)
    decoder.extend([[1, 2], [3]])
    with pytest.raises(ortgpt.OptionError, match="source_rows"):
        decoder.reorder([0, 2])
    with pytest.raises(ortgpt.OptionError, match="lengths"):
        decoder.trim([3, 1])
    with pytest.raises(ortgpt.OptionError, match="chosen"):
        decoder.keep([[0], [1]])


def test_the_cache_is_counted_and_released(model: ortgpt.Model) -> None:
    decoder = model.decoder()
    decoder.extend([ids(5)])
    shape = model.manifest.architecture
    assert decoder.nbytes == decoder.capacity * shape.cache_bytes_per_token()
    decoder.release()
    assert (decoder.nbytes, decoder.num_rows) == (0, 0)


def test_rows_that_join_go_on_as_they_would_alone(model: ortgpt.Model) -> None:
    """Prompts read in decoders of their own, joined one after the other, some rows leaving in between."""
    prompts = [ids(width) for width in (9, 130, 4, 70, 1, 33)]
    decoder, other, third = model.decoder(2), model.decoder(3), model.decoder()
    decoder.extend(prompts[:2])
    other.extend(prompts[2:5])
    third.extend(prompts[5:])
    alone = [model.decoder() for _ in prompts]
    for one, prompt in zip(alone, prompts, strict=True):
        one.extend([prompt])

    def step(rows: list[int], seed: int) -> None:
        new = [[token] for token in ids(len(rows), seed=seed)]
        logits = decoder.extend(new).logits
        for place, row in enumerate(rows):
            assert np.array_equal(logits[place], alone[row].extend([new[place]]).logits[0])

    step([0, 1], 1)
    decoder.join(other)
    step([0, 1, 2, 3, 4], 2)
    decoder.reorder([4, 1, 2])
    decoder.join(third)
    assert decoder.lengths.tolist() == [2, 132, 5, 33]
    step([4, 1, 2, 5], 3)
    assert (other.num_rows, other.nbytes, third.nbytes) == (0, 0, 0)


def test_joined_rows_can_be_chosen_from_trimmed_and_forked(model: ortgpt.Model) -> None:
    decoder, other = model.decoder(), model.decoder()
    decoder.extend([ids(9)])
    other.extend([ids(20)])
    decoder.join(other)
    decoder.keep([list(range(9)), list(range(20))])  # of what either brought with its last extend
    decoder.extend([[1, 2], [3, 4]], outputs="all", hidden=True, siblings=True)
    decoder.keep([[1], [0]])
    twin = decoder.fork()
    decoder.trim([9, 20])
    logits = decoder.extend([[2], [3]]).logits
    fresh = model.decoder(2)
    fresh.extend([ids(9), ids(20)])
    assert np.array_equal(logits, fresh.extend([[2], [3]]).logits)
    assert twin.lengths.tolist() == [10, 21]


def test_only_another_decoder_of_the_same_model_can_join(
    model: ortgpt.Model, make_bundle: MakeBundle
) -> None:
    decoder = model.decoder()
    decoder.extend([[1, 2]])
    with ortgpt.load(make_bundle(), threads=1) as stranger:
        for other in (decoder, stranger.decoder(), FakeDecoder(257, 64)):
            with pytest.raises(ortgpt.OptionError, match="another decoder of the same model"):
                decoder.join(other)
    waiting = model.decoder()
    waiting.extend([[1, 2]], siblings=True)
    for one, other in ((decoder, waiting), (waiting, decoder)):
        with pytest.raises(ortgpt.OptionError, match="siblings"):
            one.join(other)
    assert decoder.lengths.tolist() == [2]


@pytest.mark.parametrize("bad", [[[-1]], [[257]], [[1], [2]], np.zeros((1, 0)), np.zeros((0, 1))])
def test_bad_ids_in_an_array_are_refused_as_well(model: ortgpt.Model, bad: list[list[int]]) -> None:
    with pytest.raises(ortgpt.OptionError, match="token_ids"):
        model.decoder().extend(np.asarray(bad, np.int64))


def test_a_step_in_an_array_finds_the_context_full(model: ortgpt.Model) -> None:
    decoder = model.decoder(2)
    decoder.extend([ids(320), ids(5)])
    with pytest.raises(ortgpt.ContextLengthError, match="row 0 to 321 tokens, the context is 320"):
        decoder.extend(np.ones((2, 1), np.int64))


def test_steps_in_arrays_and_in_lists_are_bit_equal_whatever_comes_between(model: ortgpt.Model) -> None:
    """Also what a row shares with another is known alike: reorder copies the same cells."""
    decoders = [model.decoder(3), model.decoder(3), model.decoder(3)]
    forms = (np.asarray, lambda rows: [list(row) for row in rows], lambda rows: np.asarray(rows, np.int32))
    for decoder in decoders:
        decoder.extend([ids(9), ids(30), ids(4)])
    rng = np.random.default_rng(3)
    for verb in [
        None,
        None,
        [1, 1, 0],
        None,
        [2, 0, 1],
        [0, 0, 0],
        None,
        "draft",
        None,
        [1, 0, 2],
        "sibling",
        None,
    ]:
        new = rng.integers(0, 257, (3, 1)).tolist()
        found = []
        for decoder, form in zip(decoders, forms, strict=True):
            if isinstance(verb, list):
                decoder.reorder(verb)
            elif verb == "draft":
                decoder.extend([[1, 2, 3], [4], [5, 6]], outputs="all")
                decoder.trim(decoder.lengths - [1, 0, 2])
            elif verb == "sibling":
                decoder.extend(form(new), siblings=True)
                decoder.keep([[0], [0], []])
            found.append(decoder.extend(form(new)).logits.copy())  # type: ignore[arg-type]
        np.testing.assert_array_equal(found[1], found[0])
        np.testing.assert_array_equal(found[2], found[0])
        np.testing.assert_array_equal(decoders[0].lengths, decoders[1].lengths)
        np.testing.assert_array_equal(decoders[0]._cache._tokens, decoders[1]._cache._tokens)


def test_rows_that_change_their_widths_within_a_shape_get_their_own_numbers(model: ortgpt.Model) -> None:
    prompts = [ids(9), ids(30)]
    together, alone = model.decoder(2), [model.decoder(), model.decoder()]
    together.extend(prompts)
    for row, decoder in enumerate(alone):
        decoder.extend([prompts[row]])
    for new in ([[1, 2, 3], [4, 5]], [[6, 7], [8, 9, 10]], [[11, 12, 13], [14, 15]]):
        for outputs in ("last", "all"):
            found = together.extend(new, outputs=outputs).logits
            for row, decoder in enumerate(alone):
                expected = decoder.extend([new[row]], outputs=outputs).logits[0]
                np.testing.assert_array_equal(found[row, : len(expected)], expected)

"""Cells of a device: the same as the host's, whatever is moved; refusals; and a decoder on them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from cache_shapes import SHAPE
from device_stand_in import as_array, put_on_stand_in, stand_in_memory
from portable_bundles import load_portable

import ortgpt
from ortgpt.errors import ProviderError
from ortgpt.inference import device_memory, session
from ortgpt.inference.cache import Cache
from ortgpt.inference.cache_memory import HOST, CacheCells, HostMemory, Move
from ortgpt.inference.session import Engine
from ortgpt.manifest import ElementType

CELLS = (4, 5, 3, 20, 8)


@pytest.fixture(scope="module", params=["float32", "float16"])
def element_type(request: pytest.FixtureRequest) -> ElementType:
    return request.param


def both(element_type: ElementType, seed: int) -> tuple[CacheCells, CacheCells]:
    """Cells of the host and of a device that hold the same."""
    pair = HostMemory().allocate(CELLS, element_type), stand_in_memory().allocate(CELLS, element_type)
    values = np.random.default_rng(seed).standard_normal(CELLS).astype(element_type)
    for cells in pair:
        assert not as_array(cells).any()
        as_array(cells)[:] = values
    return pair


def check_same(pair: tuple[CacheCells, CacheCells]) -> None:
    np.testing.assert_array_equal(as_array(pair[0]), as_array(pair[1]))


def test_sizes_and_addresses_follow_the_layout(element_type: ElementType) -> None:
    _, cells = both(element_type, 0)
    array = as_array(cells)
    assert (cells.shape, cells.nbytes, cells.dtype) == (CELLS, array.nbytes, array.dtype)
    for index in range(CELLS[0]):
        for row in range(CELLS[1]):
            assert cells.address(index, row) == array[index, row].ctypes.data


@pytest.mark.parametrize("portion", [64 << 20, 1])
def test_cells_move_as_on_the_host(
    portion: int, element_type: ElementType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random moves, picks and takes; all at once, and one plane at a time."""
    monkeypatch.setattr(device_memory, "MOVED_AT_ONCE", portion)
    rng = np.random.default_rng(0)
    pair, other = both(element_type, 1), both(element_type, 2)
    for _ in range(20):
        moves = []
        for row in rng.permutation(CELLS[1])[: rng.integers(0, 4)]:
            begin, end = np.sort(rng.integers(0, CELLS[3] + 1, 2))
            moves.append(Move(int(row), int(rng.integers(CELLS[1])), int(begin), int(end)))
        positions = rng.permutation(CELLS[3])[: rng.integers(0, 6)]
        rows = rng.integers(0, CELLS[1], 3)
        for cells, source in zip(pair, other, strict=True):
            cells.move(moves)
            cells.pick(2, 4, positions)
            cells.take(source, rows, 7, first=2)
            source.take(cells, slice(1, 4), 5)
        check_same(pair)
        check_same(other)


def test_rows_swap_in_one_move(element_type: ElementType) -> None:
    _, cells = both(element_type, 3)
    before = as_array(cells).copy()
    cells.move([Move(0, 1, 0, 20), Move(1, 0, 0, 20)])
    np.testing.assert_array_equal(as_array(cells)[:, :2], before[:, 1::-1])


def test_every_bit_pattern_arrives() -> None:
    """Bits are moved, not numbers: NaN of every kind, in halves and in whole numbers."""
    memory = stand_in_memory()
    cells, other = (
        memory.allocate((1, 1, 1, 8192, 8), "float16"),
        memory.allocate((1, 1, 1, 8192, 8), "float16"),
    )
    bits = np.arange(1 << 16, dtype=np.uint16)
    as_array(cells).view(np.uint16).reshape(-1)[:] = bits
    other.take(cells, slice(0, 1), 8192)
    np.testing.assert_array_equal(as_array(other).view(np.uint16).reshape(-1), bits)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (
            "bfc_arena.cc:376 Failed to allocate memory for requested buffer of size 9600",
            "not enough memory to hold the cache of 4 rows of 75 tokens, 0 MB",
        ),
        ("CUDA failure 2: out of memory ; GPU=0 ; hostname=here", "not enough memory to hold the cache of 4"),
        ("something else\nat line 3", "onnxruntime failed: something else"),
    ],
)
def test_memory_that_is_refused_is_a_provider_error_with_a_remedy(
    message: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 25; the cache as it was stays usable."""
    cache = Cache(SHAPE, 4, memory=stand_in_memory())

    def refuse(*_: Any) -> None:
        raise RuntimeError(message)

    with monkeypatch.context() as patch:
        patch.setattr(session.onnxruntime.OrtValue, "ortvalue_from_numpy", refuse)
        with pytest.raises(ProviderError, match=shown) as caught:
            cache.reserve(10)
        assert "\n" not in str(caught.value)
    cache.reserve(10)
    assert cache.capacity >= 10


def test_memory_is_given_back_with_the_cells() -> None:
    memory = stand_in_memory()
    empty = memory.allocate((4, 0, 3, 0, 8), "float32")
    assert (empty.nbytes, empty.address(0, 0)) == (0, 0)
    cells = memory.allocate(CELLS, "float32")
    cells.take(empty, slice(0, 0), 0)
    value = cells._value
    cache = Cache(SHAPE, 2, memory=memory)
    cache.reserve(5)
    assert cache.nbytes > 0
    cache.release()
    assert cache.nbytes == 0
    assert value.device_name() == HOST.type


# A decoder that keeps its cache there, and whose inputs are copied when they are bound


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def models(request: pytest.FixtureRequest, make_bundle: Any) -> Iterator[tuple[ortgpt.Model, ortgpt.Model]]:
    """(on the host, on a device)"""
    bundle = make_bundle(precision=request.param, n_positions=320)
    with ortgpt.load(bundle, threads=1) as plain, ortgpt.load(bundle, threads=1) as moved:
        put_on_stand_in(moved._session)
        yield plain, moved


PROMPTS = [
    "Once",
    "The king was",
    "A very much longer prompt than the others, to share with none of them",
    "x",
]
STRATEGIES: dict[str, Any] = {
    "greedy": (ortgpt.Greedy(), {}),
    "sampling": (ortgpt.Sampling(temperature=0.9), {"n": 3}),
    "beams": (ortgpt.BeamSearch(num_beams=4, num_return_sequences=2), {}),
    "diverse beams": (ortgpt.BeamSearch(num_beams=4, num_beam_groups=2, diversity_penalty=0.5), {}),
    "contrastive": (ortgpt.ContrastiveSearch(), {}),
    "prompt lookup": (ortgpt.Greedy(), {"prompt_lookup": True}),
    "guidance": (ortgpt.Greedy(), {"guidance_scale": 1.5, "negative_prompt": "A wolf"}),
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_writes_the_same_as_with_a_cache_of_the_host(
    name: str, models: tuple[ortgpt.Model, ortgpt.Model]
) -> None:
    """Alone, and in batches in which prompts come when others have ended."""
    strategy, options = STRATEGIES[name]
    asked = {"max_new_tokens": 40, "seed": 3, **options}
    plain, moved = (model.generate_batch(PROMPTS * 2, strategy, max_rows=12, **asked) for model in models)
    assert [result.choices for result in moved] == [result.choices for result in plain]
    alone = [model.generate(PROMPTS[1], strategy, **asked).choices for model in models]
    assert alone[0] == alone[1]


def test_logits_and_hidden_states_are_the_same_bits(models: tuple[ortgpt.Model, ortgpt.Model]) -> None:
    found = []
    for model in models:
        decoder = model.decoder(3)
        outputs = [decoder.extend([[1, 2, 3], [4], list(range(150))], outputs="all", hidden=True)]
        kept = [outputs[0].logits.copy(), outputs[0].hidden.copy()]
        decoder.reorder([2, 0, 1, 0])
        for step in range(5):
            kept.append(decoder.extend([[step], [7], [9], [step + 1]]).logits.copy())
            decoder.reorder([1, 0, 3, 3])
        twin = decoder.fork()
        decoder.trim(decoder.lengths - 2)
        decoder.join(twin)
        kept.append(decoder.extend([[5, 6]] * 8, outputs="all").logits.copy())
        decoder.keep([[1]] * 8)
        kept.append(decoder.extend([[8]] * 8).logits.copy())
        found.append(kept)
    for values, wanted in zip(found[1], found[0], strict=True):
        np.testing.assert_array_equal(values, wanted)


@pytest.mark.parametrize("options", [{"hidden_states": True}, {"stacked": True, "position_ids": False}])
def test_a_portable_graphs_cache_lies_there_as_well(options: dict[str, Any], make_portable: Any) -> None:
    """Pairs of keys and values, and both in one tensor."""
    directory = make_portable("gpt2", **options)
    with load_portable(directory) as plain, load_portable(directory) as moved:
        put_on_stand_in(moved._session)
        for strategy in (ortgpt.Greedy(), ortgpt.BeamSearch(num_beams=3)):
            asked: dict[str, Any] = {"max_new_tokens": 12, "max_rows": 6}
            batches = [model.generate_batch(PROMPTS[:2], strategy, **asked) for model in (plain, moved)]
            assert [one.choices for one in batches[1]] == [one.choices for one in batches[0]]


def test_a_move_that_fails_is_an_error_of_the_family(monkeypatch: pytest.MonkeyPatch) -> None:
    """FAULTS 25"""
    engine = Engine(HOST)
    cells = device_memory.DeviceMemory(engine).allocate(CELLS, "float32")

    class Failing:
        def __getattr__(self, name: str) -> Any:
            return getattr(engine_session, name)

        def run_with_iobinding(self, binding: Any) -> None:
            raise RuntimeError("CUDA error cudaErrorMemoryAllocation: out of memory")

    engine_session = engine._mover
    monkeypatch.setattr(engine, "_mover", Failing())
    with pytest.raises(ProviderError, match="not enough memory to run the model"):
        cells.pick(0, 0, np.array([3]))


def test_a_run_that_ran_out_of_memory_leaves_the_model_usable(
    models: tuple[ortgpt.Model, ortgpt.Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 25"""
    _, moved = models
    expected = moved.generate(PROMPTS[0], max_new_tokens=8).text
    engine, runs = moved._session._session, 0

    class Small:
        def __getattr__(self, name: str) -> Any:
            return getattr(engine, name)

        def run_with_iobinding(self, binding: Any) -> None:
            nonlocal runs
            runs += 1
            if runs == 3:
                raise RuntimeError("CUDA failure 2: out of memory ; GPU=0")
            engine.run_with_iobinding(binding)

    with monkeypatch.context() as patch:
        patch.setattr(moved._session, "_session", Small())
        with pytest.raises(ProviderError, match="not enough memory to run the model") as caught:
            moved.generate(PROMPTS[0], max_new_tokens=8)
        assert "fewer rows" in str(caught.value.hint)
        assert moved.generate(PROMPTS[0], max_new_tokens=8).text == expected

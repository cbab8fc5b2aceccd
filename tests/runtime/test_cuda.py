"""fp16 bundles on a CUDA device: near the CPU's numbers, the same words, alive after it ran out of memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ortgpt
from ortgpt.errors import ProviderError
from ortgpt.inference.session import check_cuda
from ortgpt.interfaces import Decoder
from ortgpt.strategies import Strategy


def has_device() -> bool:
    try:
        check_cuda()
    except ProviderError:
        return False
    return True


pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not has_device(), reason="no CUDA device")]

PROMPTS = ["Once upon a time", "The king", "The fox and the crow went into the wood", '"I am going']
CLOSE = 0.1  # logits; both round to float16, in another order
STRATEGIES: dict[str, Strategy] = {
    "greedy": ortgpt.Greedy(),
    "sampling": ortgpt.Sampling(temperature=0.9, top_p=0.95),
    "beams": ortgpt.BeamSearch(num_beams=4, num_return_sequences=2),
    "diverse beams": ortgpt.BeamSearch(num_beams=4, num_beam_groups=2, diversity_penalty=0.5),
    "contrastive": ortgpt.ContrastiveSearch(),
}

Models = tuple[ortgpt.Model, ortgpt.Model]


@pytest.fixture(scope="module")
def bundle(storyteller_fp16: Path) -> Path:
    return storyteller_fp16


@pytest.fixture(scope="module")
def models(bundle: Path) -> Iterator[Models]:
    """(on CUDA, on the CPU)"""
    with (
        ortgpt.load(bundle, provider="cuda") as fast,
        ortgpt.load(bundle, provider="cpu", threads=2) as exact,
    ):
        yield fast, exact


def test_auto_takes_cuda_for_float16(bundle: Path) -> None:
    with ortgpt.load(bundle) as model:
        assert model.provider == "cuda"


def test_numbers_are_near_those_of_the_cpu_however_rows_are_moved(models: Models) -> None:
    """Prefills of one chunk and of several, on a past, decode steps, rows that change places and join."""
    draw = np.random.default_rng(0)
    rows = [draw.integers(0, 4096, count).tolist() for count in (300, 1, 130)]
    further = [draw.integers(0, 4096, count).tolist() for count in (5, 30, 1)]
    found = []
    for model in models:
        decoder: Decoder = model.decoder(3)
        first = decoder.extend(rows, outputs="all", hidden=True)
        assert first.hidden is not None
        kept = [first.logits.copy(), first.hidden.copy(), decoder.extend(further).logits.copy()]
        decoder.reorder([2, 0, 1, 0])
        kept.append(decoder.extend([[7], [8], [9], [10]]).logits.copy())
        twin = decoder.fork()
        decoder.trim(decoder.lengths - 1)
        decoder.join(twin)
        kept.append(decoder.extend([[11]] * 8).logits.copy())
        decoder.reorder([7, 6, 5, 4])
        kept.append(decoder.extend([[12]] * 4).logits.copy())
        decoder.release()
        found.append(kept)
    for values, wanted in zip(*found, strict=True):
        assert np.abs(values - wanted).max() < CLOSE


def test_greedy_texts_are_those_of_the_cpu(models: Models) -> None:
    texts = [[one.text for one in model.generate_batch(PROMPTS, max_new_tokens=60)] for model in models]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES.keys())
def test_every_strategy_writes_streamed_collected_and_in_batches(strategy: Strategy, models: Models) -> None:
    asked: dict[str, Any] = {"max_new_tokens": 30, "seed": 5}
    model = models[0]
    batch = model.generate_batch(PROMPTS * 2, strategy, max_rows=12, **asked)
    assert all(result.text for result in batch)
    stream = model.stream(PROMPTS[0], strategy, **asked)
    text = "".join(event.text for event in stream if event.index == 0)
    assert text == stream.result.text == model.generate(PROMPTS[0], strategy, **asked).text


def test_beams_score_as_on_the_cpu(models: Models) -> None:
    scores = [
        model.generate(prompt, STRATEGIES["beams"], max_new_tokens=20).choices[0].score
        for model in models
        for prompt in PROMPTS
    ]
    np.testing.assert_allclose(scores[: len(PROMPTS)], scores[len(PROMPTS) :], atol=0.02)


def test_a_cache_that_does_not_fit_is_refused_and_the_model_lives_on(models: Models) -> None:
    """FAULTS 25"""
    model = models[0]
    expected = model.generate(PROMPTS[0], max_new_tokens=8).text
    decoder = model.decoder(1_000_000)
    with pytest.raises(ProviderError, match="not enough memory on the CUDA device") as caught:
        decoder.extend([[1]] * 1_000_000)
    assert "fewer rows" in str(caught.value.hint)
    decoder.release()
    assert model.generate(PROMPTS[0], max_new_tokens=8).text == expected

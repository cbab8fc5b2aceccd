"""fp16 bundles on the CPU: the contract, a decoder without shared rows, every strategy on it."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import make_checkpoint

import ortgpt
from ortgpt.bundle.bundle import open_bundle
from ortgpt.bundle.step_bytes import count_step_bytes
from ortgpt.bundle.weights import map_initializers
from ortgpt.bundle.weights_check import find_bad_weights
from ortgpt.bundle.wire import read_model
from ortgpt.errors import BundleError, OptionError, ProviderError
from ortgpt.inference import cuda, session
from ortgpt.interfaces import Decoder
from ortgpt.numerics import softmax
from ortgpt.search.contrastive import contrastive_scores
from ortgpt.strategies import Strategy
from ortgpt_export.exporter import export_checkpoint
from ortgpt_export.quality import measure_quality, sample_texts

PROMPTS = ["Once upon a time", "The king", "The fox and the crow went into the wood", '"I am going']
CLOSE = 0.05  # logits; what float16 moves them by is less


@pytest.fixture(scope="module")
def bundle(storyteller_fp16: Path) -> Path:
    return storyteller_fp16


@pytest.fixture(scope="module")
def model(bundle: Path) -> Iterator[ortgpt.Model]:
    with ortgpt.load(bundle, threads=1) as model:
        yield model


@pytest.fixture(scope="module", params=["1.31", "1.32"])
def odd_models(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ortgpt.Model, ortgpt.Model]]:
    """(fp32, fp16) of a random model with 3 heads of 12."""
    folder = tmp_path_factory.mktemp("odd")
    checkpoint = make_checkpoint(folder / "checkpoint", n_head=3, n_embd=36, n_positions=320)
    for precision in ("fp32", "fp16"):
        export_checkpoint(
            str(checkpoint),
            folder / precision,
            precision=precision,
            verify="none",
            onnxruntime_floor=request.param,
        )
    with (
        ortgpt.load(folder / "fp32", threads=1) as exact,
        ortgpt.load(folder / "fp16", threads=1) as half,
    ):
        yield exact, half


def last_logits(decoder: Decoder, token_ids: Sequence[int]) -> np.ndarray:
    return decoder.extend([list(token_ids)]).logits[0, -1].copy()


# The contract


def test_the_bundle_is_half_as_large_and_a_step_reads_half_as_much(
    bundle: Path, storyteller_bundle: Path
) -> None:
    half, exact = (open_bundle(path) for path in (bundle, storyteller_bundle))
    assert half.weights_path.stat().st_size < 0.51 * exact.weights_path.stat().st_size
    read = [count_step_bytes(read_model(one.graph)) for one in (half, exact)]
    assert 0.5 * read[1] <= read[0] < 0.51 * read[1]


def test_a_graph_of_another_precision_than_the_manifest_says_is_refused(
    bundle: Path, storyteller_bundle: Path, tmp_path: Path
) -> None:
    """FAULTS 16"""
    messages = {}
    for source, precision in ((bundle, "fp32"), (storyteller_bundle, "fp16")):
        changed = tmp_path / precision
        shutil.copytree(source, changed)
        manifest = json.loads((changed / "manifest.json").read_text())
        (changed / "manifest.json").write_text(json.dumps(manifest | {"precision": precision}))
        with pytest.raises(BundleError) as caught:
            open_bundle(changed)
        messages[precision] = str(caught.value)
    cache = "input past_key_values.0.key must be {} [rows, 4, capacity, 64], found {} [rows, 4, capacity, 64]"
    assert "input attention_bias is missing" in messages["fp32"]
    assert cache.format("float32", "float16") in messages["fp32"]
    assert "input 'attention_bias' is not expected" in messages["fp16"]
    assert cache.format("float16", "float32") in messages["fp16"]


def test_sound_weights_have_no_faults_and_a_final_norm_of_zeros_is_found(
    bundle: Path, tmp_path: Path
) -> None:
    """FAULTS 17"""
    assert find_bad_weights(open_bundle(bundle)) == []
    changed = tmp_path / "changed"
    shutil.copytree(bundle, changed)
    arrays = map_initializers(open_bundle(changed))
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float16), np.dtype(np.int64)}
    weights = (changed / "decoder.onnx.data").read_bytes()
    scale = arrays["ln_f.weight"].tobytes()
    assert weights.count(scale) == 1
    (changed / "decoder.onnx.data").write_bytes(weights.replace(scale, bytes(len(scale))))
    faults = find_bad_weights(open_bundle(changed, verify=False))
    assert faults == ["ln_f.weight: all zero, so every prediction is the same"]


@pytest.mark.parametrize("provider", ["auto", "cpu"])
def test_loading_on_the_cpu_warns_once_that_others_are_faster_there(
    provider: Any, bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.WARNING, logger="ortgpt"),
        ortgpt.load(bundle, provider=provider, threads=1) as model,
    ):
        assert model.provider == "cpu"
    assert [record.getMessage() for record in caplog.records] == [
        "running on the CPU, which has to convert fp16: int8 and fp32 bundles are faster there"
    ]


def test_auto_takes_the_cpu_where_cuda_does_not_load_and_says_why_in_its_one_warning(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """FAULTS 24"""
    monkeypatch.setattr(session, "available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(cuda, "find_load_problem", lambda _: "libcublas.so: no such file")
    with (
        caplog.at_level(logging.WARNING, logger="ortgpt"),
        ortgpt.load(bundle, threads=1) as model,
    ):
        assert model.provider == "cpu"
        assert model.generate("The king", max_new_tokens=3).text
    assert [record.getMessage() for record in caplog.records] == [
        "running on the CPU, which has to convert fp16: int8 and fp32 bundles are faster there "
        "(CUDA can't be loaded: libcublas.so: no such file)"
    ]


@pytest.mark.parametrize(
    ("problem", "remedy"),
    [
        ("libcublasLt.so.13: cannot open shared object file", 'pip install "onnxruntime-gpu[cuda,cudnn]"'),
        ("libcuda.so.1: cannot open shared object file", "the driver of the NVIDIA device is not there"),
    ],
)
def test_cuda_is_refused_for_a_true_reason(
    problem: str, remedy: str, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 24"""
    with pytest.raises(ProviderError, match=r"provider cuda is not available; this onnxruntime has"):
        ortgpt.load(bundle, provider="cuda")
    monkeypatch.setattr(session, "available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(cuda, "find_load_problem", lambda _: problem)
    with pytest.raises(ProviderError, match=f"CUDA can't be loaded: {problem}") as caught:
        ortgpt.load(bundle, provider="cuda")
    assert remedy in str(caught.value.hint)


def test_loading_asks_for_the_memory_that_converted_weights_take(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 72"""
    size = sum(entry.size for entry in open_bundle(bundle).manifest.files.values())
    monkeypatch.setattr("ortgpt.inference.memory.available_bytes", lambda: 50_000_000 + 3 * size)
    with pytest.raises(ProviderError, match=r"loading 12 MB of weights needs 111 MB, 87 MB are available"):
        ortgpt.load(bundle, threads=1)


# The decoder


def test_rows_are_not_shared_and_the_bundle_says_so(model: ortgpt.Model) -> None:
    decoder = model.decoder()
    assert decoder.capabilities.hidden_states
    assert not decoder.capabilities.shared_rows
    assert not decoder.capabilities.ragged_widths
    assert not decoder.capabilities.row_invariant
    decoder.extend([[1, 2]])
    with pytest.raises(OptionError, match="siblings can't share a row of this fp16 bundle"):
        decoder.extend([[3, 4]], siblings=True)
    assert decoder.lengths.tolist() == [2]


def test_outputs_are_float32_and_the_cache_takes_two_bytes_a_number(
    model: ortgpt.Model, storyteller_model: ortgpt.Model
) -> None:
    sizes = []
    for one in (model, storyteller_model):
        decoder = one.decoder(2)
        outputs = decoder.extend([[1, 2, 3], [4]], outputs="all", hidden=True)
        assert outputs.hidden is not None
        assert (outputs.logits.dtype, outputs.hidden.dtype) == (np.float32, np.float32)
        assert (outputs.logits.shape, outputs.hidden.shape) == ((2, 3, 4096), (2, 3, 256))
        sizes.append(decoder.nbytes)
        capacity = decoder.capacity
    assert 2 * sizes[0] == sizes[1]
    assert sizes[0] == 2 * capacity * model.manifest.architecture.cache_bytes_per_token(2)


def test_a_cache_asks_for_its_own_size(model: ortgpt.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAULTS 72"""
    decoder = model.decoder(8)
    decoder.extend([[1]] * 8)
    needed = 8 * decoder.capacity * model.manifest.architecture.cache_bytes_per_token(2)
    monkeypatch.setattr("ortgpt.inference.memory.available_bytes", lambda: needed)
    model.decoder(8).extend([[1]] * 8)
    monkeypatch.setattr("ortgpt.inference.memory.available_bytes", lambda: needed - 1)
    message = f"the cache of 8 rows of {decoder.capacity} tokens needs {needed / 1e6:.0f} MB"
    with pytest.raises(ProviderError, match=message):
        model.decoder(8).extend([[1]] * 8)


def test_numbers_are_close_to_those_of_fp32_however_they_are_cut(
    odd_models: tuple[ortgpt.Model, ortgpt.Model],
) -> None:
    """Heads of 12 in a cache of 16; prefills beside others and alone, on a past, decode steps."""
    exact, half = odd_models
    assert half.manifest.architecture.cache_head_size == 16
    draw = np.random.default_rng(0)
    rows = [draw.integers(0, 256, count).tolist() for count in (200, 1, 130)]
    further = [draw.integers(0, 256, count).tolist() for count in (5, 30, 1)]
    found = []
    for one in (exact, half):
        decoder = one.decoder(3)
        prefill = decoder.extend(rows, outputs="all", hidden=True)
        assert prefill.hidden is not None
        kept = [prefill.logits.copy(), prefill.hidden.copy()]
        found.append([*kept, *(decoder.extend(new).logits.copy() for new in (further, [[7], [8], [9]]))])
    for values, wanted in zip(found[1], found[0], strict=True):
        assert np.abs(values - wanted).max() < CLOSE
    alone = half.decoder()
    alone.extend([rows[0]])
    alone.extend([further[0]])
    assert np.abs(last_logits(alone, [7]) - found[1][-1][0, -1]).max() < CLOSE


def test_the_verbs_keep_what_rows_hold(model: ortgpt.Model) -> None:
    first, second = (model.tokenizer.encode(prompt) for prompt in PROMPTS[:2])
    expected = {}
    for name, ids in (("first", first), ("second", second)):
        expected[name] = last_logits(_decoder(model, ids), [9])
    decoder = model.decoder(2)
    decoder.extend([first, second])
    decoder.reorder([1, 0, 1])
    twin = decoder.fork()
    decoder.extend([[5], [6], [7]])
    decoder.trim(decoder.lengths - 1)
    other = _decoder(model, first)
    decoder.join(other)
    logits = decoder.extend([[9]] * 4).logits[:, -1]
    for row, name in enumerate(("second", "first", "second", "first")):
        assert np.abs(logits[row] - expected[name]).max() < CLOSE
    assert np.abs(twin.extend([[9]] * 3).logits[1, -1] - expected["first"]).max() < CLOSE
    decoder.keep([[], [0], [0], [0]])
    assert decoder.lengths.tolist() == [len(second), len(first) + 1, len(second) + 1, len(first) + 1]


def _decoder(model: ortgpt.Model, token_ids: Sequence[int]) -> Decoder:
    decoder = model.decoder()
    decoder.extend([list(token_ids)])
    return decoder


# The engine

STRATEGIES: dict[str, Strategy] = {
    "greedy": ortgpt.Greedy(),
    "sampling": ortgpt.Sampling(temperature=0.9, top_p=0.95),
    "beams": ortgpt.BeamSearch(num_beams=4, num_return_sequences=2),
    "diverse beams": ortgpt.BeamSearch(num_beams=4, num_beam_groups=2, diversity_penalty=0.5),
    "sampled beams": ortgpt.BeamSearch(num_beams=3, sample=True, top_k=50),
    "contrastive": ortgpt.ContrastiveSearch(),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "stops": {"stop": [" said", '."'], "min_new_tokens": 3},
    "keywords": {"constraints": ortgpt.Keywords(words=["golden", "bird"])},
    "guidance": {"guidance_scale": 1.5, "negative_prompt": "A wolf ran into the dark wood, and"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES.keys())
def test_every_strategy_writes_the_same_streamed_collected_and_in_a_batch(
    strategy: Strategy, options: dict[str, Any], model: ortgpt.Model
) -> None:
    asked = {"max_new_tokens": 20, **options}
    batch = model.generate_batch(PROMPTS[:3], strategy, seed=5, max_rows=12, **asked)
    for index, (prompt, result) in enumerate(zip(PROMPTS[:3], batch, strict=True)):
        stream = model.stream(prompt, strategy, seed=5 + index, **asked)
        text = "".join(event.text for event in stream if event.index == 0)
        assert text == stream.result.text != ""
        alone = model.generate(prompt, strategy, seed=5 + index, **asked)
        assert alone.choices == stream.result.choices
        assert [c.token_ids for c in alone.choices] == [c.token_ids for c in result.choices]
        if "constraints" in options:
            assert all(word in result.text.lower() for word in ("golden", "bird"))


def gaps(model: ortgpt.Model, prompt: Sequence[int], generated: Sequence[int]) -> list[float]:
    """By how much each token was the best of contrastive search's candidates, by full passes of the model."""
    strategy, found = ortgpt.ContrastiveSearch(), []
    for end in range(len(generated)):
        text = [*prompt, *generated[:end]]
        probabilities = softmax(last_logits(model.decoder(), text))
        candidates = np.argsort(-probabilities)[: strategy.top_k]
        decoder = model.decoder(len(candidates))
        hidden = decoder.extend([[*text, int(token)] for token in candidates], hidden=True).hidden
        assert hidden is not None
        units = hidden / np.linalg.norm(hidden, axis=-1, keepdims=True)
        similarities = (units[0, :-1] @ units[:, -1].T).max(axis=0)
        scores = contrastive_scores(probabilities[candidates], similarities, strategy.penalty_alpha)
        best = np.sort(scores)
        assert candidates[scores.argmax()] == generated[end]
        found.append(float(best[-1] - best[-2]))
    return found


def test_contrastive_search_on_copied_rows_chooses_what_fp32_does_on_shared_ones(
    model: ortgpt.Model, storyteller_model: ortgpt.Model
) -> None:
    """As far as fp32's own choices were clear ones."""
    compared = 0
    for prompt in PROMPTS:
        asked: dict[str, Any] = {"max_new_tokens": 25, "stop_token_ids": []}
        exact = storyteller_model.generate(prompt, ortgpt.ContrastiveSearch(), **asked)
        half = model.generate(prompt, ortgpt.ContrastiveSearch(), **asked)
        clear = [gap > 2e-3 for gap in gaps(storyteller_model, exact.prompt_token_ids, exact.token_ids)]
        count = [*clear, False].index(False)
        assert half.token_ids[:count] == exact.token_ids[:count]
        compared += count
    assert compared > 50, "choices this close could not show a difference"


@pytest.mark.parametrize("kind", ["prompt_lookup", "fp32 draft", "fp16 draft of fp32"])
def test_guessed_tokens_change_nothing(
    kind: str, model: ortgpt.Model, storyteller_model: ortgpt.Model
) -> None:
    checker, draft = (storyteller_model, model) if kind.endswith("fp32") else (model, storyteller_model)
    fields: dict[str, Any] = {"prompt_lookup": True} if kind == "prompt_lookup" else {"draft": draft}
    plain = checker.generate_batch(PROMPTS, max_new_tokens=40)
    drafted = checker.generate_batch(PROMPTS, max_new_tokens=40, **fields)
    assert [one.token_ids for one in drafted] == [one.token_ids for one in plain]


def test_the_texts_are_those_of_fp32(model: ortgpt.Model, storyteller_model: ortgpt.Model) -> None:
    """A score, a transcript, a greedy text: float16 is near enough for the same numbers and words."""
    score, exact = (
        one.score("The king was glad, and gave him a horse.") for one in (model, storyteller_model)
    )
    assert score.token_ids == exact.token_ids
    assert abs(score.total - exact.total) < 0.02
    transcripts = [one.transcript("The king") for one in (model, storyteller_model)]
    for text in (" went into the wood, and", " said to his son,"):
        for transcript in transcripts:
            transcript.append(text)
        results = [transcript.generate(max_new_tokens=8) for transcript in transcripts]
        assert results[0].text == results[1].text


def test_next_to_nothing_is_lost(model: ortgpt.Model, storyteller_model: ortgpt.Model) -> None:
    texts = sample_texts(storyteller_model, num_texts=2, length=96)
    quality = measure_quality(model, storyteller_model, texts)
    assert quality.kl_divergence < 1e-5
    assert quality.top1_agreement > 0.98

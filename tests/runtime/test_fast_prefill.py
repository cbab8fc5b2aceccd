"""Two graphs that take turns on one cache: which one runs what, and that the text is none the worse."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ortgpt
from ortgpt.errors import OrtgptError, ProviderError
from ortgpt.inference import memory, session
from ortgpt.inference.fused_decoder import WIDE_TOKENS, FusedDecoder
from ortgpt.interfaces import Ids

MakeBundle = Callable[..., Path]

SHAPE = {"n_layer": 2, "n_head": 4, "n_embd": 64, "n_positions": 160}
PROMPT = [7 * place % 251 for place in range(40)]


@pytest.fixture(scope="module")
def bundle(make_bundle: MakeBundle) -> Path:
    return make_bundle(precision="int8", fast_prefill=True, **SHAPE)


@pytest.fixture(scope="module")
def models(bundle: Path, make_bundle: MakeBundle) -> Iterator[dict[str, ortgpt.Model]]:
    """ "fast", and the three whose numbers it should have: "int8", "int8-dynamic", "fp32"."""
    loaded = {"fast": ortgpt.load(bundle, threads=1)}
    for precision in ("int8", "int8-dynamic", "fp32"):
        loaded[precision] = ortgpt.load(make_bundle(precision=precision, **SHAPE), threads=1)
    yield loaded
    for model in loaded.values():
        model.close()


def ids(*shape: int) -> Ids:
    result: Ids = np.random.default_rng(shape).integers(0, 256, shape)
    return result


def logits(decoder: Any, token_ids: Any) -> np.ndarray:
    return np.array(decoder.extend(token_ids, outputs="all").logits)


@pytest.mark.parametrize(
    ("rows", "width"), [(1, WIDE_TOKENS - 1), (WIDE_TOKENS - 1, 1), (2, WIDE_TOKENS // 2 - 1), (1, 1)]
)
def test_a_narrow_call_has_the_bits_of_the_plain_bundle(models: Any, rows: int, width: int) -> None:
    found, expected = (logits(models[name].decoder(rows), ids(rows, width)) for name in ("fast", "int8"))
    np.testing.assert_array_equal(found, expected)
    other = logits(models["int8-dynamic"].decoder(rows), ids(rows, width))
    assert not np.array_equal(found, other)


@pytest.mark.parametrize(
    ("rows", "width"), [(1, WIDE_TOKENS), (WIDE_TOKENS, 1), (2, WIDE_TOKENS // 2), (1, 130), (3, 50)]
)
def test_a_wide_call_has_the_numbers_of_int8_dynamic(models: Any, rows: int, width: int) -> None:
    found, expected = (
        logits(models[name].decoder(rows), ids(rows, width)) for name in ("fast", "int8-dynamic")
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    other = logits(models["int8"].decoder(rows), ids(rows, width))
    assert np.abs(other - expected).max() > 1e-3


@pytest.mark.parametrize("times", [1, 3])
def test_steps_after_a_wide_prefill_continue_its_cache(models: Any, times: int) -> None:
    decoder = models["fast"].decoder()
    decoder.extend([PROMPT])
    decoder.repeat(times)
    wide = models["int8-dynamic"].decoder()
    wide.extend([PROMPT])
    wide.repeat(times)
    narrow = models["int8"].decoder()
    narrow._cache = wide._cache.copy()  # what the one has written, the other goes on with
    for step in range(4):
        new = ids(times, 1) + step
        np.testing.assert_array_equal(logits(decoder, new), logits(narrow, new))


def test_calls_of_one_extend_go_each_to_its_graph(bundle: Path, models: Any) -> None:
    """The last chunk of a prompt may be narrow."""
    with ortgpt.load(bundle, threads=1, prefill_chunk=30) as model:
        runs = count_runs(model)
        model.decoder().extend([PROMPT[:34]])
        assert runs == ["wide", "narrow"]


def count_runs(model: ortgpt.Model) -> list[str]:
    """The graphs that run from now on, in order."""
    runs: list[str] = []

    def watch(session: Any, name: str) -> None:
        really_run = session.run
        session.run = lambda binding: runs.append(name) or really_run(binding)

    watch(model._session, "narrow")
    watch(model._wide, "wide")
    return runs


STRATEGIES = {
    "greedy": (ortgpt.Greedy(), {}),
    "several sequences": (ortgpt.Sampling(top_k=20), {"n": 9, "seed": 3}),
    "beam": (ortgpt.BeamSearch(num_beams=3), {}),
    "wide beam": (ortgpt.BeamSearch(num_beams=9), {}),
    "contrastive": (ortgpt.ContrastiveSearch(top_k=4, penalty_alpha=0.5), {}),
    "prompt lookup": (ortgpt.Greedy(), {"prompt_lookup": True, "num_draft_tokens": 10}),
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_writes_what_fp32_finds_as_likely(bundle: Path, models: Any, name: str) -> None:
    strategy, options = STRATEGIES[name]
    with ortgpt.load(bundle, threads=1) as model:
        runs = count_runs(model)
        result = model.generate(PROMPT, strategy, max_new_tokens=30, stop_token_ids=[], logprobs=0, **options)
    assert runs[0] == "wide"
    assert set(runs[1:]) <= {"wide", "narrow"}
    for choice in result.choices:
        assert len(choice.token_ids) == 30
        check_against_fp32(models["fp32"], PROMPT, choice)


def check_against_fp32(reference: ortgpt.Model, prompt: list[int], choice: Any) -> None:
    score = reference.score(list(choice.token_ids), prompt=prompt)
    found = [token.logprob for token in choice.logprobs]
    expected = score.logprobs[-len(found) :]
    differences = np.abs(np.subtract(found, expected))
    assert np.median(differences) < 0.1
    assert differences.max() < 0.5


def test_a_batch_takes_turns_as_its_rows_come_and_go(bundle: Path, models: Any) -> None:
    prompts = [PROMPT[: 3 + 2 * index] for index in range(14)]
    with ortgpt.load(bundle, threads=1) as model:
        runs = count_runs(model)
        results = model.generate_batch(prompts, max_new_tokens=12, stop_token_ids=[], logprobs=0, max_rows=9)
    assert set(runs) == {"wide", "narrow"}
    for prompt, result in zip(prompts, results, strict=True):
        check_against_fp32(models["fp32"], prompt, result.choices[0])


def test_forks_and_joined_decoders_keep_both_graphs(models: Any) -> None:
    model = models["fast"]
    first, second = model.decoder(), model.decoder()
    for decoder in (first, second):
        decoder.extend([PROMPT])
    twin = first.fork()
    runs = count_runs(model)
    try:
        twin.extend([PROMPT[:20]])
        first.join(second)
        first.extend([PROMPT[:4]] * 2)
        first.extend([[1]] * 2)
    finally:
        for one in (model._session, model._wide):
            del one.run
    assert runs == ["wide", "wide", "narrow"]


# --- loading


def count_sessions(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    built: list[bytes] = []
    real = session.onnxruntime.InferenceSession

    def build(graph: bytes, *arguments: Any, **options: Any) -> Any:
        built.append(graph)
        return real(graph, *arguments, **options)

    monkeypatch.setattr(session.onnxruntime, "InferenceSession", build)
    return built


def test_without_it_one_session_runs_everything(
    bundle: Path, models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = count_sessions(monkeypatch)
    with ortgpt.load(bundle, threads=1, fast_prefill=False) as model:
        assert not model.fast_prefill
        assert built == [(bundle / "decoder.onnx").read_bytes()]
        found, expected = (logits(one.decoder(), [PROMPT]) for one in (model, models["int8"]))
        np.testing.assert_array_equal(found, expected)
    with ortgpt.load(bundle, threads=1) as model:
        assert model.fast_prefill
        assert len(built) == 3


@pytest.mark.parametrize("fast_prefill", [True, False])
def test_a_bundle_without_a_second_copy_has_nothing_to_leave_out(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch, fast_prefill: bool
) -> None:
    bundle = make_bundle(precision="int8", **SHAPE)  # its export builds sessions too
    built = count_sessions(monkeypatch)
    with ortgpt.load(bundle, fast_prefill=fast_prefill) as model:
        assert not model.fast_prefill
    assert len(built) == 1


def test_memory_is_asked_for_both_copies_before_anything_is_loaded(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 72"""
    sizes = {name: entry["size"] for name, entry in read_manifest(bundle)["files"].items()}
    needed = int(1.4 * sum(sizes.values())) + 50_000_000
    built = count_sessions(monkeypatch)
    monkeypatch.setattr(memory, "available_bytes", lambda: needed - 1)
    with pytest.raises(ProviderError, match=r"loading \d+ MB of weights needs") as caught:
        ortgpt.load(bundle)
    assert "leave out the second copy: fast_prefill=False" in str(caught.value.hint)
    assert built == []
    monkeypatch.setattr(memory, "available_bytes", lambda: needed)
    ortgpt.load(bundle).close()
    second = sizes["prefill.onnx"] + sizes["prefill.onnx.data"]
    one = int(1.4 * (sum(sizes.values()) - second)) + 50_000_000
    monkeypatch.setattr(memory, "available_bytes", lambda: one)
    ortgpt.load(bundle, fast_prefill=False).close()
    monkeypatch.setattr(memory, "available_bytes", lambda: one - 1)
    with pytest.raises(ProviderError) as caught:
        ortgpt.load(bundle, fast_prefill=False)
    assert str(caught.value.hint).endswith("use a smaller model")


def read_manifest(bundle: Path) -> dict[str, Any]:
    return dict(json.loads((bundle / "manifest.json").read_text()))


def test_the_second_session_leaves_the_processors_to_the_first_at_once(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its threads would else spin on through the first steps after a prompt."""
    stops: list[bool] = []
    real = session.onnxruntime.InferenceSession

    def build(graph: bytes, options: Any, **others: Any) -> Any:
        try:
            stops.append(options.get_session_config_entry("session.force_spinning_stop") == "1")
        except RuntimeError:  # not set
            stops.append(False)
        return real(graph, options, **others)

    monkeypatch.setattr(session.onnxruntime, "InferenceSession", build)
    ortgpt.load(bundle).close()
    assert stops == [False, True]


def test_closing_closes_both(bundle: Path) -> None:
    """FAULTS 69"""
    model = ortgpt.load(bundle, threads=1)
    decoders = model.decoder(), model.decoder()
    for decoder in decoders:
        decoder.extend([[1]])
    model.close()
    for decoder, new in zip(decoders, ([1], PROMPT), strict=True):
        with pytest.raises(OrtgptError, match="the model is closed"):
            decoder.extend([new])


def test_both_sessions_are_told_of_to_the_observer_and_have_its_threads(bundle: Path) -> None:
    seconds: list[float] = []
    with ortgpt.load(bundle, threads=2, verify=False, on_run=seconds.append) as model:
        decoder = model.decoder()
        decoder.extend([PROMPT])
        decoder.extend([[1]])
        assert len(seconds) == 2
        assert model._wide is not None
        assert (model._wide.threads, model._wide.provider) == (2, "cpu")


def test_a_bundle_of_links_as_in_the_hubs_cache_loads_and_computes_the_same(
    bundle: Path, models: Any, tmp_path: Path
) -> None:
    """FAULTS 5"""
    blobs, snapshot = tmp_path / "models--org--name" / "blobs", tmp_path / "models--org--name/snapshots/abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in bundle.iterdir():
        shutil.copy(path, blobs / f"blob-{path.name}")
        (snapshot / path.name).symlink_to(f"../../blobs/blob-{path.name}")
    with ortgpt.load(snapshot, threads=1) as model:
        for new in (PROMPT, PROMPT[:3]):
            found, expected = (logits(one.decoder(), [new]) for one in (model, models["fast"]))
            np.testing.assert_array_equal(found, expected)


def test_the_probe_finds_weights_of_another_model_in_either_graph(
    make_bundle: MakeBundle, tmp_path: Path
) -> None:
    """FAULTS 19: the manifest agrees with the files."""
    bundle, other = (
        make_bundle(precision="int8", fast_prefill=True, seed=seed, scale=0.5, **SHAPE) for seed in (0, 1)
    )
    for name in ("decoder.onnx.data", "prefill.onnx.data"):
        copy = Path(shutil.copytree(bundle, tmp_path / name))
        shutil.copy(other / name, copy / name)
        manifest = read_manifest(copy)
        manifest["files"][name] = read_manifest(other)["files"][name]
        (copy / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(ortgpt.BundleIntegrityError, match="probe"):
            ortgpt.load(copy)


def test_decoders_of_one_session_are_as_before(models: Any) -> None:
    model = models["int8"]
    decoder = FusedDecoder(model._session, model.manifest)
    np.testing.assert_array_equal(logits(decoder, [PROMPT]), logits(model.decoder(), [PROMPT]))

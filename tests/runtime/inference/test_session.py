"""The onnxruntime session: what it refuses before it loads anything, and that threads may share it."""

from __future__ import annotations

import dataclasses
import logging
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ortgpt
from ortgpt.bundle.bundle import Bundle, open_bundle
from ortgpt.errors import BundleError, OptionError, OrtgptError, ProviderError
from ortgpt.inference import cuda, memory, session, wheels
from ortgpt.inference.fused_decoder import FusedDecoder
from ortgpt.inference.session import Session
from ortgpt.inference.threads import default_threads
from ortgpt.inference.wheels import upgrade_command
from ortgpt.manifest import Manifest


@pytest.fixture(scope="module")
def bundle(make_bundle: Any) -> Bundle:
    return open_bundle(make_bundle())


def build(bundle: Bundle, **options: Any) -> Session:
    return Session(bundle.graph, bundle.directory, bundle.manifest, **{"threads": 1, **options})


def last_logits(loaded: Session, manifest: Manifest) -> np.ndarray:
    decoder = FusedDecoder(loaded, manifest)
    logits = decoder.extend([[1, 2, 3]]).logits.copy()
    decoder.release()
    return logits


def with_floor(manifest: Manifest, floor: str) -> Manifest:
    return dataclasses.replace(
        manifest, provenance=dataclasses.replace(manifest.provenance, onnxruntime_floor=floor)
    )


def test_a_session_says_what_runs_it(bundle) -> None:
    for provider in ("auto", "cpu"):
        loaded = build(bundle, provider=provider, threads=2)
        assert (loaded.provider, loaded.threads, loaded.is_closed) == ("cpu", 2, False)
    assert build(bundle, threads=None).threads == default_threads()


def test_a_provider_that_does_not_exist_is_an_option_error(bundle) -> None:
    """FAULTS 24"""
    with pytest.raises(OptionError, match="provider must be one of auto, cpu, cuda, got 'cdua'") as caught:
        build(bundle, provider="cdua")
    assert caught.value.option == "provider"


def test_cuda_on_an_engine_without_it_names_what_there_is(bundle, monkeypatch) -> None:
    """FAULTS 24"""
    monkeypatch.setattr(session, "available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ProviderError, match=r"cuda is not available.* has: CPUExecutionProvider") as caught:
        build(bundle, provider="cuda")
    assert "pip " in str(caught.value.hint)


CUDA = ["CUDAExecutionProvider", "CPUExecutionProvider"]


def test_fp32_on_an_engine_with_cuda_is_refused_and_auto_warns(bundle, monkeypatch, caplog) -> None:
    """FAULTS 24"""
    monkeypatch.setattr(session, "available_providers", lambda: CUDA)
    with pytest.raises(ProviderError, match="a fp32 bundle can't run on CUDA") as caught:
        build(bundle, provider="cuda")
    assert "--precision fp16" in str(caught.value.hint)
    with caplog.at_level(logging.WARNING, logger="ortgpt"):
        assert build(bundle, provider="auto").provider == "cpu"
    assert [record.getMessage() for record in caplog.records] == [
        "running on the CPU: fp32 bundles can't run on CUDA"
    ]


def with_precision(manifest: Manifest, precision: Any) -> Manifest:
    return dataclasses.replace(manifest, precision=precision)


class FakeEngine:
    """onnxruntime's sessions: what it was asked for, and what it says has been loaded."""

    asked: tuple[Any, ...] = ()
    loaded: list[str] = CUDA

    def __init__(self, graph: bytes, options: Any, **settings: Any) -> None:
        type(self).asked = (*settings["providers"], settings["enable_fallback"])

    def get_providers(self) -> list[str]:
        return self.loaded


@pytest.fixture
def cuda_engine(monkeypatch: pytest.MonkeyPatch) -> type[FakeEngine]:
    """An onnxruntime for CUDA whose sessions are fakes."""
    engine = type("Fake", (FakeEngine,), {})
    monkeypatch.setattr(session, "available_providers", lambda: CUDA)
    monkeypatch.setattr(cuda, "find_load_problem", lambda _: None)
    monkeypatch.setattr(session.onnxruntime, "InferenceSession", engine)
    return engine


def test_a_session_on_cuda_has_the_cpu_behind_it_exact_products_and_its_caches_there(
    bundle, cuda_engine
) -> None:
    manifest = with_precision(bundle.manifest, "fp16")
    loaded = Session(bundle.graph, bundle.directory, manifest, provider="cuda", threads=1)
    assert loaded.provider == "cuda"
    assert loaded.memory.copies_inputs
    (name, settings), behind, falls_back = cuda_engine.asked
    assert (name, behind, falls_back) == ("CUDAExecutionProvider", "CPUExecutionProvider", 0)
    assert (settings["device_id"], settings["use_tf32"]) == ("0", "0")


def test_weights_larger_than_what_is_free_on_the_device_are_refused_before_they_are_loaded(
    bundle, cuda_engine, monkeypatch, caplog
) -> None:
    """FAULTS 25"""
    manifest = with_precision(bundle.manifest, "fp16")
    size = sum(entry.size for entry in manifest.files.values())
    for free, fits in ((size, True), (None, True), (size - 1, False)):
        monkeypatch.setattr(cuda, "free_memory", lambda free=free: free)
        if fits:
            assert Session(bundle.graph, bundle.directory, manifest, provider="cuda").provider == "cuda"
            continue
        cuda_engine.asked = None
        with pytest.raises(ProviderError, match=r"loading needs \d+ MB on the CUDA device, \d+ MB are free"):
            Session(bundle.graph, bundle.directory, manifest, provider="cuda")
        assert cuda_engine.asked is None
        cuda_engine.loaded = CUDA[1:]
        with caplog.at_level(logging.WARNING, logger="ortgpt"):
            assert Session(bundle.graph, bundle.directory, manifest, provider="auto").provider == "cpu"
        assert "are free there" in caplog.text


@pytest.mark.parametrize(("status", "expected"), [(0, 123), (35, None)])
def test_what_is_free_is_asked_of_cudas_own_runtime(status, expected, monkeypatch, tmp_path) -> None:
    class Library:
        def __init__(self, path: str) -> None:
            assert path == str(tmp_path / cuda.LIBRARIES[1])

        @staticmethod
        def cudaMemGetInfo(free: Any, total: Any) -> int:  # noqa: N802
            free._obj.value, total._obj.value = 123, 456
            return status

    monkeypatch.setattr(cuda.ctypes, "CDLL", Library)
    assert cuda.free_memory(tmp_path) == expected


def test_where_there_is_no_library_nothing_is_told(tmp_path) -> None:
    assert cuda.free_memory(tmp_path) is None


def test_an_engine_that_goes_on_without_cuda_is_an_error_and_auto_takes_it(
    bundle, cuda_engine, caplog
) -> None:
    """FAULTS 24"""
    cuda_engine.loaded = CUDA[1:]
    manifest = with_precision(bundle.manifest, "fp16")
    message = "onnxruntime loaded CPUExecutionProvider, not CUDAExecutionProvider"
    with pytest.raises(ProviderError, match=message) as caught:
        Session(bundle.graph, bundle.directory, manifest, provider="cuda", threads=1)
    assert "ortgpt doctor" in str(caught.value.hint)
    with caplog.at_level(logging.WARNING, logger="ortgpt"):
        loaded = Session(bundle.graph, bundle.directory, manifest, provider="auto", threads=1)
    assert (loaded.provider, loaded.memory.copies_inputs) == ("cpu", False)
    (record,) = caplog.records
    assert message in record.getMessage()


def test_auto_takes_the_cpu_where_cuda_has_no_way_to_run_the_graph(
    bundle, cuda_engine, monkeypatch, caplog
) -> None:
    def build(graph: bytes, options: Any, providers: Any, **settings: Any) -> Any:
        if len(providers) > 1:
            raise RuntimeError("NOT_IMPLEMENTED: could not find an implementation for Add(7)")
        cuda_engine.loaded = CUDA[1:]
        return cuda_engine(graph, options, providers=providers, **settings)

    monkeypatch.setattr(session.onnxruntime, "InferenceSession", build)
    manifest = with_precision(bundle.manifest, "fp16")
    with caplog.at_level(logging.WARNING, logger="ortgpt"):
        loaded = Session(bundle.graph, bundle.directory, manifest, provider="auto", threads=1)
    assert (loaded.provider, loaded.memory.copies_inputs) == ("cpu", False)
    assert "could not find an implementation" in caplog.text
    with pytest.raises(BundleError, match="could not find an implementation"):
        Session(bundle.graph, bundle.directory, manifest, provider="cuda", threads=1)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (
            "cuda_call.cc:129 CUDA failure 100: no CUDA-capable device is detected ; GPU=-1 ; "
            "hostname=here ; file=x.cc ; line=280 ; expr=cudaSetDevice(0);",
            "CUDA can't be used: no CUDA-capable device is detected",
        ),
        (
            "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version ; GPU=0 ; file=x",
            "CUDA can't be used: CUDA driver version is insufficient for CUDA runtime version",
        ),
        (
            "info.cc:63 static CUDAExecutionProviderInfo FromProviderOptions() FAIL : "
            'options_utils.h:187 Parse Failed to parse provider option "device_id": CUDA failure 35: '
            "CUDA driver version is insufficient for CUDA runtime version ; GPU=-1 ; line=70 ; ",
            "CUDA can't be used: CUDA driver version is insufficient for CUDA runtime version",
        ),
        (
            'FAIL : Parse Failed to parse provider option "device_id": '
            "Invalid device ID: 7, must be between 0 and 1 (exclusive).\n in CUDAExecutionProvider",
            "CUDA can't be used: Invalid device ID: 7, must be between 0 and 1 (exclusive).",
        ),
        ("CUDA failure 101: invalid device ordinal ; GPU=7", "CUDA can't be used: invalid device ordinal"),
        (
            "CUDNN failure 4: CUDNN_STATUS_INTERNAL_ERROR ; GPU=0",
            "CUDA can't be used: CUDNN_STATUS_INTERNAL_ERROR",
        ),
        (
            "bfc_arena.cc:376 Failed to allocate memory for requested buffer of size 7",
            "not enough memory on the CUDA device to load the model",
        ),
        (
            "CUDA failure 2: out of memory ; GPU=0 ; expr=cudaMalloc((void**)&p, size);",
            "not enough memory on the CUDA device to load the model",
        ),
    ],
)
def test_what_the_device_refuses_at_load_is_a_provider_error_with_its_reason(
    message, shown, bundle, cuda_engine, monkeypatch
) -> None:
    """FAULTS 24, 25"""

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr(session.onnxruntime, "InferenceSession", refuse)
    manifest = with_precision(bundle.manifest, "fp16")
    with pytest.raises(ProviderError) as caught:
        Session(bundle.graph, bundle.directory, manifest, provider="cuda", threads=1)
    assert str(caught.value) == shown
    assert caught.value.hint


def test_an_engine_that_falls_back_to_another_provider_is_an_error(bundle, monkeypatch) -> None:
    class Elsewhere:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def get_providers(self) -> list[str]:
            return ["OtherExecutionProvider"]

    monkeypatch.setattr(session.onnxruntime, "InferenceSession", Elsewhere)
    with pytest.raises(ProviderError, match="loaded OtherExecutionProvider, not CPUExecutionProvider"):
        build(bundle)


@pytest.mark.parametrize(
    ("installed", "floor", "needed"),
    [
        ("1.30.2", "1.31", "1.31"),
        ("1.31.9", "1.32", "1.32"),
        ("1.9.0", "1.31", "1.31"),
        ("1.30.0", "1.2", "1.31"),
    ],
)
def test_an_older_onnxruntime_than_the_bundle_needs_is_refused(
    installed, floor, needed, bundle, monkeypatch
) -> None:
    """FAULTS 24"""
    monkeypatch.setattr(session.onnxruntime, "__version__", installed)
    with pytest.raises(
        ProviderError, match=f"{needed} or newer is needed, {installed} is installed"
    ) as caught:
        Session(bundle.graph, bundle.directory, with_floor(bundle.manifest, floor), threads=1)
    assert caught.value.hint == upgrade_command(needed)


def test_a_wheel_for_cuda_that_does_not_exist_yet_is_not_all_that_is_named(monkeypatch) -> None:
    versions = {"onnxruntime": None, "onnxruntime-gpu": "1.31.1"}
    monkeypatch.setattr(wheels, "installed_version", versions.get)
    assert upgrade_command("1.31") == 'pip install -U "onnxruntime-gpu>=1.31"'
    assert upgrade_command("1.32").endswith("export the bundle with --onnxruntime-floor 1.31")


def test_a_newer_onnxruntime_is_welcome(bundle, monkeypatch) -> None:
    monkeypatch.setattr(session.onnxruntime, "__version__", "2.0.0.dev20300101+cpu")
    assert build(bundle).provider == "cpu"


def test_a_graph_that_onnxruntime_refuses_is_a_bundle_error_of_one_line(bundle) -> None:
    """FAULTS 12"""
    for graph in (b"", b"garbage", bundle.graph[: len(bundle.graph) // 2]):
        with pytest.raises(BundleError, match=r"onnxruntime can't load the graph: .") as caught:
            Session(graph, bundle.directory, bundle.manifest, threads=1)
        assert "\n" not in str(caught.value)


def test_too_little_memory_is_refused_before_anything_is_loaded(bundle, monkeypatch) -> None:
    """FAULTS 72"""
    monkeypatch.setattr(memory, "available_bytes", lambda: 20_000_000)
    monkeypatch.setattr(session.onnxruntime, "InferenceSession", None)
    with pytest.raises(ProviderError, match=r"weights needs \d+ MB, 20 MB are available"):
        ortgpt.load(bundle.directory)


def test_sessions_are_built_one_at_a_time_by_threads_at_once(bundle, monkeypatch) -> None:
    """FAULTS 26"""
    building, most = 0, 0
    real = session.onnxruntime.InferenceSession

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal building, most
        building += 1
        most = max(most, building)
        time.sleep(0.01)  # the others would come in here
        try:
            return real(*arguments, **options)
        finally:
            building -= 1

    monkeypatch.setattr(session.onnxruntime, "InferenceSession", counted)
    barrier = threading.Barrier(8)

    def work(_: int) -> np.ndarray:
        barrier.wait(timeout=30)
        return last_logits(build(bundle), bundle.manifest)

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(8)))
    assert most == 1
    assert all(np.array_equal(result, results[0]) for result in results)


def test_one_session_serves_threads_at_once(bundle) -> None:
    """FAULTS 69"""
    loaded = build(bundle)
    alone = last_logits(loaded, bundle.manifest)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: last_logits(loaded, bundle.manifest), range(32)))
    assert all(np.array_equal(result, alone) for result in results)


def test_a_closed_session_says_so_and_closing_twice_is_no_error(bundle) -> None:
    """FAULTS 69"""
    loaded = build(bundle)
    decoder = FusedDecoder(loaded, bundle.manifest)
    decoder.extend([[1]])
    loaded.close()
    loaded.close()
    assert loaded.is_closed
    for use in (lambda: decoder.extend([[2]]), lambda: last_logits(loaded, bundle.manifest), loaded.binding):
        with pytest.raises(OrtgptError, match="the model is closed"):
            use()


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (MemoryError(), ProviderError, "not enough memory to run the model"),
        (
            RuntimeError("bfc_arena.cc: Failed to allocate memory for requested buffer of size 9"),
            ProviderError,
            "not enough memory to run the model",
        ),
        (RuntimeError("kernel failed\nat line 7"), ProviderError, "onnxruntime failed: kernel failed"),
    ],
)
def test_what_onnxruntime_raises_in_a_run_is_an_error_of_the_family(error, kind, message, bundle) -> None:
    class Failing:
        def run_with_iobinding(self, binding: Any) -> None:
            raise error

    loaded = build(bundle)
    loaded._session = Failing()
    with pytest.raises(kind) as caught:
        loaded.run(None)
    assert str(caught.value) == message


def test_not_enough_memory_to_build_is_a_provider_error(bundle, monkeypatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(session.onnxruntime, "InferenceSession", refuse)
    with pytest.raises(ProviderError, match="not enough memory to load the model"):
        build(bundle)


def test_a_model_from_before_a_fork_is_refused_in_the_child_and_lives_on_in_the_parent(make_bundle) -> None:
    """FAULTS 69: onnxruntime's threads do not come along, the child would hang."""
    script = (
        "import os, sys, ortgpt\n"
        "model = ortgpt.load(sys.argv[1], threads=2)\n"
        "before = model.generate('a', max_new_tokens=3).text\n"
        "if os.fork() == 0:\n"
        "    try:\n"
        "        model.generate('a', max_new_tokens=3)\n"
        "    except ortgpt.OrtgptError as error:\n"
        "        print(error, '|', error.hint, flush=True)\n"
        "    with ortgpt.load(sys.argv[1], threads=1) as own:\n"
        "        print(own.generate('a', max_new_tokens=3).text == before, flush=True)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "print(model.generate('a', max_new_tokens=3).text == before)\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script, str(make_bundle())],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (shown.returncode, shown.stdout.splitlines()) == (
        0,
        [
            "the model was loaded before this process was forked | load it in the child process",
            "True",
            "True",
        ],
    )


def test_the_affinity_and_the_quota_bound_the_threads(monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    for quota, expected in (
        ("max 100000", 6),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("900000 100000", 6),
    ):
        monkeypatch.setattr(Path, "read_text", lambda _, quota=quota: quota)
        assert default_threads() == expected


def test_the_engines_usage_data_is_off_and_the_environment_as_before(storyteller_bundle: Path) -> None:
    code = (
        "import builtins, os, sys\n"
        "seen, plain = [], builtins.__import__\n"
        "def watched(name, *rest):\n"
        "    if name == 'onnxruntime': seen.append(os.environ.get('ORT_DISABLE_TELEMETRY'))\n"
        "    return plain(name, *rest)\n"
        "builtins.__import__ = watched\n"
        "import ortgpt; ortgpt.load(sys.argv[1], threads=1)\n"
        "print(seen, 'ORT_DISABLE_TELEMETRY' in os.environ)\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    shown = subprocess.run(
        [sys.executable, "-c", code, str(storyteller_bundle)],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert shown.stdout.split("\n")[0] == "['1'] False"


def test_settings_from_the_model_file_are_refused_by_name(
    storyteller_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 27"""
    monkeypatch.setenv("ORT_LOAD_CONFIG_FROM_MODEL", "1")
    with pytest.raises(ortgpt.ProviderError, match="ORT_LOAD_CONFIG_FROM_MODEL"):
        ortgpt.load(storyteller_bundle, threads=1)


def test_the_observer_is_told_the_seconds_of_every_run_of_its_own_session(bundle) -> None:
    seconds: list[float] = []
    begin = time.perf_counter()
    decoder = FusedDecoder(build(bundle, on_run=seconds.append), bundle.manifest, chunk=4)
    decoder.extend([[1, 2, 3, 4, 5, 6]])
    decoder.extend([[7]])
    elapsed = time.perf_counter() - begin
    assert len(seconds) == 3  # two chunks of the prompt, one step
    assert min(seconds) > 0
    assert sum(seconds) < elapsed
    last_logits(build(bundle), bundle.manifest)
    assert len(seconds) == 3


def test_a_run_that_fails_is_not_told(bundle) -> None:
    seconds: list[float] = []
    loaded = build(bundle, on_run=seconds.append)
    with pytest.raises(ProviderError):
        loaded.run(loaded.binding())  # nothing is bound
    assert seconds == []

"""An export of a quantised bundle that fails, at whatever point, leaves things as they were."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

import ortgpt
from ortgpt.errors import BundleError, MissingExtraError, OptionError, OrtgptError
from ortgpt_export import job, quality, quantised
from ortgpt_export.exporter import export_checkpoint


def contents(bundle: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in bundle.iterdir()}


@pytest.mark.parametrize("content", [b"", b"a", b"K\xe4se"])
def test_a_perplexity_text_of_no_use_is_refused_before_the_model_runs(
    content, checkpoint, tmp_path, monkeypatch
) -> None:
    def run(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(ortgpt, "load", run)
    (tmp_path / "text").write_bytes(content)
    with pytest.raises(OptionError, match=r"^perplexity_text "):
        export_checkpoint(
            str(checkpoint), tmp_path / "out" / "bundle", precision="int4", perplexity_text=tmp_path / "text"
        )
    assert not (tmp_path / "out").exists() or os.listdir(tmp_path / "out") == []


def fail_to_write_twice(monkeypatch: pytest.MonkeyPatch) -> type[BaseException]:
    """The disk fills up in the second graph, beside the whole fp32 one."""
    real, calls = job.write_graph, []

    def write(*arguments: Any, **options: Any) -> bytes:
        calls.append(1)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments, **options)

    monkeypatch.setattr(job, "write_graph", write)
    return OrtgptError


def lose_too_much(monkeypatch: pytest.MonkeyPatch) -> type[BaseException]:
    monkeypatch.setattr(quality, "KL_LIMITS", dict.fromkeys(quality.KL_LIMITS, 1e-9))
    return BundleError


def interrupt_the_samples(monkeypatch: pytest.MonkeyPatch) -> type[BaseException]:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(quantised, "sample_texts", interrupted)
    return KeyboardInterrupt


def interrupt_the_comparison(monkeypatch: pytest.MonkeyPatch) -> type[BaseException]:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(quality, "kl_divergence", interrupted)
    return KeyboardInterrupt


def fail_the_parity(monkeypatch: pytest.MonkeyPatch) -> type[BaseException]:
    def failed(*_: Any, **__: Any) -> None:
        raise BundleError("no")

    monkeypatch.setattr(job, "measure_parity", failed)
    return BundleError


FAILURES = [
    fail_to_write_twice,
    lose_too_much,
    interrupt_the_samples,
    interrupt_the_comparison,
    fail_the_parity,
]


@pytest.mark.parametrize("fail", FAILURES, ids=lambda failure: failure.__name__)
def test_an_export_that_fails_half_way_leaves_nothing_or_the_old_bundle(
    fail, checkpoint, tmp_path, monkeypatch
) -> None:
    export_checkpoint(str(checkpoint), tmp_path / "old" / "bundle", verify="none")
    before = contents(tmp_path / "old" / "bundle")
    for place in ("new", "old"):
        kind = fail(monkeypatch)
        with pytest.raises(kind):
            export_checkpoint(str(checkpoint), tmp_path / place / "bundle", precision="int8", force=True)
        monkeypatch.undo()
    assert os.listdir(tmp_path / "new") == []
    assert os.listdir(tmp_path / "old") == ["bundle"]
    assert contents(tmp_path / "old" / "bundle") == before


def test_none_writes_a_bundle_that_would_lose_too_much(checkpoint, tmp_path, monkeypatch) -> None:
    lose_too_much(monkeypatch)
    manifest = export_checkpoint(str(checkpoint), tmp_path / "bundle", precision="int4", verify="none")
    assert manifest.quality is None
    ortgpt.load(tmp_path / "bundle").close()


@pytest.mark.parametrize(("package", "extra"), [("onnxruntime", "cpu"), ("onnx_ir", "export")])
def test_quantisers_that_are_not_installed_are_said_first(
    package, extra, checkpoint, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("ortgpt_export.verify.find_spec", lambda name: None if name == package else object())
    with pytest.raises(MissingExtraError, match=f"'{package}'") as caught:
        export_checkpoint(str(checkpoint), tmp_path / "out" / "bundle", precision="int8", verify="none")
    assert caught.value.extra == extra
    assert not (tmp_path / "out").exists()

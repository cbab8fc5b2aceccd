"""FAULTS 23: local directories, the hub, and what is said when the hub fails."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import requests
from huggingface_hub import errors
from huggingface_hub.utils import filter_repo_objects

from ortgpt.errors import CheckpointError, OptionError, OrtgptError
from ortgpt_export.exporter import export_checkpoint
from ortgpt_export.source import HUB_FILES, Source, fetch, parse_source, source_sha256


def test_an_existing_directory_is_local(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2").mkdir()
    assert parse_source("gpt2") == Source("gpt2", Path("gpt2"))
    assert parse_source(str(tmp_path / "gpt2") + "/").name == "gpt2"
    assert parse_source(".").name == tmp_path.name


@pytest.mark.parametrize("name", ["gpt2", "openai-community/gpt2", "a/b.c_d-2"])
def test_a_hub_id_is_not_local(name) -> None:
    assert parse_source(name, "main") == Source(name, None, "main")


NEITHER = [
    "./gpt2",
    "/no/such/dir",
    "~/no-such-dir",
    "a/b/c",
    "",
    "a\\b",
    "gpt2/",
    "x\0y",
    "-o",
    "a..b",
    "é",
    "a" * 200,
]


@pytest.mark.parametrize("text", NEITHER)
def test_what_is_neither_a_directory_nor_a_hub_id_is_refused(text) -> None:
    with pytest.raises(CheckpointError, match="does not exist, and is not a hub id"):
        parse_source(text)


def test_a_file_is_refused_as_a_source(checkpoint) -> None:
    with pytest.raises(CheckpointError, match="is a file; the source is the directory"):
        parse_source(str(checkpoint / "config.json"))


def test_a_revision_of_a_local_directory_is_not_silently_ignored(checkpoint) -> None:
    with pytest.raises(OptionError, match=r"^revision "):
        parse_source(str(checkpoint), "main")


def test_the_digest_covers_names_and_bytes_and_not_the_order(tmp_path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"1")
    two.write_bytes(b"2")
    counted: list[int] = []
    digest = source_sha256([one, two], counted.append)
    assert digest == source_sha256([two, one])
    assert sum(counted) == 2
    two.write_bytes(b"3")
    assert digest != source_sha256([one, two])
    two.write_bytes(b"2")
    two.rename(tmp_path / "three")
    assert digest != source_sha256([one, tmp_path / "three"])


class FakeHub:
    """Stands for snapshot_download: serves a directory, or raises."""

    def __init__(self, directory: Path, error: Exception | None = None) -> None:
        self.directory = directory
        self.error = error
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, repo_id: str, **options: Any) -> str:
        self.calls.append((repo_id, options))
        if self.error is not None:
            raise self.error
        names = filter_repo_objects(
            sorted(str(path.relative_to(self.directory)) for path in self.directory.rglob("*")),
            allow_patterns=options["allow_patterns"],
            ignore_patterns=options["ignore_patterns"],
        )
        snapshot = self.directory.parent / "snapshot"
        snapshot.mkdir()
        for name in names:
            shutil.copy(self.directory / name, snapshot / name)
        return str(snapshot)


def test_a_hub_model_is_exported_without_downloading_anything_else(checkpoint, tmp_path, monkeypatch) -> None:
    for name in ("pytorch_model.bin", "README.md", "tf_model.h5", "onnx/model.safetensors", "64.tflite"):
        (checkpoint / name).parent.mkdir(exist_ok=True)
        (checkpoint / name).write_bytes(b"x")
    hub = FakeHub(checkpoint)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    manifest = export_checkpoint("org/model", tmp_path / "out", revision="v2", verify="none")
    assert hub.calls[0][0] == "org/model"
    assert hub.calls[0][1]["revision"] == "v2"
    assert sorted(os.listdir(tmp_path / "snapshot")) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert manifest.provenance.source == "org/model"
    assert (tmp_path / "out" / "decoder.onnx").exists()


def test_the_patterns_admit_no_pickle() -> None:
    names = ["pytorch_model.bin", "model.pt", "model.ckpt", "flax_model.msgpack", "x.pkl", "run.py", "a.npz"]
    assert list(filter_repo_objects(names, allow_patterns=list(HUB_FILES))) == []


def response(status: int) -> Any:
    return SimpleNamespace(status_code=status, headers={}, request=None)


FAILURES = {
    "404 or private": (errors.RepositoryNotFoundError("no", response=response(404)), "no such public model"),
    "401": (errors.RepositoryNotFoundError("no", response=response(401)), "no such public model"),
    "gated": (errors.GatedRepoError("no", response=response(403)), "is gated"),
    "revision": (errors.RevisionNotFoundError("no", response=response(404)), "has no revision 'v2'"),
    "500": (errors.HfHubHTTPError("oops", response=response(500)), "answered with status 500"),
    "offline": (errors.OfflineModeIsEnabled("offline"), "can't be reached or offline mode is on"),
    "offline, not cached": (errors.LocalEntryNotFoundError("offline"), "not in the local cache"),
    "time-out": (requests.exceptions.ReadTimeout("slow"), "did not answer in time"),
    "plain time-out": (TimeoutError("slow"), "did not answer in time"),
    "proxy down": (requests.exceptions.ProxyError("proxy"), "ProxyError: proxy"),
    "truncated": (OSError("Consistency check failed: file should be of size 9"), "Consistency check failed"),
    "disk full": (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device"),
    "read-only cache": (PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
    "anything else": (RuntimeError("first line\nsecond line"), "RuntimeError: first line$"),
}


@pytest.mark.parametrize(("error", "message"), FAILURES.values(), ids=FAILURES.keys())
def test_a_failed_download_is_one_sentence_and_leaves_nothing(error, message, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", FakeHub(tmp_path, error))
    with pytest.raises(OrtgptError, match=message) as caught:
        export_checkpoint("org/model", tmp_path / "out" / "bundle", revision="v2", verify="none")
    assert type(caught.value) is OrtgptError, "exit code 1, not that of a bad checkpoint"
    assert str(caught.value).startswith("downloading 'org/model' failed: ")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_interrupted_download_is_not_swallowed(tmp_path, monkeypatch) -> None:
    def interrupt(*_: Any, **__: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(huggingface_hub, "snapshot_download", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch(Source("gpt2", None))


def test_a_snapshot_without_weights_says_so(checkpoint, tmp_path, monkeypatch) -> None:
    """Offline, the hub's cache may hold only a part of a model."""
    (checkpoint / "model.safetensors").unlink()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", FakeHub(checkpoint))
    with pytest.raises(CheckpointError, match=r"neither model.safetensors nor"):
        export_checkpoint("org/model", tmp_path / "bundle", verify="none")


@pytest.mark.parametrize("quiet", [True, False])
def test_quiet_hides_the_bars_of_the_hub_and_shows_them_again_afterwards(
    quiet, checkpoint, monkeypatch
) -> None:
    from huggingface_hub.utils import are_progress_bars_disabled

    seen = []

    def download(*_: Any, **__: Any) -> str:
        seen.append(are_progress_bars_disabled())
        return str(checkpoint)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    fetch(Source("gpt2", None), quiet=quiet)
    assert seen == [quiet]
    assert not are_progress_bars_disabled()

"""FAULTS 22, 63: a bundle is whole or absent, and one export at a time writes it."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ortgpt.errors import OptionError, OrtgptError
from ortgpt.manifest import Architecture, Manifest, Probe, Provenance
from ortgpt_export import bundle_writer
from ortgpt_export.bundle_writer import BundleWriter
from ortgpt_export.exporter import export_checkpoint

MANIFEST = Manifest(
    architecture=Architecture(
        model_type="gpt2",
        layers=1,
        heads=1,
        head_size=8,
        cache_head_size=8,
        width=8,
        context=4,
        vocab_size=4,
        tokenizer_size=4,
        bos_token_id=None,
        eos_token_ids=(),
    ),
    dialect="fused",
    precision="fp32",
    block_size=None,
    row_invariant=True,
    files={},
    provenance=Provenance(source="x", source_sha256="0" * 64, exporter="test", onnxruntime_floor="1.32"),
    probe=Probe(text="a", token_ids=(1,), argmax=2),
    parity="skipped",
)

# Exports into argv[2] and waits for ever once the weights are half written.
PAUSED_EXPORT = """
import sys, time
from ortgpt_export.exporter import export_checkpoint

def progress(stage, done, total):
    if stage == "write" and done > total // 2:
        print("half", flush=True)
        time.sleep(600)

export_checkpoint(sys.argv[1], sys.argv[2], verify="none", progress=progress)
"""


@contextmanager
def paused_export(checkpoint: Path, output: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that is in the middle of an export."""
    command = [sys.executable, "-c", PAUSED_EXPORT, str(checkpoint), str(output)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "half\n"
            yield process
        finally:
            process.kill()


def partials(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def write(output: Path, text: bytes = b"new", *, force: bool = False) -> None:
    with BundleWriter(output, force=force) as bundle:
        bundle.add("decoder.onnx", text)
        bundle.commit(MANIFEST)


def write_half(output: Path, error: type[BaseException], *, force: bool = False) -> None:
    with BundleWriter(output, force=force) as bundle:
        bundle.add("decoder.onnx", b"half")
        raise error


def test_files_are_measured_as_they_are_written(tmp_path) -> None:
    with BundleWriter(tmp_path / "bundle") as bundle:
        bundle.add("b", b"abc")
        bundle.add("a", b"")
        bundle.write_manifest(MANIFEST)
        assert list(bundle.files) == ["a", "b"]
        assert bundle.files["b"].size == 3
        assert bundle.files["b"].sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_nothing_is_at_the_target_before_commit_and_all_of_it_after(tmp_path) -> None:
    target = tmp_path / "deep" / "bundle"
    with BundleWriter(target) as bundle:
        bundle.add("decoder.onnx", b"x")
        assert not target.exists()
        bundle.commit(MANIFEST)
        assert sorted(os.listdir(target)) == ["decoder.onnx", "manifest.json"]
    assert partials(target.parent) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failed_export_leaves_nothing(error, tmp_path) -> None:
    with pytest.raises(error):
        write_half(tmp_path / "bundle", error)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_bundle_is_replaced_only_with_force(tmp_path) -> None:
    target = tmp_path / "bundle"
    write(target, b"old")
    with pytest.raises(OptionError, match=r"^output .*already holds a bundle") as caught:
        write(target)
    assert "--force" in str(caught.value.hint)
    assert (target / "decoder.onnx").read_bytes() == b"old"
    write(target, force=True)
    assert (target / "decoder.onnx").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["bundle"]


def test_replacing_works_on_a_file_system_without_exchange(tmp_path, monkeypatch) -> None:
    target = tmp_path / "bundle"
    write(target, b"old")
    monkeypatch.setattr(bundle_writer.ctypes, "CDLL", lambda *_, **__: object())
    write(target, force=True)
    assert (target / "decoder.onnx").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["bundle"]


def test_an_old_bundle_survives_a_failed_replacement(tmp_path) -> None:
    target = tmp_path / "bundle"
    write(target, b"old")
    with pytest.raises(KeyboardInterrupt):
        write_half(target, KeyboardInterrupt, force=True)
    assert (target / "decoder.onnx").read_bytes() == b"old"
    assert partials(tmp_path) == []


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("content", [["notes.txt"], ["manifest.json", "notes.txt"]])
def test_a_directory_that_is_not_just_a_bundle_is_never_touched(content, force, tmp_path) -> None:
    target = tmp_path / "work"
    target.mkdir()
    for name in content:
        (target / name).write_text("mine")
    with pytest.raises(OptionError, match=r"output .*not just a bundle"):
        write(target, force=force)
    assert sorted(os.listdir(target)) == sorted(content)


@pytest.mark.parametrize("force", [False, True])
def test_a_file_or_a_link_in_the_place_is_never_touched(force, tmp_path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("file", "link", "dangling"):
        with pytest.raises(OptionError, match="not a directory"):
            write(tmp_path / name, force=force)
    assert (tmp_path / "file").read_text() == "mine"


def test_an_empty_directory_may_be_filled(tmp_path) -> None:
    (tmp_path / "bundle").mkdir()
    write(tmp_path / "bundle")
    assert (tmp_path / "bundle" / "manifest.json").exists()


def test_a_target_taken_during_the_export_is_not_overwritten(tmp_path) -> None:
    target = tmp_path / "bundle"
    with BundleWriter(target) as bundle:
        target.mkdir()
        (target / "notes.txt").write_text("mine")
        with pytest.raises(OptionError, match="not just a bundle"):
            bundle.commit(MANIFEST)
    assert (target / "notes.txt").read_text() == "mine"
    assert partials(tmp_path) == []


def test_a_second_export_to_the_same_place_is_refused_while_the_first_runs(tmp_path) -> None:
    with BundleWriter(tmp_path / "bundle") as first:
        with pytest.raises(OrtgptError, match="another export is writing to the same place"):
            BundleWriter(tmp_path / "bundle")
        BundleWriter(tmp_path / "other").__exit__(None, None, None)
        first.add("decoder.onnx", b"x")
        first.commit(MANIFEST)
    assert (tmp_path / "bundle" / "decoder.onnx").read_bytes() == b"x"


def test_a_partial_directory_that_becomes_the_bundle_while_it_is_locked_is_left_alone(
    tmp_path, monkeypatch
) -> None:
    """The other export renames it between our open and our lock: we must not clear its bundle."""
    partial, target = tmp_path / ".bundle.partial", tmp_path / "bundle"
    partial.mkdir()
    (partial / "decoder.onnx").write_bytes(b"theirs")
    real_lock = bundle_writer.fcntl.flock

    def lock_late(descriptor: int, how: int) -> None:
        if not target.exists():
            partial.rename(target)
        real_lock(descriptor, how)

    monkeypatch.setattr(bundle_writer.fcntl, "flock", lock_late)
    with BundleWriter(target.with_name("bundle")) as bundle:
        bundle.add("decoder.onnx", b"ours")
        assert (target / "decoder.onnx").read_bytes() == b"theirs"


def test_another_process_keeps_the_place_until_it_is_killed(checkpoint, tmp_path) -> None:
    """FAULTS 22: SIGKILL leaves no bundle, only a partial directory that the next export clears."""
    folder, output = tmp_path / "models", tmp_path / "models" / "bundle"
    with paused_export(checkpoint, output) as process:
        with pytest.raises(OrtgptError, match="another export"):
            export_checkpoint(str(checkpoint), output, verify="none")
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not output.exists()
    assert partials(folder) == [".bundle.partial"]
    (folder / ".bundle.partial" / "from-another-version").mkdir()
    (folder / ".bundle.partial" / "other.data").write_bytes(b"x")
    export_checkpoint(str(checkpoint), output, verify="none")
    assert os.listdir(folder) == ["bundle"]
    assert len(os.listdir(output)) == 5


def test_a_crowd_of_exporters_leaves_one_whole_bundle(tmp_path) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from test_bundle_writer import *\n"
        "for i in range(40):\n"
        "    try: write(Path(sys.argv[1]), b'x' * 9, force=True)\n"
        "    except OrtgptError as error: assert 'another export' in str(error), error\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "bundle"), str(Path(__file__).parent)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[1] for process in processes] == ["", "", ""]
    assert os.listdir(tmp_path) == ["bundle"]
    assert sorted(os.listdir(tmp_path / "bundle")) == ["decoder.onnx", "manifest.json"]


def test_too_little_space_is_said_before_anything_is_written(checkpoint, tmp_path, monkeypatch) -> None:
    """FAULTS 63"""
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(bundle_writer.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OrtgptError, match=r"needs \d+ MB, but only 1 MB are free"):
        export_checkpoint(str(checkpoint), tmp_path / "out" / "bundle", verify="none")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(("number", "message"), [(errno.ENOSPC, "the disk is full"), (errno.EDQUOT, "full")])
def test_a_disk_that_fills_up_is_one_sentence_and_leaves_nothing(
    number, message, checkpoint, tmp_path, monkeypatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(bundle_writer.os, "fsync", fail)
    with pytest.raises(OrtgptError, match=message):
        export_checkpoint(str(checkpoint), tmp_path / "out" / "bundle", verify="none")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_write_that_fails_half_way_leaves_nothing(checkpoint, tmp_path) -> None:
    """A real failing write: the process may not make files larger than 50 kB."""
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "from ortgpt.errors import OrtgptError\n"
        "from ortgpt_export.exporter import export_checkpoint\n"
        "try: export_checkpoint(sys.argv[1], sys.argv[2], verify='none')\n"
        "except OrtgptError as error: print(error)\n"
    )
    output = tmp_path / "out" / "bundle"
    command = [sys.executable, "-B", "-c", script, str(checkpoint), str(output)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "can't be written: File too large" in result.stdout
    assert list((tmp_path / "out").iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OrtgptError, match=r"file/bundle can't be written: "):
        BundleWriter(tmp_path / "file" / "bundle")
    with pytest.raises(OrtgptError, match=r"can't be written: "):
        BundleWriter(Path("/proc/no/bundle"))
    with pytest.raises(OrtgptError, match=r"can't be written: File name too long"):
        BundleWriter(tmp_path / ("x" * 255))

    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(OrtgptError, match="Read-only file system"):
        BundleWriter(tmp_path / "bundle")


def test_a_link_in_the_partial_directory_s_place_is_not_followed(tmp_path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    (tmp_path / ".bundle.partial").symlink_to("mine")
    with pytest.raises(OrtgptError, match="can't be written"):
        write(tmp_path / "bundle")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"

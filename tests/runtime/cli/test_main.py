"""The command as a process: exit codes, standard streams, errors."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ortgpt
from ortgpt.cli.main import report
from ortgpt.errors import OptionError, ProviderError
from ortgpt.inference import session

FOX = ("generate", "The fox")
BRIEF = ("--max-new-tokens", "3")


def test_success_is_0_and_version_is_the_packages(run) -> None:
    shown = run("--version")
    assert (shown.code, shown.out, shown.err) == (0, f"ortgpt {ortgpt.__version__}\n", "")


@pytest.mark.parametrize("arguments", [(), ("no-such-command",), (*FOX, "-m")])
def test_what_can_not_be_understood_is_2(arguments: tuple[str, ...], invoke) -> None:
    assert invoke(*arguments).code == 2


def test_a_missing_bundle_is_3(invoke, tmp_path) -> None:
    """FAULTS 1"""
    missing = tmp_path / "none"
    shown = invoke(*FOX, "-m", missing)
    assert (shown.code, shown.out, shown.err) == (3, "", f"error: there is no bundle at '{missing}'\n")
    (tmp_path / "file").touch()
    shown = invoke(*FOX, "-m", tmp_path / "file")
    assert (shown.code, shown.err) == (3, f"error: {tmp_path / 'file'} is a file, a bundle is a directory\n")


def test_a_damaged_bundle_is_3(invoke, storyteller_bundle, tmp_path) -> None:
    """FAULTS 8"""
    copy = Path(shutil.copytree(storyteller_bundle, tmp_path / "copy"))
    with (copy / "decoder.onnx").open("r+b") as file:
        file.seek(1000)
        file.write(b"damage")
    shown = invoke(*FOX, "-m", copy)
    assert (shown.code, shown.out) == (3, "")
    assert "decoder.onnx has SHA-256" in shown.err


def test_a_checkpoint_or_a_hub_id_as_bundle_is_3_with_the_export_command(run, storyteller) -> None:
    shown = run(*FOX, "-m", storyteller)
    assert (shown.code, shown.out) == (3, "")
    assert shown.err.splitlines() == [
        f"error: {storyteller} is a checkpoint, not a bundle",
        f"hint: a checkpoint is turned into a bundle by: ortgpt export {storyteller} -o OUT",
    ]
    shown = run(*FOX, "-m", "openai-community/gpt2")
    assert (shown.code, shown.out) == (3, "")
    assert shown.err.splitlines()[1] == (
        "hint: a checkpoint is turned into a bundle by: ortgpt export openai-community/gpt2 -o OUT"
    )


def test_cuda_on_the_cpu_engine_is_4_with_what_there_is_and_what_to_install(
    invoke, storyteller_bundle, monkeypatch
) -> None:
    """FAULTS 24"""
    monkeypatch.setattr(session, "available_providers", lambda: ["CPUExecutionProvider"])
    shown = invoke(*FOX, "-m", storyteller_bundle, "--provider", "cuda")
    assert (shown.code, shown.out) == (4, "")
    error, hint = shown.err.splitlines()
    assert error == "error: provider cuda is not available; this onnxruntime has: CPUExecutionProvider"
    assert hint.startswith("hint: pip ")
    for provider in ("auto", "cpu"):
        assert invoke(*FOX, "-m", storyteller_bundle, *BRIEF, "--provider", provider).code == 0


@pytest.mark.parametrize("count", ["0", "-1", "1025"])
def test_threads_out_of_range_are_2(count: str, invoke, storyteller_bundle) -> None:
    """FAULTS 27"""
    shown = invoke(*FOX, "-m", storyteller_bundle, "--threads", count)
    assert (shown.code, shown.err) == (2, f"error: --threads must be between 1 and 1024, got {count}\n")


@pytest.mark.parametrize("flags", [("--max-new-tokens", "400"), ("--max-new-tokens", "400", "--json")])
@pytest.mark.parametrize("unbuffered", [None, "1"])
def test_a_reader_that_goes_away_ends_the_command_quietly(flags, unbuffered, run, storyteller_bundle) -> None:
    """FAULTS 65"""
    reader, writer = os.pipe()
    os.close(reader)  # a reader that has read enough before the first word
    try:
        asked = (*FOX, "-m", storyteller_bundle, *flags, "--stop-token-ids", "none", "--quiet")
        shown = run(*asked, stdout=writer, environ={"PYTHONUNBUFFERED": unbuffered})
    finally:
        os.close(writer)
    assert (shown.code, shown.err) == (141, "")


def test_head_gets_its_line(run, storyteller_bundle) -> None:
    """FAULTS 65"""
    script = '"$@" | head -c 5; echo " ${PIPESTATUS[0]}"'
    asked = (*FOX, "-m", storyteller_bundle, "--max-new-tokens", "400", "--stop-token-ids", "none", "--quiet")
    shown = run(*asked, wrapper=("bash", "-c", script, "bash"))
    assert (shown.out[5:], shown.err) == (" 141\n", "")


@pytest.mark.parametrize("flags", [BRIEF, (*BRIEF, "--json")])
@pytest.mark.parametrize("unbuffered", [None, "1"])
def test_a_full_disk_is_one_line_and_1(flags, unbuffered, run, storyteller_bundle) -> None:
    """FAULTS 63"""
    with open("/dev/full", "wb") as full:
        asked = (*FOX, "-m", storyteller_bundle, *flags)
        shown = run(*asked, stdout=full, environ={"PYTHONUNBUFFERED": unbuffered})
    assert (shown.code, shown.err) == (1, "error: can't write the output: No space left on device\n")


def test_a_full_disk_is_noticed_by_the_last_flush_too(run) -> None:
    """FAULTS 63"""
    with open("/dev/full", "wb") as full:
        shown = run("doctor", "--quiet", stdout=full)
    assert (shown.code, shown.err) == (1, "error: can't write the output: No space left on device\n")


def test_closed_stdout_and_stderr_change_nothing_but_what_is_seen(run, storyteller_bundle) -> None:
    asked = (*FOX, "-m", storyteller_bundle, *BRIEF)
    whole = run(*asked)
    mute = run(*asked, preexec_fn=lambda: os.close(2))
    assert (mute.code, mute.out, mute.err) == (0, whole.out, "")
    unseen = run(*asked, preexec_fn=lambda: os.close(1))
    assert (unseen.code, unseen.out, unseen.err.count("\n")) == (0, "", 1)
    blind = run(*asked, stdin=None, preexec_fn=lambda: [os.close(number) for number in (0, 1, 2)])
    assert (blind.code, blind.out, blind.err) == (0, "", "")


def test_debug_shows_the_traceback_and_keeps_the_exit_code(run, tmp_path) -> None:
    shown = run(*FOX, "-m", tmp_path / "none", "--debug")
    assert (shown.code, shown.out) == (3, "")
    assert shown.err.startswith("Traceback (most recent call last):")
    assert shown.err.splitlines()[-1] == f"error: there is no bundle at '{tmp_path / 'none'}'"
    shown = run(*FOX, "-m", tmp_path / "none")
    assert "Traceback" not in shown.err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (OptionError("top_k", "must be at least 0"), 2, "error: --top-k must be at least 0"),
        (OptionError("stop[1]", "is empty"), 2, "error: --stop[1] is empty"),
        (OptionError("prompts[1]", "is bad"), 2, "error: prompts[1] is bad"),
        (OptionError("prompt_file", "is bad"), 2, "error: --prompt-file is bad"),
        (ProviderError("no room"), 4, "error: no room"),
        (MemoryError(), 4, "error: not enough memory"),
        (MemoryError("Unable to allocate 9 GiB"), 4, "error: not enough memory: Unable to allocate 9 GiB"),
        (ortgpt.ConstraintError("nothing is left"), 1, "error: nothing is left"),
        (
            FileNotFoundError(2, "No such file", "x"),
            1,
            "error: FileNotFoundError: [Errno 2] No such file: 'x'",
        ),
        (ZeroDivisionError("oh"), 1, "error: ZeroDivisionError: oh"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(error: Exception, code: int, line: str, capsys) -> None:
    assert report(error) == code
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.splitlines()[0] == line
    # Only what nobody foresaw asks for a traceback.
    assert ("--debug" in written.err) == (not isinstance(error, ortgpt.OrtgptError | MemoryError))


def test_a_command_of_another_package_that_can_not_be_loaded_only_warns(run, tmp_path) -> None:
    folder = tmp_path / "broken-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[ortgpt.commands]\nbroken = no_such_module:command\n")
    environ = {"PYTHONPATH": str(tmp_path)}
    shown = run("doctor", "--json", environ=environ)
    assert shown.code == 0
    assert json.loads(shown.out)["problems"] == []
    assert shown.err.splitlines()[0] == (
        "warning: the command broken can't be loaded: No module named 'no_such_module'"
    )
    assert run("doctor", "--json", "--quiet", environ=environ).err == ""


def test_the_start_imports_nothing_heavy() -> None:
    """Ctrl-C in the first moments must not show a traceback of imports."""
    script = (
        "import sys; import ortgpt.cli.main; print(sorted({'typer', 'numpy', 'rich'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"

"""A checkpoint in every system's format, by the peers' own programs; each is made once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from catalogue import OURS
from decode_against_optimum import keep
from environments import digest_of_sources, make_environment, program
from measurement import say
from remote import bare_environment

MODEL_NAME = "model.gguf"  # as engines/llama_engine.py has it
CONVERTERS = Path(__file__).resolve().with_name("converters")
USAGE = 2  # exit code of `ortgpt export` for a precision it does not know
Convert = Callable[[Path, Path], None]


class NotOfferedError(Exception):
    """This checkout's exporter does not make such a bundle."""


def convert(model: str, checkpoint: Path, home: Path) -> Path:
    """The directory of a converted model below `home`, made unless it is there."""
    if not model:
        return checkpoint
    directory = home / model
    if model.startswith(f"{OURS}-"):
        _to_ortgpt(model.removeprefix(f"{OURS}-"), checkpoint, directory)
    else:
        keep(directory, partial(CONVERSIONS[model], checkpoint), f"converting to {model}")
    return directory


def _to_ortgpt(precision: str, checkpoint: Path, directory: Path) -> None:
    """With the interpreter and the sources that run this program, anew when the sources change."""
    stamp, origin = directory.with_name(f"{directory.name}.made-from"), digest_of_sources()
    if directory.exists() and stamp.exists() and stamp.read_text() == origin:
        return
    say(f"exporting {directory.name}")
    precision, _, is_fast = precision.partition("+")
    command = [sys.executable, "-m", "ortgpt", "export", str(checkpoint), "-o", str(directory)]
    command += ["--precision", precision, *(["--fast-prefill"] if is_fast else [])]
    done = subprocess.run(
        [*command, "--verify", "none", "--force", "--quiet"],
        stdout=sys.stderr,
        stderr=subprocess.PIPE,
    )
    if done.returncode == USAGE:
        raise NotOfferedError(precision)
    sys.stderr.write(done.stderr.decode())
    if done.returncode:
        raise SystemExit(f"error: exporting {directory.name} failed; its own message stands above")
    stamp.write_text(origin)


def _to_optimum(checkpoint: Path, output: Path) -> None:
    _run("optimum", "optimum-cli", "export", "onnx", "-m", checkpoint, *_TASK, output)


def _to_ctranslate2(checkpoint: Path, output: Path, *, quantisation: str | None) -> None:
    options = ["--quantization", quantisation] if quantisation else []
    _run("convert", "ct2-transformers-converter", "--model", checkpoint, "--output_dir", output, *options)


def _to_openvino(checkpoint: Path, output: Path, *options: str) -> None:
    """int4 is in groups of 128 with an 8-bit embedding and head unless the options say otherwise."""
    command = ("optimum-cli", "export", "openvino", "-m", checkpoint, *_TASK)
    _run("openvino-convert", *command, *options, output)


def _to_llama(checkpoint: Path, output: Path, *, quantisation: str) -> None:
    """In f32 by the converter; llama-quantize reads that file."""
    output.mkdir(parents=True)
    whole = output / (MODEL_NAME if quantisation == "f32" else "f32.gguf")
    _run("convert", "python", CONVERTERS / "to_gguf.py", checkpoint, whole)
    if quantisation != "f32":
        _run("llama", "python", CONVERTERS / "quantise_gguf.py", whole, output / MODEL_NAME, quantisation)
        whole.unlink()


_TASK = ("--task", "text-generation-with-past")
CONVERSIONS: dict[str, Convert] = {
    "optimum": _to_optimum,
    "ctranslate2-fp32": partial(_to_ctranslate2, quantisation=None),
    "ctranslate2-int8": partial(_to_ctranslate2, quantisation="int8"),
    "llama-f32": partial(_to_llama, quantisation="f32"),
    "llama-q8_0": partial(_to_llama, quantisation="q8_0"),
    "llama-q4_0": partial(_to_llama, quantisation="q4_0"),
    "openvino-fp32": lambda *paths: _to_openvino(*paths, "--weight-format", "fp32"),
    "openvino-int8": lambda *paths: _to_openvino(*paths, "--weight-format", "int8"),
    "openvino-int4": lambda *paths: _to_openvino(*paths, "--weight-format", "int4"),
    "openvino-int4-sym": lambda *paths: _to_openvino(
        *paths, "--weight-format", "int4", "--sym", "--group-size", "128"
    ),
}


def _run(environment: str, name: str, *arguments: object) -> None:
    """A program of an environment."""
    make_environment(environment)
    _checked([program(environment, name), *arguments])


def _checked(command: list[object]) -> None:
    """stdout belongs to the report; what a converter says is shown if it fails."""
    words = [str(word) for word in command]
    path = f"{Path(words[0]).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=bare_environment() | {"PATH": path}
    )
    if done.returncode:
        sys.stderr.write(done.stdout.decode(errors="replace"))
        raise SystemExit(f"error: {' '.join(words)} failed")

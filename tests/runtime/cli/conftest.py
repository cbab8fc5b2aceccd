"""The command line as a process (`run`, `start`) and within the test process (`invoke`)."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from ortgpt.cli.app import add_commands, app
from ortgpt.cli.main import report

# What the tester's own shell may have set and the tests are to decide.
FOREIGN = (
    "COLUMNS",
    "FORCE_COLOR",
    "LANG",
    "LC_ALL",
    "NO_COLOR",
    "PYTHONIOENCODING",
    "PYTHONUNBUFFERED",
    "TERM",
)

# Run by Python at its start: slows a place down, as PACE says, so that there is time for signals.
PACER = """
import os, sys, time

pace = os.environ["PACE"]

def endless(*_, **__):
    print("there", file=sys.stderr, flush=True)
    time.sleep(600)

class Imports:
    def find_spec(self, name, *_):
        if name == "typer":
            endless()

if pace == "endless import":
    sys.meta_path.insert(0, Imports())
elif pace == "endless export":
    import ortgpt_export.job
    ortgpt_export.job.measure_parity = endless
elif pace == "endless load":
    import onnxruntime
    build = onnxruntime.InferenceSession

    def build_again_and_again(*arguments, **options):
        print("there", file=sys.stderr, flush=True)
        while True:
            build(*arguments, **options)

    onnxruntime.InferenceSession = build_again_and_again
else:
    from ortgpt.inference.session import Session
    run = Session.run

    def run_slowly(*arguments):
        print("there", file=sys.stderr, flush=True)
        time.sleep(0.05)
        run(*arguments)

    Session.run = run_slowly
"""


@dataclass(frozen=True)
class Shown:
    """What a command left behind."""

    code: int
    out: str
    err: str


def environment(**changes: str | None) -> dict[str, str]:
    """The tester's environment with changes; None removes a variable."""
    kept = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    wanted = {**kept, "OMP_NUM_THREADS": "1", "LANG": "C.UTF-8", "TERM": "xterm", **changes}
    return {name: value for name, value in wanted.items() if value is not None}


def command(arguments: tuple[str | Path, ...]) -> list[str]:
    """The command; those that load a model get one thread."""
    loads = arguments[:1] in (("generate",), ("score",), ("bench",)) and "--threads" not in arguments
    threads = ["--threads", "1"] if loads else []
    return [sys.executable, "-m", "ortgpt", *map(str, arguments), *threads]


@pytest.fixture(scope="session")
def run() -> Callable[..., Shown]:
    """run(*arguments, ...) -> Shown.

    stdin    bytes to send, a descriptor, or None to inherit
    environ  {name: value, or None to remove it}
    wrapper  words to put before the command
    options  of subprocess.run
    """

    def run_(
        *arguments: str | Path,
        stdin: bytes | int | None = b"",
        environ: dict[str, str | None] | None = None,
        wrapper: tuple[str, ...] = (),
        **options: Any,
    ) -> Shown:
        source = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin}
        process = subprocess.run(
            [*wrapper, *command(arguments)],
            env=environment(**(environ or {})),
            timeout=60,
            check=False,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **source, **options},
        )
        out, err = ((stream or b"").decode() for stream in (process.stdout, process.stderr))
        return Shown(process.returncode, out, err)

    return run_


class Paced:
    """A running command that says "there" on stderr whenever it comes to the slow place."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def wait_until_there(self, times: int = 1) -> None:
        for _ in range(times):
            assert self.process.stderr.readline() == b"there\n"

    def end(self, *signals: int) -> Shown:
        """Send the signals; what it leaves behind. It must end long before the slow place does."""
        for number in signals:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=15)
        return Shown(self.process.returncode, out.decode(), err.decode().replace("there\n", ""))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Paced]]:
    """start(pace, *arguments) -> Paced. pace: endless import | load | export, or slow steps."""
    folder = tmp_path / "pacer"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(PACER)
    started: list[subprocess.Popen[bytes]] = []

    def start_(pace: str, *arguments: str | Path) -> Paced:
        process = subprocess.Popen(
            command(arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(
                PACE=pace,
                PYTHONPATH=os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH")))),
            ),
        )
        started.append(process)
        return Paced(process)

    yield start_
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def invoke() -> Callable[..., Shown]:
    """invoke(*arguments, stdin="") -> Shown, like `run` but in this process."""
    add_commands()

    def invoke_(*arguments: str | Path, stdin: str | bytes = "") -> Shown:
        result = CliRunner().invoke(app, command(arguments)[3:], input=stdin)
        code, err = result.exit_code, io.StringIO(result.stderr)
        err.seek(0, io.SEEK_END)
        if isinstance(result.exception, Exception):
            with contextlib.redirect_stderr(err):
                code = report(result.exception)
        return Shown(code, result.stdout, err.getvalue())

    return invoke_


@pytest.fixture(scope="session")
def nan_bundle(make_bundle: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of bytes whose position 70 is NaN: texts that come so far fail."""
    bundle = shutil.copytree(make_bundle(n_positions=80), tmp_path_factory.mktemp("nan") / "bundle")
    graph = onnx.load(bundle / "decoder.onnx", load_external_data=False).graph
    (table,) = (tensor for tensor in graph.initializer if tensor.name == "wpe.weight")
    place = {entry.key: entry.value for entry in table.external_data}
    row = np.full(table.dims[1], np.nan, np.float32).tobytes()
    data = bytearray((bundle / "decoder.onnx.data").read_bytes())
    begin = int(place["offset"]) + 70 * len(row)
    data[begin : begin + len(row)] = row
    (bundle / "decoder.onnx.data").write_bytes(data)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["decoder.onnx.data"]["sha256"] = hashlib.sha256(data).hexdigest()
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return Path(bundle)

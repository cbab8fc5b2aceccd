"""A process in another environment, called like the workers of workers.py."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Self

from catalogue import System
from environments import interpreter
from workers import Reply

SERVER = Path(__file__).resolve().with_name("serve.py")


class RemoteEngine:
    """One engine with its model in a process of its own; see serve.py. Leaving the with block ends it.

    load_s  seconds for importing the library and loading the model
    """

    def __init__(self, system: System, directory: Path, threads: int) -> None:
        self._name = system.name
        command = [interpreter(system.environment), SERVER, system.engine, directory, system.variant, threads]
        self._process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=bare_environment(),
        )
        self.load_s = self._read().seconds

    def call(self, method: str, *arguments: Any) -> Reply:
        """Run engine.method(*arguments), timed in its process. Beyond the engine's own: "peak_bytes"."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"method": method, "arguments": arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise SystemExit(f"error: {self._name} ended early; its own message stands above") from None
        return self._read()

    def _read(self) -> Reply:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"error: {self._name} ended early; its own message stands above")
        reply = json.loads(line)
        if "error" in reply:
            raise SystemExit(f"error: {self._name}: {reply['error']}")
        return Reply(reply["value"], reply["seconds"], reply["cpu_s"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def bare_environment() -> dict[str, str]:
    """Ours, without what would lead another interpreter to our modules, and with the hub left alone."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return kept | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONDONTWRITEBYTECODE": "1"}

"""Loading a model from the command line, so that Ctrl-C works while onnxruntime is busy."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ortgpt.cli.arguments import ProviderName
from ortgpt.errors import OrtgptError

if TYPE_CHECKING:
    from ortgpt.generator import Model
    from ortgpt.interfaces import Decoder


@dataclass(frozen=True)
class UnloadedModel:
    """Stands for a model until the options have been checked, which is before anything is loaded."""

    path: Path

    def decoder(self, rows: int = 1) -> Decoder:
        raise OrtgptError(f"{self.path} has not been loaded")


def load_model(path: Path, provider: ProviderName, threads: int | None, whose: str = "") -> Model:
    """`ortgpt.load` in a thread: the main thread stays free to hear signals. whose: begins its errors."""
    outcome: list[Model | BaseException] = []

    def work() -> None:
        try:
            from ortgpt.generator import load

            outcome.append(load(path, provider=provider.value, threads=threads))
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=work, daemon=True, name="ortgpt-load")
    thread.start()
    while thread.is_alive():
        thread.join(0.05)
    if isinstance(outcome[0], BaseException):
        if isinstance(outcome[0], OrtgptError):
            outcome[0].args = (f"{whose}{outcome[0]}",)
        raise outcome[0]
    return outcome[0]

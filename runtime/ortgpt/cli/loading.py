"""Loading a model from the command line, so that Ctrl-C works while onnxruntime is busy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ortgpt.cli.arguments import ProviderName
from ortgpt.cli.interruptible import call_interruptibly
from ortgpt.errors import OrtgptError

if TYPE_CHECKING:
    from ortgpt.generator import Model
    from ortgpt.inference.session import OnRun
    from ortgpt.interfaces import Decoder


@dataclass(frozen=True)
class UnloadedModel:
    """Stands for a model until the options have been checked, which is before anything is loaded."""

    path: Path

    def decoder(self, rows: int = 1) -> Decoder:
        raise OrtgptError(f"{self.path} has not been loaded")


def load_model(
    path: Path,
    provider: ProviderName,
    threads: int | None,
    no_fast_prefill: bool,
    whose: str = "",
    on_run: OnRun | None = None,
) -> Model:
    """`ortgpt.load`, interruptible. whose: begins its errors."""

    def work() -> Model:
        from ortgpt.loading import load

        return load(
            path,
            provider=provider.value,
            threads=threads,
            fast_prefill=not no_fast_prefill,
            on_run=on_run,
        )

    try:
        return call_interruptibly(work, "ortgpt-load")
    except OrtgptError as error:
        error.args = (f"{whose}{error}",)
        raise

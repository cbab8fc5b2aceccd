"""The two systems behind one interface: export a checkpoint, load it, continue prompts greedily.

Everything heavy is imported by the process that needs it, never by the one that conducts.
"""

from __future__ import annotations

import logging
import os
import time
import warnings
from pathlib import Path
from typing import Any, Protocol

Prompts = list[list[int]]


class Engine(Protocol):
    """A loaded model. import_s and load_s: seconds for the libraries and for the model."""

    import_s: float
    load_s: float

    def generate(self, prompts: Prompts, new_tokens: int) -> Prompts:
        """Exactly new_tokens greedy tokens behind each prompt; no token ends a text."""
        ...


class OrtgptEngine:
    """This project."""

    def __init__(self, directory: Path, threads: int) -> None:
        begin = time.perf_counter()
        import ortgpt.loading

        self.import_s = time.perf_counter() - begin
        begin = time.perf_counter()
        self._model = ortgpt.load(directory, threads=threads)
        self.load_s = time.perf_counter() - begin

    def generate(self, prompts: Prompts, new_tokens: int) -> Prompts:
        options: Any = {"max_new_tokens": new_tokens, "stop_token_ids": []}
        if len(prompts) == 1:
            return [list(self._model.generate(prompts[0], **options).token_ids)]
        return [list(result.token_ids) for result in self._model.generate_batch(prompts, **options)]


class OptimumEngine:
    """optimum-onnx's ORTModelForCausalLM as it comes, but for the number of threads."""

    def __init__(self, directory: Path, threads: int) -> None:
        _be_quiet()
        begin = time.perf_counter()
        import onnxruntime
        import torch
        from optimum.onnxruntime import ORTModelForCausalLM

        self.import_s = time.perf_counter() - begin
        torch.set_num_threads(threads)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        begin = time.perf_counter()
        self._model = ORTModelForCausalLM.from_pretrained(directory, session_options=options)
        self.load_s = time.perf_counter() - begin
        self._model.generation_config.eos_token_id = None
        self._model.generation_config.pad_token_id = 0

    def generate(self, prompts: Prompts, new_tokens: int) -> Prompts:
        import torch

        ids = torch.tensor(prompts)
        result = self._model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False
        )
        continued: Prompts = result[:, ids.shape[1] :].tolist()
        return continued


ENGINES: dict[str, type[OrtgptEngine] | type[OptimumEngine]] = {
    "ortgpt": OrtgptEngine,
    "optimum": OptimumEngine,
}


def export_with_ortgpt(checkpoint: Path, output: Path) -> None:
    """Write the fp32 bundle, replacing an older one."""
    from ortgpt_export.exporter import export_checkpoint

    export_checkpoint(str(checkpoint), output, verify="none", force=True)


def export_with_optimum(checkpoint: Path, output: Path) -> None:
    """Write optimum's ONNX model with its cache inputs and outputs."""
    _be_quiet()
    from optimum.exporters.onnx import main_export

    main_export(str(checkpoint), output, task="text-generation-with-past", do_validation=False)


EXPORTS = {"ortgpt": export_with_ortgpt, "optimum": export_with_optimum}


def _be_quiet() -> None:
    """No warnings of transformers, torch and optimum, no look at the hub: in this process only."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)

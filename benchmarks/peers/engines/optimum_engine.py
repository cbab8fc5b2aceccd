"""optimum-onnx's ORTModelForCausalLM, which borrows transformers' generate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
from optimum.onnxruntime import ORTModelForCausalLM
from transformers_engine import TransformersEngine


class OptimumEngine(TransformersEngine):
    def _load(self, directory: Path, threads: int) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        return ORTModelForCausalLM.from_pretrained(directory, session_options=options)


load = OptimumEngine

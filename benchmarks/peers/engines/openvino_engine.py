"""OpenVINO GenAI's LLMPipeline.

Variants: "f32"; "default", in which the plugin chooses what it computes in (bf16 where the processor has it).
Either with ",SDPA" for the pipeline without PagedAttention.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai

Prompts = list[list[int]]


class OpenvinoEngine:
    def __init__(self, directory: Path, variant: str, threads: int) -> None:
        self._directory = directory
        self._properties: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        if "f32" in variant:
            self._properties |= {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
        self._request: Any = None
        options: dict[str, Any] = {"ATTENTION_BACKEND": "SDPA"}
        if "SDPA" not in variant:
            options = {"scheduler_config": openvino_genai.SchedulerConfig()}
            # The pipeline's own default remembers prompts, and a repeated one would cost nothing.
            options["scheduler_config"].enable_prefix_caching = False
        self._pipeline = openvino_genai.LLMPipeline(directory, "CPU", **options, **self._properties)

    def generate(self, prompts: Prompts, new_tokens: int) -> Prompts:
        return self._run(prompts, new_tokens)

    def beam(self, prompt: list[int], new_tokens: int, beams: int) -> list[int]:
        return self._run([prompt], new_tokens, num_beams=beams)[0]

    def logits(self, ids: list[int], path: Path) -> None:
        """All positions as float32, from the model itself: the pipeline shows none."""
        if self._request is None:
            model = openvino.Core().compile_model(
                self._directory / "openvino_model.xml", "CPU", self._properties
            )
            self._request = model.create_infer_request()
        self._request.reset_state()
        length = len(ids)
        inputs = {
            "input_ids": np.array([ids], np.int64),
            "attention_mask": np.ones((1, length), np.int64),
            "position_ids": np.arange(length, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        self._request.infer(inputs)
        self._request.get_tensor("logits").data.astype(np.float32).tofile(path)

    def _run(self, prompts: Prompts, new_tokens: int, **options: Any) -> Prompts:
        ids = np.array(prompts, np.int64)
        inputs = openvino_genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
        config = openvino_genai.GenerationConfig(
            max_new_tokens=new_tokens, ignore_eos=True, do_sample=False, **options
        )
        return [list(tokens) for tokens in self._pipeline.generate(inputs, config).tokens]


load = OpenvinoEngine

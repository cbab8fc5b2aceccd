"""transformers' generate with torch, as it comes but for the number of threads."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

Prompts = list[list[int]]


class TransformersEngine:
    def __init__(self, directory: Path, variant: str, threads: int) -> None:
        warnings.filterwarnings("ignore")
        logging.disable(logging.WARNING)
        torch.set_num_threads(threads)
        self._model = self._load(directory, threads)
        self._model.generation_config.eos_token_id = None
        self._model.generation_config.pad_token_id = 0

    def _load(self, directory: Path, threads: int) -> Any:
        return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)

    def generate(self, prompts: Prompts, new_tokens: int) -> Prompts:
        return self._run(prompts, new_tokens)

    def beam(self, prompt: list[int], new_tokens: int, beams: int) -> list[int]:
        return self._run([prompt], new_tokens, num_beams=beams)[0]

    def logits(self, ids: list[int], path: Path) -> None:
        """All positions as float32."""
        rows = torch.tensor([ids])
        with torch.inference_mode():
            found = self._model(input_ids=rows, attention_mask=torch.ones_like(rows)).logits
        found[0].numpy().astype("float32").tofile(path)

    def _run(self, prompts: Prompts, new_tokens: int, **options: Any) -> Prompts:
        ids = torch.tensor(prompts)
        result = self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            do_sample=False,
            use_cache=True,
            **options,
        )
        continued: Prompts = result[:, ids.shape[1] :].tolist()
        return continued


load = TransformersEngine

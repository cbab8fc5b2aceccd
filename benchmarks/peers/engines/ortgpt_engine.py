"""This project, as `pip install "ortgpt[cpu]"` brings it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ortgpt.loading
from ortgpt import BeamSearch

Prompts = list[list[int]]


class OrtgptEngine:
    def __init__(self, directory: Path, variant: str, threads: int) -> None:
        self._model = ortgpt.load(directory, threads=threads)

    def generate(self, prompts: Prompts, new_tokens: int) -> Prompts:
        options: dict[str, Any] = {"max_new_tokens": new_tokens, "stop_token_ids": []}
        if len(prompts) == 1:
            return [list(self._model.generate(prompts[0], **options).token_ids)]
        return [list(result.token_ids) for result in self._model.generate_batch(prompts, **options)]

    def beam(self, prompt: list[int], new_tokens: int, beams: int) -> list[int]:
        result = self._model.generate(
            prompt, max_new_tokens=new_tokens, stop_token_ids=[], strategy=BeamSearch(num_beams=beams)
        )
        return list(result.token_ids)

    def logits(self, ids: list[int], path: Path) -> None:
        """All positions as float32."""
        decoder = self._model.decoder()
        decoder.extend([ids], outputs="all").logits[0].astype("float32").tofile(path)
        decoder.release()


load = OrtgptEngine

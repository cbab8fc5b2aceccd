"""CTranslate2's Generator. Its directory holds the precision, so there is one variant."""

from __future__ import annotations

import json
from pathlib import Path

import ctranslate2
import numpy as np

Prompts = list[list[int]]


class Ctranslate2Engine:
    def __init__(self, directory: Path, variant: str, threads: int) -> None:
        self._tokens: list[str] = json.loads((directory / "vocabulary.json").read_text())
        self._generator = ctranslate2.Generator(
            str(directory), "cpu", compute_type="default", inter_threads=1, intra_threads=threads
        )

    def generate(self, prompts: Prompts, new_tokens: int) -> Prompts:
        return self._run(prompts, new_tokens, beams=1)

    def beam(self, prompt: list[int], new_tokens: int, beams: int) -> list[int]:
        return self._run([prompt], new_tokens, beams)[0]

    def logits(self, ids: list[int], path: Path) -> None:
        """All positions as float32."""
        found = self._generator.forward_batch([[self._tokens[i] for i in ids]])
        np.asarray(found, np.float32).tofile(path)

    def _run(self, prompts: Prompts, new_tokens: int, beams: int) -> Prompts:
        results = self._generator.generate_batch(
            [[self._tokens[i] for i in ids] for ids in prompts],
            beam_size=beams,
            min_length=new_tokens,
            max_length=new_tokens,
            include_prompt_in_result=False,
        )
        return [list(result.sequences_ids[0]) for result in results]


load = Ctranslate2Engine

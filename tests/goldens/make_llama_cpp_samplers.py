"""Writes llama_cpp_samplers.json: what llama.cpp's samplers make of a few rows.

Run in an environment of its own:  pip install llama-cpp-python==0.3.9; python make_llama_cpp_samplers.py
No model is needed. DRY runs without sequence breakers, which would need a model's vocabulary.
"""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import Any

import llama_cpp as llama
import numpy as np

SIZE = 40
SEED = 7
MIROSTAT_STEPS = 15
KEEP_ONE = ctypes.c_size_t(1)


def make_row(seed: int) -> list[float]:
    rng = np.random.default_rng(seed)
    return [round(float(value), 3) for value in rng.normal(0, 1 + seed % 4, SIZE)]


class Candidates:
    """The row as llama.cpp wants it, and what a sampler leaves of it."""

    def __init__(self, row: list[float]) -> None:
        self.data = (llama.llama_token_data * len(row))(
            *(llama.llama_token_data(token_id, logit, 0.0) for token_id, logit in enumerate(row))
        )
        self.array = llama.llama_token_data_array(self.data, len(row), -1, False)

    def apply(self, sampler: Any) -> None:
        llama.llama_sampler_apply(sampler, ctypes.byref(self.array))

    def logits(self) -> dict[int, float]:
        left = [self.array.data[place] for place in range(self.array.size)]
        return {entry.id: entry.logit for entry in left if entry.logit > -float("inf")}

    def probabilities(self) -> dict[int, float]:
        logits = self.logits()
        peak = max(logits.values())
        weights = {token_id: float(np.exp(np.float64(logit) - peak)) for token_id, logit in logits.items()}
        total = sum(weights.values())
        return {token_id: round(weight / total, 8) for token_id, weight in sorted(weights.items())}


def filtered(sampler: Any, row: list[float]) -> dict[int, float]:
    candidates = Candidates(row)
    candidates.apply(sampler)
    return candidates.probabilities()


def filter_cases() -> list[dict[str, Any]]:
    cases = []
    for seed in range(4):
        row = make_row(seed)
        for n in (0.3, 1.0, 1.7, 3.0):
            left = filtered(llama.llama_sampler_init_top_n_sigma(n), row)
            cases.append({"filter": "top_n_sigma", "arguments": [n], "row": row, "left": left})
        for threshold in (0.01, 0.05, 0.1, 0.3, 0.5):
            left = filtered(llama.llama_sampler_init_xtc(1.0, threshold, KEEP_ONE, SEED), row)
            cases.append({"filter": "xtc", "arguments": [threshold], "row": row, "left": left})
        for arguments in ((1.0, 0.5, 1.0), (0.7, 0.7, 2.0), (0.8, 1.5, 0.5), (1.5, 0.25, 3.0)):
            left = filtered(llama.llama_sampler_init_temp_ext(*arguments), row)
            cases.append({"filter": "dynamic_temperature", "arguments": arguments, "row": row, "left": left})
    return cases


def dry_case(seed: int, multiplier: float, base: float, allowed_length: int) -> dict[str, Any]:
    ids = np.random.default_rng(seed).integers(0, 3 + seed, 30).tolist()
    sampler = llama.llama_sampler_init_dry(None, 1024, multiplier, base, allowed_length, -1, None, 0)
    for token_id in ids:
        llama.llama_sampler_accept(sampler, token_id)
    candidates = Candidates([0.0] * SIZE)
    candidates.apply(sampler)
    penalties = {token_id: -logit for token_id, logit in sorted(candidates.logits().items()) if logit}
    arguments = {"multiplier": multiplier, "base": base, "allowed_length": allowed_length}
    return {"token_ids": ids, "arguments": arguments, "penalties": penalties}


def mirostat_case(seed: int, tau: float, eta: float) -> dict[str, Any]:
    sampler = llama.llama_sampler_init_mirostat_v2(SEED, tau, eta)
    steps = []
    for step in range(MIROSTAT_STEPS):
        seed_of_row = 100 * seed + step
        candidates = Candidates(make_row(seed_of_row))
        candidates.apply(sampler)
        chosen = candidates.array.data[candidates.array.selected].id
        left = candidates.probabilities()
        steps.append({"row": make_row(seed_of_row), "left": left, "chosen": chosen})
    return {"tau": tau, "eta": eta, "steps": steps}


def main() -> None:
    dry_arguments = ((0.8, 1.75, 2), (1.0, 1.0, 1), (0.5, 1.2, 3), (2.0, 3.0, 1))
    document = {
        "llama_cpp_python": llama.__version__,
        "filters": filter_cases(),
        "dry": [dry_case(seed, *arguments) for seed in range(6) for arguments in dry_arguments],
        "mirostat": [
            mirostat_case(seed, tau, eta) for seed, (tau, eta) in enumerate([(3, 0.1), (1, 0.5), (5, 0.3)])
        ],
    }
    target = Path(__file__).with_name("llama_cpp_samplers.json")
    target.write_text(json.dumps(document, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()

"""One model shared by a pool of threads: every call has a cache of its own, the weights are there once.

python examples/threads.py models/storyteller-fp32
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import ortgpt

PROMPTS = ["Once upon a time", "The old king", "A little mouse", "In the deep wood"]


def main(bundle: str) -> None:
    with ortgpt.load(bundle) as model, ThreadPoolExecutor(max_workers=4) as pool:

        def write(prompt: str) -> str:
            return model.generate(prompt, ortgpt.Sampling(top_p=0.9), max_new_tokens=30, seed=7).text

        for prompt, text in zip(PROMPTS, pool.map(write, PROMPTS), strict=True):
            print(f"{prompt}{text}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])

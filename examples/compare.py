"""One prompt through every strategy, to see what each does to the text.

python examples/compare.py models/storyteller-fp32 "Once upon a time"
"""

from __future__ import annotations

import sys

import ortgpt
from ortgpt.options import OptionFields
from ortgpt.strategies import Strategy

MAX_NEW_TOKENS = 80

RECIPES: dict[str, tuple[Strategy, OptionFields]] = {
    "greedy": (ortgpt.Greedy(), {}),
    "greedy, repetition penalty 1.2": (ortgpt.Greedy(), {"repetition_penalty": 1.2}),
    "greedy, no 3-gram twice": (ortgpt.Greedy(), {"no_repeat_ngram_size": 3}),
    "temperature 0.1": (ortgpt.Sampling(temperature=0.1), {}),
    "temperature 0.8": (ortgpt.Sampling(temperature=0.8), {}),
    "top-k 50": (ortgpt.Sampling(top_k=50), {}),
    "top-p 0.9": (ortgpt.Sampling(top_p=0.9), {}),
    "min-p 0.05": (ortgpt.Sampling(min_p=0.05), {}),
    "typical-p 0.9": (ortgpt.Sampling(typical_p=0.9), {}),
    "top-k 50, top-p 0.9, temperature 0.8": (ortgpt.Sampling(temperature=0.8, top_k=50, top_p=0.9), {}),
    "the same, repetition penalty 1.2": (
        ortgpt.Sampling(temperature=0.8, top_k=50, top_p=0.9),
        {"repetition_penalty": 1.2},
    ),
    "mirostat, 5 bits": (ortgpt.Sampling(mirostat_tau=5.0), {}),
    "beam search, 5 beams": (ortgpt.BeamSearch(num_beams=5), {}),
    "beam search, 5 beams, no 3-gram twice": (ortgpt.BeamSearch(num_beams=5), {"no_repeat_ngram_size": 3}),
    "diverse beams, 3 groups of 2": (
        ortgpt.BeamSearch(num_beams=6, num_beam_groups=3, diversity_penalty=1.0),
        {},
    ),
    "contrastive search, k 4, alpha 0.6": (ortgpt.ContrastiveSearch(top_k=4, penalty_alpha=0.6), {}),
}


def main(bundle: str, prompt: str) -> None:
    with ortgpt.load(bundle) as model:
        for name, (strategy, options) in RECIPES.items():
            fields: OptionFields = {"max_new_tokens": MAX_NEW_TOKENS, "seed": 7, **options}
            result = model.generate(prompt, strategy, **fields)
            speed = result.timings.tokens_per_second
            print(f"--- {name}  ({speed:.0f} tokens/s)\n{prompt}{result.text}\n")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python examples/compare.py BUNDLE PROMPT")
    main(sys.argv[1], sys.argv[2])

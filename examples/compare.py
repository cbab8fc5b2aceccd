"""One prompt through every way to decode, to see what each does to the text.

python examples/compare.py models/storyteller-fp32 "Once upon a time"
"""

from __future__ import annotations

import sys

import ortgpt
from ortgpt.options import OptionFields
from ortgpt.strategies import Strategy

MAX_NEW_TOKENS = 80
SEED = 7

CARD = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "is": {"enum": ["king", "queen", "fox", "fairy"]},
        "age": {"type": "integer", "minimum": 1, "maximum": 99},
    },
    "required": ["name", "is", "age"],
    "additionalProperties": False,
}
RHYME = r"""
start: line line
line: " The " animal " " verb " to the " place "."
animal: "fox" | "crow" | "bear" | "little mouse"
verb: "went" | "ran" | "flew" | "came"
place: "wood" | "castle" | "sea"
"""

RECIPES: dict[str, tuple[Strategy, OptionFields]] = {
    "greedy": (ortgpt.Greedy(), {}),
    "greedy, repetition penalty 1.2": (ortgpt.Greedy(), {"repetition_penalty": 1.2}),
    "greedy, no 3-gram twice": (ortgpt.Greedy(), {"no_repeat_ngram_size": 3}),
    "greedy, DRY 0.8": (ortgpt.Greedy(), {"dry_multiplier": 0.8}),
    "greedy, prompt lookup": (ortgpt.Greedy(), {"prompt_lookup": True}),
    "greedy, guidance 1.5": (ortgpt.Greedy(), {"guidance_scale": 1.5}),
    "temperature 0.1": (ortgpt.Sampling(temperature=0.1), {}),
    "temperature 0.8": (ortgpt.Sampling(temperature=0.8), {}),
    "temperature 1.5": (ortgpt.Sampling(temperature=1.5), {}),
    "dynamic temperature 0.8 ± 0.5": (ortgpt.Sampling(temperature=0.8, dynatemp_range=0.5), {}),
    "top-k 50": (ortgpt.Sampling(top_k=50), {}),
    "top-p 0.9": (ortgpt.Sampling(top_p=0.9), {}),
    "min-p 0.05": (ortgpt.Sampling(min_p=0.05), {}),
    "typical-p 0.9": (ortgpt.Sampling(typical_p=0.9), {}),
    "epsilon 0.0009": (ortgpt.Sampling(epsilon_cutoff=9e-4), {}),
    "eta 0.0009": (ortgpt.Sampling(eta_cutoff=9e-4), {}),
    "top-n-sigma 1": (ortgpt.Sampling(top_n_sigma=1.0), {}),
    "XTC 0.5, min-p 0.02": (ortgpt.Sampling(xtc_probability=0.5, min_p=0.02), {}),
    "mirostat, 5 bits": (ortgpt.Sampling(mirostat_tau=5.0), {}),
    "top-k 50, top-p 0.9, temperature 0.8": (ortgpt.Sampling(temperature=0.8, top_k=50, top_p=0.9), {}),
    "the same, repetition penalty 1.2": (
        ortgpt.Sampling(temperature=0.8, top_k=50, top_p=0.9),
        {"repetition_penalty": 1.2},
    ),
    "the same, best of 4": (
        ortgpt.Sampling(temperature=0.8, top_k=50, top_p=0.9),
        {"repetition_penalty": 1.2, "best_of": 4},
    ),
    "beam search, 5 beams": (ortgpt.BeamSearch(num_beams=5), {}),
    "beam search, 5 beams, no 3-gram twice": (ortgpt.BeamSearch(num_beams=5), {"no_repeat_ngram_size": 3}),
    "beam sampling, 3 beams": (ortgpt.BeamSearch(num_beams=3, sample=True, top_p=0.9), {}),
    "diverse beams, 3 groups of 2": (
        ortgpt.BeamSearch(num_beams=6, num_beam_groups=3, diversity_penalty=1.0),
        {},
    ),
    "contrastive search, k 4, alpha 0.6": (ortgpt.ContrastiveSearch(top_k=4, penalty_alpha=0.6), {}),
    "keywords, greedy": (ortgpt.Greedy(), {"constraints": [ortgpt.Keywords(["dragon", "golden key"])]}),
    "keywords, sampled": (
        ortgpt.Sampling(temperature=0.8, top_k=50, top_p=0.9),
        {"repetition_penalty": 1.2, "constraints": [ortgpt.Keywords(["dragon", "golden key"])]},
    ),
    "keywords, 5 beams": (
        ortgpt.BeamSearch(num_beams=5),
        {"no_repeat_ngram_size": 3, "constraints": [ortgpt.Keywords(["dragon", "golden key"])]},
    ),
    "keywords, contrastive": (
        ortgpt.ContrastiveSearch(),
        {"constraints": [ortgpt.Keywords(["dragon", "golden key"])]},
    ),
    "forbidden words": (ortgpt.Greedy(), {"constraints": [ortgpt.Forbidden(["said", "little"])]}),
    "JSON schema": (ortgpt.Sampling(temperature=0.8), {"constraints": [ortgpt.JSONSchema(CARD)]}),
    "regular expression": (
        ortgpt.Greedy(),
        {"constraints": [ortgpt.Regex(r" [A-Z][a-z]+ and [A-Z][a-z]+\.")]},
    ),
    "grammar": (ortgpt.Sampling(), {"constraints": [ortgpt.Grammar(RHYME)]}),
    "choice": (ortgpt.Greedy(), {"constraints": [ortgpt.Choice([" was sly.", " was hungry.", " slept."])]}),
}


def main(bundle: str, prompt: str) -> None:
    with ortgpt.load(bundle) as model:
        for name, (strategy, options) in RECIPES.items():
            fields: OptionFields = {"max_new_tokens": MAX_NEW_TOKENS, "seed": SEED, **options}
            result = model.generate(prompt, strategy, **fields)
            speed = result.timings.tokens_per_second
            print(f"--- {name}  ({speed:.0f} tokens/s)\n{prompt}{result.text}\n")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python examples/compare.py BUNDLE PROMPT")
    main(sys.argv[1], sys.argv[2])

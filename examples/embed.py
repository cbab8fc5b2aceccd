"""Text generation inside a plain script: generate, stream, batch, score.

python examples/embed.py models/storyteller-fp32
"""

from __future__ import annotations

import sys

import ortgpt


def main(bundle: str) -> None:
    with ortgpt.load(bundle) as model:
        strategy = ortgpt.Sampling(temperature=0.8, top_p=0.95)

        result = model.generate("Once upon a time", strategy, max_new_tokens=40, seed=7)
        print(result.text, f"[{result.finish_reason}]")

        for event in model.stream("The old king", strategy, max_new_tokens=40, stop=["."], seed=7):
            print(event.text, end="", flush=True)
        print()

        for batched in model.generate_batch(["The fox", "A small boat"], strategy, max_new_tokens=20, seed=7):
            print(batched.prompt, batched.text)

        score = model.score(" was glad.", prompt="The king")
        print(f"perplexity {score.perplexity:.1f}")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A story sentence by sentence: several tries at each, and the most probable one stays.

The story so far is read once and stays in the cache; a try runs nothing but its own tokens.

python examples/transcript.py models/storyteller-fp32
"""

from __future__ import annotations

import sys

import ortgpt

SENTENCES, TRIES = 4, 5


def best_sentence(story: ortgpt.Transcript, seed: int) -> str:
    """Of several sentences that may come next, the one whose tokens are the most probable on average."""
    sampling = ortgpt.Sampling(temperature=0.9, top_p=0.95)
    tries = [
        story.generate(sampling, keep=False, max_new_tokens=40, stop=".", seed=seed + i) for i in range(TRIES)
    ]
    return max(tries, key=lambda result: result.choices[0].score or 0.0).text + "."


def main(bundle: str) -> None:
    with ortgpt.load(bundle) as model, model.transcript("Once upon a time") as story:
        for number in range(SENTENCES):
            story.append(best_sentence(story, seed=TRIES * number))
        print(story.text)

        with story.fork() as other:  # the same story so far, with another end
            other.append(" But the king")
            print("---\n" + other.generate(max_new_tokens=20, echo=True).text)


if __name__ == "__main__":
    main(*sys.argv[1:])

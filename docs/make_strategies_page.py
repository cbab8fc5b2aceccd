"""Writes docs/strategies.md: what every recipe of examples/compare.py makes of a few prompts.

python docs/make_strategies_page.py models/storyteller-fp32 > docs/strategies.md
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from compare import MAX_NEW_TOKENS, RECIPES, SEED
from strategies_text import FAMILIES, FOOT, HEAD

import ortgpt
from ortgpt.options import OptionFields

PROMPTS = ("Once upon a time there was a little fox who", "The old king", "In the wood")
ROUNDS = 3


class Figures(NamedTuple):
    """Of all prompts together.

    speed     tokens/s as a multiple of greedy's, the median over rounds and prompts
    distinct  by n from 1 to 3: different n-grams of the output over all of them
    logprob   mean raw log-probability of a token
    text      what followed the first prompt
    """

    speed: float
    distinct: tuple[float, float, float]
    logprob: float
    text: str


def main(bundle: str) -> None:
    with ortgpt.load(bundle) as model:
        figures = {name: measure(model, name) for name in RECIPES}
    print("\n".join(page(figures)))


def measure(model: ortgpt.Model, name: str) -> Figures:
    """Greedy before and after every run, so that the ratio holds when the machine's speed drifts."""
    results = [generate(model, name, prompt) for prompt in PROMPTS]
    speeds = []
    for _ in range(ROUNDS):
        for prompt in PROMPTS:
            before, own, after = (
                seconds(generate(model, which, prompt)) for which in ("greedy", name, "greedy")
            )
            speeds.append((before + after) / 2 / own)
    ids = [result.token_ids for result in results]
    raw = [
        logprob
        for result in results
        for logprob in model.score(result.token_ids, prompt=result.prompt).logprobs
    ]
    known = [logprob for logprob in raw if logprob is not None]
    distinct = (share_of_distinct(ids, 1), share_of_distinct(ids, 2), share_of_distinct(ids, 3))
    return Figures(statistics.median(speeds), distinct, statistics.fmean(known), results[0].text)


def generate(model: ortgpt.Model, name: str, prompt: str) -> ortgpt.Result:
    strategy, options = RECIPES[name]
    fields: OptionFields = {"max_new_tokens": MAX_NEW_TOKENS, "seed": SEED, **options}
    return model.generate(prompt, strategy, **fields)


def seconds(result: ortgpt.Result) -> float:
    """Per token that is returned."""
    return result.timings.decode_s / max(1, len(result.token_ids) - 1)


def share_of_distinct(texts: Sequence[Sequence[int]], n: int) -> float:
    """Different n-grams over all n-grams, text by text, of all texts together (Li 2016)."""
    grams = [(number, *ids[i : i + n]) for number, ids in enumerate(texts) for i in range(len(ids) - n + 1)]
    return len(set(grams)) / max(1, len(grams))


def page(figures: dict[str, Figures]) -> Iterator[str]:
    yield HEAD.format(
        prompts=", ".join(f"“{prompt}”" for prompt in PROMPTS), tokens=MAX_NEW_TOKENS, seed=SEED
    )
    yield "| recipe | speed, times greedy's | distinct-1 | distinct-2 | distinct-3 | mean log-probability |"
    yield "|---|---|---|---|---|---|"
    for name, own in figures.items():
        distinct = " | ".join(f"{share:.2f}" for share in own.distinct)
        yield f"| {name} | {own.speed:.2f} | {distinct} | {own.logprob:.2f} |"
    yield ""
    for title, about, names in FAMILIES:
        yield f"## {title}\n\n{about}\n"
        for name in names:
            yield f"**{name}**\n"
            text = f"**{PROMPTS[0]}**{own_text(figures[name].text)}"
            yield from (f"> {line}".rstrip() for line in text.split("\n"))
            yield ""
    yield FOOT


def own_text(text: str) -> str:
    """A text without what Markdown would take for markup."""
    for mark in "\\*_`<[":
        text = text.replace(mark, "\\" + mark)
    return text.strip("\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/make_strategies_page.py BUNDLE")
    main(sys.argv[1])

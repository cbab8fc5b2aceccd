"""What docs/strategies.md says of the recipes; the texts and figures come from a run."""

from __future__ import annotations

HEAD = """# Strategies compared

What each way to decode makes of the same prompts: storyteller, {tokens} new tokens, seed {seed}; the
prompts are {prompts}. This page is written by

```console
python docs/make_strategies_page.py models/storyteller-fp32 > docs/strategies.md
```

and `make compare PROMPT="..."` shows the same recipes with your prompt. Storyteller is a small model of
old children's stories; a larger one writes better, but what a strategy does to its text is the same.

## Which to take

| you want | take |
|---|---|
| a story, variety | `Sampling(temperature=0.8, top_k=50, top_p=0.95)`, `repetition_penalty=1.1` to 1.3 |
| one good text, no randomness | `ContrastiveSearch(top_k=4, penalty_alpha=0.6)` |
| short answers, completions | `BeamSearch(num_beams=5)` with `no_repeat_ngram_size=3` |
| several texts that differ | `n=4` with `Sampling`, or diverse beams with `num_return_sequences` |
| the same every time, cheaply | `Greedy()` |
| words that must come, or must not | `Keywords`, `Forbidden`, with any of these |
| JSON, a fixed form, one of several answers | `JSONSchema`, `Regex`, `Grammar`, `Choice` |
| speed where the text repeats its prompt | `prompt_lookup=True` with greedy or sampling |

Recommended ranges: temperature 0.7 to 0.9, top-p 0.9 to 0.95, together with top-k 40 to 100, and a
repetition penalty of 1.1 to 1.3. More than one of top-p, min-p and typical-p at once is rarely of use.

## At a glance

Speed is per token returned, as a multiple of greedy's in the same run, and holds for this small model,
where the host's share is large; at the size of GPT-2 small see the table in the
[README](../README.md#measured). distinct-n is the share of different n-grams in the texts (Li 2016):
low means repetition. The mean log-probability is the model's own opinion: high means safe and
predictable. A recipe that ends early, like a choice, has few tokens to count.
"""

FAMILIES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "Greedy and what keeps it from looping",
        """The most probable token, every time. **Strengths:** the fastest, the same every time.
**Weaknesses:** it falls into loops, as below. **When:** short answers, tests, or with a rule against
repetition: a repetition penalty changes single tokens and is the mildest; `no_repeat_ngram_size`
forbids phrases
outright, names too; DRY only touches what would continue a long repeat. Prompt lookup writes the same
text in fewer passes. Guidance moves away from
what would follow without the prompt: closer to the prompt, and soon stiff above 2.""",
        (
            "greedy",
            "greedy, repetition penalty 1.2",
            "greedy, no 3-gram twice",
            "greedy, DRY 0.8",
            "greedy, prompt lookup",
            "greedy, guidance 1.5",
        ),
    ),
    (
        "Temperature",
        """Draws from the model's distribution, sharpened below 1 and flattened above. **Strengths:** variety
from one number. **Weaknesses:** alone it leaves the long tail of bad tokens in: at 1.5 the text falls
apart. Dynamic temperature is cooler where the model is sure. **When:** 0.7 to 0.9, with a filter.""",
        ("temperature 0.1", "temperature 0.8", "temperature 1.5", "dynamic temperature 0.8 ± 0.5"),
    ),
    (
        "Filters: what may be drawn",
        """Each cuts the tail in its own way. **top-k**: a fixed number, blind to how sure the model is.
**top-p**: as many as hold the mass; the usual choice. **min-p**: relative to the best token, robust at
high temperatures. **typical-p**: tokens as surprising as expected, which can drop the best one.
**epsilon, eta**: an absolute threshold, lower where the model is unsure; gentle. **top-n-sigma**: by
the spread of the scores, independent of the temperature. **XTC** takes the obvious away: surprising
turns, at the price of sense. **Mirostat** steers the surprise to a target over the whole text.
**When:** top-p 0.9 to 0.95, or min-p 0.05 where the temperature is high.""",
        (
            "top-k 50",
            "top-p 0.9",
            "min-p 0.05",
            "typical-p 0.9",
            "epsilon 0.0009",
            "eta 0.0009",
            "top-n-sigma 1",
            "XTC 0.5, min-p 0.02",
            "mirostat, 5 bits",
        ),
    ),
    (
        "The recommended mixture",
        """Temperature 0.8, top-k 50 and top-p 0.9, then with a repetition penalty, then the best of four by
mean log-probability. **Strengths:** fluent and varied; few loops. **Weaknesses:** another seed, another
text. `best_of` costs as many sequences and picks the safest. **When:** stories, and in doubt.""",
        (
            "top-k 50, top-p 0.9, temperature 0.8",
            "the same, repetition penalty 1.2",
            "the same, best of 4",
        ),
    ),
    (
        "Beams",
        """Follows several texts and returns the most probable. **Strengths:** finds what greedy misses;
several answers with scores. **Weaknesses:** on open-ended text the most probable is dull and repeats, longer
beams the more; slower. Drawn beams are livelier. Diverse groups (Vijayakumar 2016) avoid each other's
tokens: ask for several sequences to see it. **When:** short completions with `no_repeat_ngram_size`;
not for stories.""",
        (
            "beam search, 5 beams",
            "beam search, 5 beams, no 3-gram twice",
            "beam sampling, 3 beams",
            "diverse beams, 3 groups of 2",
        ),
    ),
    (
        "Contrastive search",
        """Of the four most probable tokens the one that is least like all before it (Su 2022). **Strengths:**
no randomness and no loops; keeps to its subject. **Weaknesses:** with a small model some odd turns; a
little slower, and more so on long texts. **When:** one good text of some length, the same every
time.""",
        ("contrastive search, k 4, alpha 0.6",),
    ),
    (
        "Keywords and forbidden words",
        """`Keywords(["dragon", "golden key"])` in four strategies. **Strengths:** every word comes, for
certain, mostly in a sensible place because its tokens get a boost while there is room. **Weaknesses:**
a word that does not suit the text is written out at the end of the budget; beams put it off for as long
as it costs them probability. Give them room, and prefer sampling or contrastive search. **When:**
exercises, prompts with a plot, labels that must be named. Forbidden words ("said" and "little", which
greedy loves) leave the rest alone.""",
        (
            "keywords, greedy",
            "keywords, sampled",
            "keywords, 5 beams",
            "keywords, contrastive",
            "forbidden words",
        ),
    ),
    (
        "Forms",
        """JSON of a schema, a pattern, a grammar, one of several texts. **Strengths:** what comes out parses,
with any model. **Weaknesses:** the form is right, the content is as good as the model: storyteller has
never seen JSON. Give free strings a `maxLength`. **When:** the output is read by a program; `Choice`
for classification.""",
        ("JSON schema", "regular expression", "grammar", "choice"),
    ),
)

FOOT = """## Not in the table

A draft model (`draft=`) needs a second, smaller model with the same tokenizer; the text is the one
without it. `n`, streams, batches and transcripts change nothing about a text. What every option does to
the letter is in [decoding](decoding.md), keywords and forms in [constraints](constraints.md).
"""

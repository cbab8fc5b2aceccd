"""How far a quantised bundle is from the fp32 one, over whole distributions.

The texts are the fp32 model's own, drawn with fixed seeds: so the divergence is the mean that its
readers meet. Like verify.py it runs bundles through the runtime's public names only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import ortgpt
from ortgpt.errors import BundleError, OptionError
from ortgpt.interfaces import Floats, Tokenizer
from ortgpt.manifest import Perplexity, Precision, Quality
from ortgpt.numerics import log_softmax

NUM_TEXTS, TEXT_TOKENS = 16, 256
ROWS = 32  # distributions that are compared at a time
# Far above what a healthy model loses: more means that the weights do not bear the format.
KL_LIMITS: dict[Precision, float] = {"int8": 0.02, "int8-dynamic": 0.1, "int4": 0.5, "fp16": 0.01}
# Times what the manifest says, which was measured over other texts; what is below the floor is noise.
MEASURED_FACTOR, MEASURED_FLOOR = 3, 1e-3

OnText = Callable[[int, int], None]
"""Is told (texts done, all of them)."""


def sample_texts(
    model: ortgpt.Model, *, num_texts: int = NUM_TEXTS, seed: int = 0, length: int = TEXT_TOKENS
) -> list[tuple[int, ...]]:
    """Token ids of texts that the model writes when nothing is cut from its distribution.

    They begin as an empty prompt does; in a model without a bos and an eos id each with another token.
    """
    shape = model.manifest.architecture
    has_start = shape.bos_token_id is not None or bool(shape.eos_token_ids)
    prompts = [[] if has_start else [index % shape.tokenizer_size] for index in range(num_texts)]
    results = model.generate_batch(
        prompts,
        ortgpt.Sampling(),
        max_new_tokens=min(length, shape.context) - 1,
        stop_token_ids=[],
        seed=seed,
    )
    return [result.prompt_token_ids + result.token_ids for result in results]


def measure_quality(
    model: ortgpt.Model,
    reference: ortgpt.Model,
    texts: Sequence[Sequence[int]],
    on_text: OnText = lambda *_: None,
) -> Quality:
    """Compare the next-token distributions of both models at every place of the texts.

    Every text is one call of many tokens: a model with a second graph for these is measured by it. Raises
    BundleError when the mean divergence is beyond the precision's limit.
    """
    divergences, agreements = [], []
    for number, text in enumerate(texts, start=1):
        logits, expected = next_logits(model, text), next_logits(reference, text)
        for begin in range(0, len(text), ROWS):
            rows = slice(begin, begin + ROWS)
            divergences.append(kl_divergence(expected[rows], logits[rows]))
            agreements.append(logits[rows].argmax(-1) == expected[rows].argmax(-1))
        on_text(number, len(texts))
    quality = Quality(
        texts=len(texts),
        tokens=sum(map(len, texts)),
        kl_divergence=float(np.concatenate(divergences).mean()),
        top1_agreement=float(np.concatenate(agreements).mean()),
    )
    _check(quality, model)
    return quality


def next_logits(model: ortgpt.Model, token_ids: Sequence[int]) -> Floats:
    """(tokens, vocab): what the model expects behind each token of one text."""
    decoder = model.decoder()
    logits: Floats = decoder.extend([list(token_ids)], outputs="all").logits[0]
    decoder.release()
    return logits


def kl_divergence(expected: Floats, logits: Floats) -> Floats:
    """KL(expected || logits) in nats, of each row; both (rows, vocab) of logits."""
    p, q = log_softmax(expected), log_softmax(logits)
    result: Floats = (np.exp(p) * (p - q)).sum(axis=-1)
    return result


@dataclass(frozen=True)
class GivenText:
    """The text whose perplexity is asked for, and the name of its file."""

    name: str
    content: str

    def check_length(self, tokenizer: Tokenizer) -> None:
        """Raise OptionError when there is no token to predict."""
        if len(tokenizer.encode(self.content)) < 2:
            raise OptionError("perplexity_text", f"{self.name} has fewer than two tokens")


def read_text(path: Path) -> GivenText:
    """A whole text file. Raises OptionError."""
    try:
        return GivenText(path.name, path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or no path at all
        raise OptionError("perplexity_text", f"{path} can't be read as UTF-8 text: {error}") from None


def measure_perplexity(model: ortgpt.Model, reference: ortgpt.Model, text: GivenText) -> Perplexity:
    """Of a text under both models, in windows that move by half a context."""
    score, expected = model.score(text.content), reference.score(text.content)
    return Perplexity(
        text=text.name,
        tokens=len(score.token_ids),
        stride=max(1, model.manifest.architecture.context // 2),
        value=score.perplexity,
        fp32=expected.perplexity,
    )


def kl_limit(model: ortgpt.Model) -> float:
    """What the precision may lose; of two graphs the one that loses more counts."""
    limit = KL_LIMITS[model.manifest.precision]
    if model.fast_prefill:  # the layers are those of int8-dynamic, the table is not
        limit = max(limit, KL_LIMITS["int8-dynamic"])
    return limit


def reference_kl_limit(model: ortgpt.Model) -> float:
    """What a bundle may lose against its checkpoint: not much more than it did when it was written."""
    quality = model.manifest.quality
    if quality is None:
        return kl_limit(model)
    return min(kl_limit(model), max(MEASURED_FLOOR, MEASURED_FACTOR * quality.kl_divergence))


def _check(quality: Quality, model: ortgpt.Model) -> None:
    precision, limit = model.manifest.precision, kl_limit(model)
    if not quality.kl_divergence <= limit:  # also NaN
        raise BundleError(
            f"the bundle's distributions are {quality.kl_divergence:.3f} nats from the fp32 model's, more "
            f"than the {limit} that {precision} may lose; nothing was written",
            hint="take a wider precision; --verify none writes the bundle, and its manifest says so",
        )

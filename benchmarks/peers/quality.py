"""How far each system's distributions lie from the fp32 model's: KL per token, share of equal best tokens.

make peers                                                    after a check that all compute the same model
python benchmarks/peers/quality.py --only llama --texts 4     a try-out

Texts are drawn from the fp32 model itself with fixed seeds. Every system reads the same ids and gives its own
logits at every position; the reference is transformers with torch in float32. Progress goes to stderr, tables
to stdout, one JSON line last.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # report.py and its neighbours

import numpy as np
from catalogue import CLASSES, HOME, STORYTELLER, SYSTEMS, System
from compare import add_system_arguments, chosen, convert_for
from conversions import convert
from measurement import say
from remote import RemoteEngine
from report import json_line, table

import ortgpt

REFERENCE = "transformers"
PROMPT_TOKENS, NEW_TOKENS, PROMPTS, BEAMS = 16, 16, 8, 5  # of the check that all compute the same model
Array = np.ndarray[Any, np.dtype[Any]]


class Agreement(NamedTuple):
    """Parts of the prompts with the same continuation.

    greedy  as the reference continues them
    batch   of all prompts in one call as of each alone
    beams   as the reference's beam search; None without one
    """

    greedy: float
    batch: float
    beams: float | None

    @property
    def same(self) -> bool:
        return self.greedy == 1.0


class Quality(NamedTuple):
    """Over all positions of all texts.

    kl              of the reference's distributions to the system's, nats per token
    top_1           part of the positions with the same best token
    max_difference  the largest difference of a log-probability
    """

    kl: float
    top_1: float
    max_difference: float


def main() -> None:
    given = parse_arguments()
    systems = chosen(given.only)
    systems += [system for system in SYSTEMS if system.name == REFERENCE and system not in systems]
    home = HOME / "models" / given.checkpoint.name
    systems, directories = convert_for(systems, given.bundle, given.checkpoint, home)
    texts = sample_texts(convert("ortgpt-fp32", given.checkpoint, home), given.texts, given.tokens)
    agreement, found = measure(systems, directories, texts, given.threads)
    print(render(systems, agreement, found))
    about = {"benchmark": "quality", "checkpoint": given.checkpoint.name}
    figures = {"texts": given.texts, "tokens": given.tokens, "agreement": as_data(agreement)}
    print(json_line(about | figures | {"quality": as_data(found)}))
    if strays := [
        system.name for system in systems if system.grade == "fp32" and not agreement[system.name].same
    ]:
        raise SystemExit(f"error: {', '.join(strays)} does not compute what {REFERENCE} computes")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--checkpoint", type=Path, default=STORYTELLER, metavar="DIR", help="default: storyteller"
    )
    parser.add_argument(
        "--texts", type=int, default=16, metavar="N", help="drawn from the model (default 16)"
    )
    parser.add_argument("--tokens", type=int, default=256, metavar="N", help="of each text (default 256)")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="of each system (default 2)")
    add_system_arguments(parser)
    given = parser.parse_args()
    given.checkpoint = given.checkpoint.resolve()
    return given


def sample_texts(bundle: Path, count: int, tokens: int) -> list[list[int]]:
    """Ids drawn from the fp32 model's whole distribution, each with a seed of its own."""
    say(f"writing {count} texts")
    options = {"max_new_tokens": tokens, "stop_token_ids": []}
    with ortgpt.load(bundle) as model:
        results = [model.generate("", ortgpt.Sampling(), seed=seed, **options) for seed in range(count)]
    return [list(result.token_ids) for result in results]


def measure(
    systems: Sequence[System], directories: dict[str, Path], texts: list[list[int]], threads: int
) -> tuple[dict[str, Agreement], dict[str, Quality]]:
    """By system; the reference runs first."""
    agreement, quality = {}, {}
    prompts = [text[:PROMPT_TOKENS] for text in texts[:PROMPTS]]
    reference: tuple[Any, Any, list[Array]] | None = None
    for system in sorted(systems, key=lambda system: system.name != REFERENCE):
        say(f"logits of {system.name}")
        with RemoteEngine(system, directories[system.name], threads) as engine:
            alone = [engine.call("generate", [prompt], NEW_TOKENS).value[0] for prompt in prompts]
            batch = engine.call("generate", prompts, NEW_TOKENS).value
            beams = engine.call("beam", prompts[0], NEW_TOKENS, BEAMS).value if system.beams else None
            logits = [read_logits(engine, text) for text in texts]
        reference = reference or (alone, beams, logits)
        agreement[system.name] = Agreement(
            greedy=equal_part(alone, reference[0]),
            batch=equal_part(batch, alone),
            beams=None if beams is None else equal_part([beams], [reference[1]]),
        )
        quality[system.name] = compare_logits(reference[2], logits)
    return agreement, quality


def as_data(found: dict[str, Any]) -> dict[str, Any]:
    return {name: entry._asdict() for name, entry in found.items()}


def equal_part(found: list[list[int]], expected: list[list[int]]) -> float:
    return sum(a == b for a, b in zip(found, expected, strict=True)) / len(expected)


def read_logits(engine: RemoteEngine, ids: list[int]) -> Array:
    """(length, vocab) float32."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "logits"
        engine.call("logits", ids, str(path))
        return np.fromfile(path, np.float32).reshape(len(ids), -1)


def compare_logits(reference: list[Array], found: list[Array]) -> Quality:
    expected, given = (log_softmax(np.concatenate(texts)) for texts in (reference, found))
    kl = (np.exp(expected) * (expected - given)).sum(axis=-1).mean()
    top_1 = (expected.argmax(axis=-1) == given.argmax(axis=-1)).mean()
    return Quality(float(kl), float(top_1), float(np.abs(expected - given).max()))


def log_softmax(logits: Array) -> Array:
    """In float64 over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True).astype(np.float64)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def render(systems: Sequence[System], agreement: dict[str, Agreement], quality: dict[str, Quality]) -> str:
    headings = ("", "KL, nats/token", "same best token", "same greedy text", "batch as alone", "same beams")
    rows = [list(headings)]
    for grade in CLASSES:
        for system in (system for system in systems if system.grade == grade):
            same, lies = agreement[system.name], quality[system.name]
            beams = "" if same.beams is None else f"{same.beams:.0%}"
            cells = [f"{lies.kl:.2e}", f"{lies.top_1:.2%}", f"{same.greedy:.0%}", f"{same.batch:.0%}", beams]
            rows.append([f"{grade:<5} {system.name}", *cells])
    return table(rows)


if __name__ == "__main__":
    main()

"""Contrastive search and (diverse) beam search, slow and plain: the whole text anew at every step.

The golden scripts run these beside transformers: both must agree, and these know the margin, the
smallest gap of scores that any decision of a run hung on. No cache, no batch, no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

Ids = list[int]
Options = dict[str, Any]
# Rows of equal length -> last logits (rows, vocab), hidden states (rows, tokens, width)
Forward = Callable[[Sequence[Ids]], tuple[np.ndarray, np.ndarray]]


@dataclass
class Found:
    """What a search returns for one prompt, best first."""

    sequences: list[Ids]
    scores: list[float]
    margin: float


@dataclass
class Margin:
    """The smallest gap seen."""

    smallest: float = float("inf")

    def note(self, gap: float) -> None:
        if np.isfinite(gap):
            self.smallest = min(self.smallest, abs(float(gap)))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def process(scores: np.ndarray, prompt: Ids, generated: Ids, options: Options) -> np.ndarray:
    """Repetition penalty, no-repeat n-grams, min new tokens, in this order: scores (vocab,)."""
    scores, ids = scores.copy(), prompt + generated
    penalty = options.get("repetition_penalty", 1.0)
    for token in set(ids):
        scores[token] *= penalty if scores[token] < 0 else 1 / penalty
    size = options.get("no_repeat_ngram_size", 0)
    if size:
        tail = ids[len(ids) - size + 1 :]
        for start in range(len(ids) - size + 1):
            if ids[start : start + size - 1] == tail:
                scores[ids[start + size - 1]] = -np.inf
    if len(generated) < options.get("min_new_tokens", 0):
        scores[options["eos_token_id"] or []] = -np.inf
    return scores


# Contrastive search


def contrastive_search(forward: Forward, prompt: Ids, options: Options) -> Found:
    """Su 2022 as transformers 4.49 does it; the margin is a gap of scores or of log-probabilities."""
    alpha, count = options["penalty_alpha"], options["top_k"]
    margin, generated = Margin(), list[int]()
    logits = forward([prompt])[0][0]
    while len(generated) < options["max_new_tokens"]:
        log_probs = log_softmax(process(logits, prompt, generated, options))
        ranked = np.argsort(-log_probs, kind="stable")[: count + 1].tolist()  # one more, for the margin
        next_logits, hidden = forward([prompt + generated + [token] for token in ranked])
        unit = hidden / np.linalg.norm(hidden, axis=-1, keepdims=True)  # (count + 1, tokens, width)
        similarity = (unit[0, :-1] @ unit[:, -1].T).max(axis=0)  # (count + 1,)
        values = (1 - alpha) * np.exp(log_probs[ranked]) - alpha * similarity
        best = int(np.argmax(values[:count]))
        note_choice(margin, values, log_probs[ranked], best)
        generated.append(ranked[best])
        logits = next_logits[best]
        if ranked[best] in (options["eos_token_id"] or []):
            break
    return Found([generated], [], margin.smallest)


def note_choice(margin: Margin, values: np.ndarray, log_probs: np.ndarray, best: int) -> None:
    """values, log_probs (count + 1,): the last of them was not a candidate."""
    others = np.delete(values[:-1], best)
    if len(others):
        margin.note(values[best] - others.max())
    # Whether the last candidate or the one behind it came in decides only where one of them can win.
    if best == len(values) - 2 or values[-1] > values[best] - 1e-4:
        margin.note(log_probs[-2] - log_probs[-1])


# Beam search


@dataclass
class Candidate:
    """A running beam's text with one more id; total is the sum of processed log-probabilities."""

    ids: Ids
    total: float


@dataclass
class Group:
    """Beams that compete with one another, and the best `size` texts they have finished."""

    size: int
    running: list[Candidate] = field(default_factory=lambda: [Candidate([], 0.0)])
    finished: list[tuple[float, Ids]] = field(default_factory=list)
    done: bool = False

    def finish(self, candidate: Candidate, options: Options, margin: Margin) -> None:
        score = candidate.total / len(candidate.ids) ** options["length_penalty"]
        if len(self.finished) == self.size:
            worst = min(self.finished)
            margin.note(score - worst[0])
            if score <= worst[0]:
                return
            self.finished.remove(worst)
        self.finished.append((score, candidate.ids))


def beam_search(forward: Forward, prompt: Ids, options: Options, release: str) -> Found:
    """Beams in groups as `release` "4.49" does them, or in one group as "4.57" does.

    `pad_token_id` is what a finished group still counts as having chosen in 4.49; None: nothing.
    """
    groups = options.get("num_beam_groups", 1)
    size, pad = options["num_beams"] // groups, options["pad_token_id"]
    bank, margin = [Group(size) for _ in range(groups)], Margin()
    for length in range(1, options["max_new_tokens"] + 1):
        chosen: Counter[int] = Counter()
        for group in bank:
            if group.done:
                chosen.update([] if pad is None else [pad] * size)
                continue
            candidates = expand(forward, prompt, group, chosen, options)
            step(group, candidates, length, options, release, margin)
            chosen.update(candidate.ids[-1] for candidate in group.running)
        if all(group.done for group in bank):
            break
    if release == "4.49":
        for group in bank:
            for candidate in [] if group.done else group.running:
                group.finish(candidate, options, margin)
    return pick(bank, options["num_return_sequences"], margin)


def expand(
    forward: Forward, prompt: Ids, group: Group, chosen: Counter[int], options: Options
) -> list[Candidate]:
    """The best max(2, 1 + number of ends) * size continuations of a group, best first, and one more."""
    logits, _ = forward([prompt + beam.ids for beam in group.running])
    rows = []
    for beam, row in zip(group.running, logits, strict=True):
        scores = log_softmax(row)
        for token, times in chosen.items():  # before every other processor
            scores[token] -= options["diversity_penalty"] * times
        rows.append(process(scores, prompt, beam.ids, options) + beam.total)
    totals = np.concatenate(rows)  # (beams * vocab,)
    count = max(2, 1 + len(options["eos_token_id"] or [])) * group.size
    vocab = logits.shape[1]
    return [
        Candidate([*group.running[index // vocab].ids, index % vocab], float(totals[index]))
        for index in np.argsort(-totals, kind="stable")[: count + 1].tolist()
    ]


def step(
    group: Group, candidates: list[Candidate], length: int, options: Options, release: str, margin: Margin
) -> None:
    """One step of one group: who finishes, who runs on, whether the group is done."""
    size, ends = group.size, options["eos_token_id"] or []
    last = length == options["max_new_tokens"]
    stops = [candidate.ids[-1] in ends or (last and release == "4.57") for candidate in candidates]
    note_border(margin, candidates, stops, size)
    for candidate, stop in zip(candidates[:size], stops, strict=False):
        if stop:
            group.finish(candidate, options, margin)
    going = [candidate for candidate, stop in zip(candidates, stops, strict=True) if not stop]
    group.running = going[:size]
    if len(going) > size:
        margin.note(going[size - 1].total - going[size].total)
    if last and release == "4.57":
        group.done = True
    elif len(group.finished) == size:
        best = candidates[0] if release == "4.49" else group.running[0]
        group.done = is_done(group, best.total, length, options, margin)


def note_border(margin: Margin, candidates: list[Candidate], stops: list[bool], size: int) -> None:
    """A stop counts when it ranks inside the group: the gap to the other side of that border."""
    for rank, stop in enumerate(stops):
        if stop:
            other = size if rank < size else size - 1
            margin.note(candidates[rank].total - candidates[other].total)


def is_done(group: Group, best: float, length: int, options: Options, margin: Margin) -> bool:
    """Whether a group with `size` finished texts may stop; best is the largest sum in the race."""
    penalty, early = options["length_penalty"], options["early_stopping"]
    if early is True:
        return True
    longest = options["max_new_tokens"] if early == "never" and penalty > 0 else length
    attainable, worst = best / longest**penalty, min(group.finished)[0]
    # Exactly equal: the best candidate is the worst finished text itself, no matter of rounding.
    if attainable != worst:
        margin.note(attainable - worst)
    return worst >= attainable


def pick(bank: Iterable[Group], count: int, margin: Margin) -> Found:
    """The best of all groups; of equal scores the one that finished last."""
    ranked = sorted((text for group in bank for text in group.finished), key=lambda text: text[0])[::-1]
    for (score, ids), (next_score, next_ids) in pairwise(ranked[: count + 1]):
        if ids != next_ids:  # two groups may find the same text
            margin.note(score - next_score)
    return Found([ids for _, ids in ranked[:count]], [score for score, _ in ranked[:count]], margin.smallest)

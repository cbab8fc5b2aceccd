"""Compares a bundle, as the runtime runs it, with an independent forward pass of the same weights.

Uses the runtime through its public names only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

import ortgpt
from ortgpt.errors import BundleError, MissingExtraError, ProviderError
from ortgpt.interfaces import Floats, Ids
from ortgpt.manifest import Architecture, Parity, Precision
from ortgpt_export.causal_model import load_causal_model, reported
from ortgpt_export.config import GPT2Config
from ortgpt_export.reference import forward

PROMPT_TOKENS, CACHED_STEPS = 24, 16
LIMIT = 2e-4  # largest difference of a logit, and of a hidden state, in an fp32 bundle

OnStep = Callable[[int, int], None]
"""Is told (forward passes done, all of them)."""

Reference = Callable[[Ids], tuple[Floats, Floats]]
"""(tokens,) -> logits (tokens, vocab), hidden (tokens, n_embd)"""


def check_available(reference: str, feature: str | None = None) -> None:
    """Raise MissingExtraError when a verification can't run here: known before the work starts.

    feature  who asks, as the caller wrote it
    """
    needed = [("onnxruntime", "cpu")] if reference != "none" else []
    needed += [("torch", "optimum"), ("transformers", "optimum")] if reference == "torch" else []
    for package, extra in needed:
        if find_spec(package) is None:
            raise MissingExtraError(feature or f"--verify {reference}", extra, package=package)


def check_quantisers() -> None:
    """Raise MissingExtraError unless onnxruntime's quantisers can be imported."""
    for package, extra in (("onnxruntime", "cpu"), ("onnx_ir", "export")):
        if find_spec(package) is None:
            raise MissingExtraError("a precision other than fp32", extra, package=package)


class GreedyRun(NamedTuple):
    """token_ids: all that went into the model; hidden: None where the graph gives none."""

    token_ids: Ids  # (tokens,)
    logits: Floats  # (tokens, vocab)
    hidden: Floats | None  # (tokens, n_embd)


def numpy_reference(weights: Mapping[str, Floats], config: GPT2Config) -> Reference:
    """The forward pass of `reference.py`."""

    def run(token_ids: Ids) -> tuple[Floats, Floats]:
        result = forward(weights, config, token_ids)
        return result.logits, result.hidden

    return run


def torch_reference(directory: Path) -> Reference:
    """transformers' model of a checkpoint directory. What it can't load or compute is a CheckpointError."""
    import torch

    # eager: transformers' faster attention ignores scale_attn_weights and its sibling
    model = load_causal_model(directory, attention="eager")

    def run(token_ids: Ids) -> tuple[Floats, Floats]:
        with torch.no_grad(), reported("the checkpoint can't be computed by transformers"):
            result = model(torch.from_numpy(token_ids)[None], output_hidden_states=True)
        return result.logits[0].numpy(), result.hidden_states[-1][0].numpy()

    return run


def measure_parity(
    directory: Path,
    architecture: Architecture,
    reference: Reference,
    name: str,
    precision: Precision = "fp32",
    on_step: OnStep = lambda *_: None,
) -> Parity:
    """Compare prefill and greedy cached steps of a bundle with one uncached pass of the reference.

    The prompt is random with a fixed seed. Raises BundleError when a difference exceeds LIMIT in an fp32
    bundle; what other precisions lose is judged by quality.py.
    """
    prompt_tokens = max(1, min(PROMPT_TOKENS, architecture.context - CACHED_STEPS))
    steps = min(CACHED_STEPS, architecture.context - prompt_tokens)
    prompt = np.random.default_rng(0).integers(0, architecture.vocab_size, prompt_tokens)
    with _load(directory) as model:
        bundle = run_greedily(model, prompt, steps, on_step)
    assert bundle.hidden is not None  # every graph that is exported gives them
    logits, hidden = reference(bundle.token_ids)
    on_step(steps + 2, steps + 2)
    parity = Parity(
        reference=name,
        prompt_tokens=prompt_tokens,
        cached_steps=steps,
        max_abs_logits_difference=float(np.abs(bundle.logits - logits).max()),
        max_abs_hidden_difference=float(np.abs(bundle.hidden - hidden).max()),
        greedy_agreement=float((bundle.logits.argmax(-1) == logits.argmax(-1)).mean()),
    )
    if precision == "fp32":
        _check(parity)
    return parity


def run_greedily(
    model: ortgpt.Model, prompt: Ids, steps: int, on_step: OnStep = lambda *_: None
) -> GreedyRun:
    """Prefill the prompt, then feed the likeliest token `steps` times."""
    decoder = model.decoder()
    has_hidden = decoder.capabilities.hidden_states
    token_ids, logits, hidden = [prompt], [], []
    for step in range(steps + 1):
        outputs = decoder.extend([token_ids[-1]], outputs="all", hidden=has_hidden)
        logits.append(outputs.logits[0].copy())  # the decoder reuses its buffers
        if outputs.hidden is not None:
            hidden.append(outputs.hidden[0].copy())
        if step < steps:
            token_ids.append(logits[-1][-1:].argmax(axis=-1))
        on_step(step + 1, steps + 2)
    decoder.release()
    return GreedyRun(
        np.concatenate(token_ids), np.concatenate(logits), np.concatenate(hidden) if hidden else None
    )


def _load(directory: Path) -> ortgpt.Model:
    try:
        return ortgpt.load(directory, provider="cpu")
    except ProviderError as error:
        error.hint = "--onnxruntime-floor 1.31 is for older versions, --verify none writes it unmeasured"
        raise


def _check(parity: Parity) -> None:
    for what, difference in (
        ("logits", parity.max_abs_logits_difference),
        ("hidden states", parity.max_abs_hidden_difference),
    ):
        if not difference <= LIMIT:  # also NaN
            raise BundleError(
                f"the bundle's {what} differ from the {parity.reference} reference by {difference:.2e}, "
                f"more than {LIMIT:.0e}; nothing was written",
                hint="--verify none writes the bundle all the same, and its manifest says so",
            )

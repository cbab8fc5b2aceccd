"""The whole road, checkpoint to logits and ids, against transformers' GPT2LMHeadModel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

import ortgpt

MakeBundle = Callable[..., Path]

PROMPT_TOKENS, CACHED_STEPS = 20, 64
TOLERANCE = 2e-4

SHAPES = {
    "2 layers": {"n_layer": 2, "n_head": 2, "n_embd": 32},
    "12 layers, odd heads": {"n_layer": 12, "n_head": 3, "n_embd": 48, "scale": 0.1},
    "heads of 12": {"n_layer": 3, "n_head": 5, "n_embd": 60},
    "heads of 5": {"n_layer": 3, "n_head": 7, "n_embd": 35},
    "vocabulary of 50,257": {"n_layer": 2, "n_head": 4, "n_embd": 64, "vocab_size": 50257},
    "n_inner and exact gelu": {
        "n_layer": 4,
        "n_head": 4,
        "n_embd": 32,
        "n_inner": 50,
        "activation_function": "gelu",
    },
    "scaled by layer": {"n_layer": 4, "n_head": 2, "n_embd": 32, "scale_attn_by_inverse_layer_idx": True},
}


def reference(checkpoint: Path, tokens: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Logits and last hidden states (tokens, ...) of transformers, without a cache."""
    model = GPT2LMHeadModel.from_pretrained(checkpoint, attn_implementation="eager").eval()
    with torch.no_grad():
        outputs = model(torch.tensor([tokens]), output_hidden_states=True)
    return outputs.logits[0].numpy(), outputs.hidden_states[-1][0].numpy()


def cached(bundle: Path, tokens: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The same from a bundle: a prompt, then one cached step per token."""
    with ortgpt.load(bundle, threads=1) as model:
        decoder = model.decoder()
        outputs = decoder.extend([tokens[:PROMPT_TOKENS]], outputs="all", hidden=True)
        logits, hidden = [outputs.logits[0].copy()], [outputs.hidden[0].copy()]
        for token in tokens[PROMPT_TOKENS:]:
            outputs = decoder.extend([[token]], hidden=True)
            logits.append(outputs.logits[0].copy())
            hidden.append(outputs.hidden[0].copy())
    return np.concatenate(logits), np.concatenate(hidden)


def assert_parity(checkpoint: Path, bundle: Path, vocab_size: int) -> None:
    count = PROMPT_TOKENS + CACHED_STEPS
    tokens = np.random.default_rng(0).integers(0, vocab_size, count).tolist()
    expected_logits, expected_hidden = reference(checkpoint, tokens)
    logits, hidden = cached(bundle, tokens)
    assert expected_logits.std() > 0.1  # otherwise anything would be close
    assert np.abs(logits - expected_logits).max() <= TOLERANCE
    assert np.abs(hidden - expected_hidden).max() <= TOLERANCE


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_and_hidden_states_of_random_models(make_bundle: MakeBundle, shape: str) -> None:
    config = {"n_positions": 96, **SHAPES[shape]}
    bundle = make_bundle(**config)
    assert_parity(bundle.parent / "checkpoint", bundle, config.get("vocab_size", 257))


def test_logits_and_hidden_states_of_storyteller(storyteller: Path, storyteller_bundle: Path) -> None:
    assert_parity(storyteller, storyteller_bundle, 4096)


@pytest.mark.parametrize("prompt", ["Once upon a time", 'The king said to his daughter, "', "\n\n"])
def test_greedy_ids_of_storyteller_for_128_tokens(
    storyteller: Path, storyteller_model: ortgpt.Model, prompt: str
) -> None:
    result = storyteller_model.generate(prompt, max_new_tokens=128, stop_token_ids=[])
    reference_model = GPT2LMHeadModel.from_pretrained(storyteller).eval()
    ids = reference_model.generate(
        torch.tensor([result.prompt_token_ids]),
        max_new_tokens=128,
        min_new_tokens=128,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert list(result.token_ids) == ids[0, len(result.prompt_token_ids) :].tolist()


def test_greedy_ids_with_penalties_and_bans(storyteller: Path, storyteller_model: ortgpt.Model) -> None:
    result = storyteller_model.generate(
        "The fox and the crow",
        max_new_tokens=80,
        repetition_penalty=1.2,
        no_repeat_ngram_size=3,
        min_new_tokens=80,
    )
    reference_model = GPT2LMHeadModel.from_pretrained(storyteller).eval()
    ids = reference_model.generate(
        torch.tensor([result.prompt_token_ids]),
        max_new_tokens=80,
        min_new_tokens=80,
        do_sample=False,
        repetition_penalty=1.2,
        no_repeat_ngram_size=3,
        pad_token_id=0,
    )
    assert list(result.token_ids) == ids[0, len(result.prompt_token_ids) :].tolist()


def test_scores_of_storyteller(storyteller: Path, storyteller_model: ortgpt.Model) -> None:
    score = storyteller_model.score("The king was glad, and the queen was glad too.")
    logits, _ = reference(storyteller, list(score.token_ids))
    logprobs = torch.log_softmax(torch.tensor(logits), dim=-1)
    expected = [float(logprobs[i, token]) for i, token in enumerate(score.token_ids[1:])]
    assert score.logprobs[0] is None
    assert np.abs(np.asarray(score.logprobs[1:]) - expected).max() < 1e-4
    assert score.total == pytest.approx(sum(expected), abs=1e-3)
    assert score.perplexity == pytest.approx(np.exp(-np.mean(expected)), rel=1e-4)

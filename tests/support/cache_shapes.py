"""A model's shape for tests of caches, small but in no axis 1."""

from __future__ import annotations

from ortgpt.manifest import Architecture

SHAPE = Architecture(
    model_type="gpt2",
    layers=2,
    heads=3,
    head_size=8,
    cache_head_size=8,
    width=24,
    context=300,
    vocab_size=10,
    tokenizer_size=10,
    bos_token_id=0,
    eos_token_ids=(0,),
)

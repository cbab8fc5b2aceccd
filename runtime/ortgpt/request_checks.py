"""What the options of a call say about each other, its strategy and its prompts."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Protocol

from ortgpt.checks import shown
from ortgpt.errors import OptionError
from ortgpt.interfaces import Tokenizer
from ortgpt.manifest import Manifest
from ortgpt.option_checks import MAX_SEED
from ortgpt.options import OptionFields, Options
from ortgpt.strategies import BeamSearch, ContrastiveSearch, Greedy, Sampling, Strategy


class LoadedModel(Protocol):
    """As much of a model as its drafts have to agree with."""

    tokenizer: Tokenizer
    manifest: Manifest


def check_streamable(fields: OptionFields) -> None:
    """best_of has nothing to show before its end."""
    if fields.get("best_of") is not None:
        raise OptionError("best_of", "can't be streamed: the best are known at the end", hint="use generate")


def check_draft(draft: LoadedModel, model: LoadedModel) -> None:
    """A draft model's ids have to mean the same texts, and to be all that prompts may hold."""
    own, other = model.tokenizer, draft.tokenizer
    if own is other:
        return
    if other.size != own.size:
        raise OptionError("draft", f"has a tokenizer of {other.size} ids, the model's has {own.size}")
    for token_id in range(own.size):
        if other.token_bytes(token_id) != own.token_bytes(token_id):
            raise OptionError("draft", f"has another tokenizer: its id {token_id} stands for another text")
    if draft.manifest.architecture.vocab_size < model.manifest.architecture.vocab_size:
        sizes = [one.manifest.architecture.vocab_size for one in (draft, model)]
        raise OptionError("draft", f"has a vocabulary of {sizes[0]} ids, the model's has {sizes[1]}")


def check_hidden_states(strategy: Strategy, manifest: Manifest) -> None:
    """Not every graph that another exporter wrote gives them."""
    if isinstance(strategy, ContrastiveSearch) and not manifest.hidden_states:
        via = "" if manifest.architecture.model_type == "gpt2" else " --via optimum"
        raise OptionError(
            "strategy",
            f"ContrastiveSearch compares hidden states, which {manifest.graph_name} does not give",
            hint=f"they are given by the graphs of: ortgpt export CHECKPOINT -o OUT{via}",
        )


def rows_per_prompt(strategy: Strategy, options: Options) -> int:
    """Decoder rows that a prompt takes."""
    rows = strategy.num_beams if isinstance(strategy, BeamSearch) else options.num_sequences
    return 2 * rows if options.is_guided else rows


def choose_strategy(strategy: Strategy | None, options: Options) -> Strategy:
    if isinstance(strategy, BeamSearch) and options.n > 1:
        raise OptionError("n", "is not for beam search", hint="ask for num_return_sequences of its beams")
    if isinstance(strategy, BeamSearch) and options.best_of is not None:
        hint = "it ranks its num_beams texts itself: ask for num_return_sequences of them"
        raise OptionError("best_of", "is not for beam search", hint=hint)
    if strategy is None:
        strategy = Greedy()
    if not isinstance(strategy, Strategy):
        raise OptionError("strategy", f"must be a strategy such as Greedy(), got {shown(strategy)}")
    if options.is_drafted and not isinstance(strategy, Greedy | Sampling):
        name = "prompt_lookup" if options.prompt_lookup else "draft"
        raise OptionError(name, f"is for greedy decoding and sampling, not for {type(strategy).__name__}")
    is_drawn = isinstance(strategy, Sampling) and not strategy.is_greedy
    if options.num_sequences > options.n and not is_drawn:
        hint = "ask for sampling, with a temperature above 0"
        raise OptionError("best_of", "has no effect where nothing is drawn", hint=hint)
    return strategy


def choose_seeds(seed: int | Sequence[int] | None, count: int) -> list[int]:
    """One seed per prompt; without any, drawn, small enough for every JSON reader."""
    if isinstance(seed, Sequence):
        if len(seed) != count:
            raise OptionError("seed", f"has {len(seed)} entries for {count} prompts")
        return list(seed)
    first = secrets.randbits(32) if seed is None else seed
    if first + max(0, count - 1) > MAX_SEED:
        raise OptionError("seed", f"must leave room for {count} prompts below {MAX_SEED}")
    return [first + index for index in range(count)]

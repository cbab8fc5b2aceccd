"""Flags of the less common options, and how those that are no plain numbers are read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ortgpt.checks import shown
from ortgpt.cli.arguments import PANELS, flag
from ortgpt.cli.loading import UnloadedModel
from ortgpt.cli.prompt_input import parse_biases, parse_ids
from ortgpt.errors import OptionError
from ortgpt.options import Options
from ortgpt.strategies import BeamSearch, ContrastiveSearch, Greedy, Sampling, Strategy

STRATEGIES: dict[str, Any] = {
    "greedy": Greedy,
    "sample": Sampling,
    "beam": BeamSearch,
    "contrastive": ContrastiveSearch,
}

DynatempRange = Annotated[
    float | None, flag(Sampling, "dynatemp_range", "The entropy moves the temperature so far; 0: off.")
]
DynatempExponent = Annotated[float | None, flag(Sampling, "dynatemp_exponent", "Of the entropy; 1.")]
TopNSigma = Annotated[
    float | None, flag(Sampling, "top_n_sigma", "Keep within N deviations of the best; 0: off.", "N")
]
EpsilonCutoff = Annotated[
    float | None, flag(Sampling, "epsilon_cutoff", "Drop below this probability; 0: off.", "P")
]
EtaCutoff = Annotated[
    float | None, flag(Sampling, "eta_cutoff", "The same, lower where the model is unsure; 0: off.", "P")
]
XtcProbability = Annotated[
    float | None, flag(Sampling, "xtc_probability", "How often the obvious tokens go; 0: off.", "P")
]
XtcThreshold = Annotated[float | None, flag(Sampling, "xtc_threshold", "What is obvious; 0.1.", "P")]
MirostatTau = Annotated[
    float | None,
    flag(Sampling, "mirostat_tau", "Steer the surprise, in place of truncation; 0: off.", "BITS"),
]
MirostatEta = Annotated[float | None, flag(Sampling, "mirostat_eta", "How fast it steers; 0.1.")]
Order = Annotated[
    list[str] | None, flag(Sampling, "order", "Order of the filters (repeatable, or a,b,c).", "NAME")
]

NumBeams = Annotated[int | None, flag(BeamSearch, "num_beams", "Texts followed at once.", "N")]
LengthPenalty = Annotated[
    float | None, flag(BeamSearch, "length_penalty", "Scores are divided by length to this power.")
]
EarlyStopping = Annotated[
    str | None,
    flag(BeamSearch, "early_stopping", "When to stop looking for a better text.", "true|false|never"),
]
NumReturnSequences = Annotated[
    int | None, flag(BeamSearch, "num_return_sequences", "Texts to return, best first.", "N")
]
NumBeamGroups = Annotated[
    int | None, flag(BeamSearch, "num_beam_groups", "Groups that avoid each other's tokens.", "N")
]
DiversityPenalty = Annotated[
    float | None, flag(BeamSearch, "diversity_penalty", "How much a group avoids the others' tokens.")
]
Sample = Annotated[
    bool,
    typer.Option(
        "--sample",
        help="Draw the beams' tokens; takes --temperature, --top-k, --top-p.",
        rich_help_panel=PANELS[BeamSearch],
    ),
]
PenaltyAlpha = Annotated[
    float | None,
    flag(ContrastiveSearch, "penalty_alpha", "Weight of being unlike; --top-k sets the candidates.", "A"),
]

BestOf = Annotated[
    int | None, flag(Options, "best_of", "Draw so many sequences, give the best of them.", "N")
]
TokenHealing = Annotated[
    bool,
    typer.Option(
        "--token-healing", help="The prompt may end inside a word.", rich_help_panel=PANELS[Options]
    ),
]
GuidanceScale = Annotated[
    float | None, flag(Options, "guidance_scale", "Move away from the negative prompt; 1: off.")
]
NegativePrompt = Annotated[
    str | None,
    flag(Options, "negative_prompt", "What to move away from.", "TEXT", "the prompt's last token"),
]
DryMultiplier = Annotated[
    float | None, flag(Options, "dry_multiplier", "Against long repeats (DRY); 0: off.")
]
DryBase = Annotated[float | None, flag(Options, "dry_base", "Grows with every repeated token; 1.75.")]
DryAllowedLength = Annotated[
    int | None, flag(Options, "dry_allowed_length", "Repeats of N tokens are free; 2.", "N")
]
DrySequenceBreakers = Annotated[
    list[str] | None,
    flag(Options, "dry_sequence_breakers", "No repeat reaches over it (repeatable), or none.", "TEXT"),
]
LengthDecay = Annotated[
    str | None,
    flag(
        Options,
        "exponential_decay_length_penalty",
        "After START tokens the end gets likelier by FACTOR per token.",
        "START,FACTOR",
    ),
]
ForcedBos = Annotated[int | None, flag(Options, "forced_bos_token_id", "The first token.", "ID")]
ForcedEos = Annotated[
    int | None, flag(Options, "forced_eos_token_id", "The last token at the full length.", "ID")
]
SuppressTokens = Annotated[
    list[str] | None, flag(Options, "suppress_tokens", "Ids never generated (repeatable).", "IDS")
]
BeginSuppressTokens = Annotated[
    list[str] | None, flag(Options, "begin_suppress_tokens", "Ids that do not come first.", "IDS")
]
SequenceBias = Annotated[
    list[str] | None, flag(Options, "sequence_bias", "Added where TEXT would come (repeatable).", "TEXT=X")
]
PromptLookup = Annotated[
    bool,
    typer.Option(
        "--prompt-lookup",
        help="Guess tokens from what the text repeats: the same text, sooner.",
        rich_help_panel=PANELS[Options],
    ),
]
Draft = Annotated[
    Path | None,
    flag(Options, "draft", "Guess tokens with this smaller bundle: the same text, sooner.", "DIR"),
]
MaxRows = Annotated[
    int | None,
    typer.Option(
        "--max-rows", metavar="N", help="Rows that run at once for a prompt file.", show_default="32"
    ),
]
ShowProgress = Annotated[
    bool | None,
    typer.Option(
        "--progress/--no-progress",
        help="A bar for a prompt file; by default on a terminal without --json.",
        show_default=False,
    ),
]
NumDraftTokens = Annotated[
    int | None, flag(Options, "num_draft_tokens", "At most N guesses at a time; 8.", "N")
]


def read_option_flags(fields: dict[str, Any]) -> dict[str, Any]:
    """Options as the library takes them, from flags as they were given."""
    read = dict(fields)
    for name in ("stop_token_ids", "suppress_tokens", "begin_suppress_tokens"):
        if name in read:
            read[name] = parse_ids(name, read[name])
    if "logit_bias" in read:
        read["logit_bias"] = parse_biases(read["logit_bias"])
    if "draft" in read:
        read["draft"] = UnloadedModel(read["draft"])
    if "sequence_bias" in read:
        read["sequence_bias"] = parse_text_biases(read["sequence_bias"])
    if read.get("dry_sequence_breakers") == ["none"]:
        read["dry_sequence_breakers"] = []
    if "exponential_decay_length_penalty" in read:
        read["exponential_decay_length_penalty"] = parse_length_decay(
            read["exponential_decay_length_penalty"]
        )
    return read


def read_strategy(name: str, given: Mapping[str, Any]) -> Strategy:
    """The strategy of that name with the fields that were given, which have to be its own."""
    own = fields_of(STRATEGIES[name])
    for field in given:
        if field not in own:
            homes = [f"--strategy {other}" for other, kind in STRATEGIES.items() if field in fields_of(kind)]
            wanted = " or ".join(homes)
            raise OptionError(field, f"belongs to {wanted}, not to {name}", hint=f"add {homes[0]}")
    read = dict(given)
    if "order" in read:
        read["order"] = [part for value in read["order"] for part in value.split(",")]
    if "early_stopping" in read:
        word = read["early_stopping"].lower()
        read["early_stopping"] = {"true": True, "false": False}.get(word, word)
    strategy: Strategy = STRATEGIES[name](**read)
    return strategy


def fields_of(strategy: type) -> tuple[str, ...]:
    """The names of a strategy's fields, each a flag."""
    return tuple(entry.name for entry in dataclasses.fields(strategy))


def parse_text_biases(values: list[str]) -> dict[str | tuple[int, ...], float]:
    """{text: bias} from "TEXT=VALUE" flags."""
    biases: dict[str | tuple[int, ...], float] = {}
    for value in values:
        text, _, bias = value.rpartition("=")
        try:
            biases[text] = float(bias)
        except ValueError:
            raise OptionError("sequence_bias", f"must look like TEXT=VALUE, got {shown(value)}") from None
    return biases


def parse_length_decay(value: str) -> tuple[int, float]:
    """(start, factor) from "START,FACTOR"."""
    start, _, factor = value.partition(",")
    try:
        return int(start), float(factor)
    except ValueError:
        name = "exponential_decay_length_penalty"
        raise OptionError(name, f"must look like START,FACTOR, got {shown(value)}") from None

"""`ortgpt generate`."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ortgpt.bundled import BUNDLED_MODEL
from ortgpt.cli import constraint_flags, flags
from ortgpt.cli.arguments import (
    AsJson,
    Debug,
    ModelPath,
    NoFastPrefill,
    ProviderName,
    ProviderOption,
    Quiet,
    Threads,
    flag,
)
from ortgpt.cli.loading import load_model
from ortgpt.cli.output import print_result, print_timings, show_in_order
from ortgpt.cli.prompt_input import parse_ids, read_prompt_file, read_text_argument
from ortgpt.errors import OptionError, OrtgptError
from ortgpt.option_checks import BATCH_ROWS, check_max_rows
from ortgpt.options import OptionFields, Options, make_options
from ortgpt.strategies import Sampling, Strategy

if TYPE_CHECKING:
    from ortgpt.generator import Model
    from ortgpt.results import Result

# Constraints have flags of their own; code can't be given on a command line.
OPTION_FIELDS = tuple(
    entry.name for entry in dataclasses.fields(Options) if entry.name not in ("constraints", "processors")
)
STRATEGY_FIELDS = tuple(
    dict.fromkeys(name for kind in flags.STRATEGIES.values() for name in flags.fields_of(kind))
)


class StrategyName(StrEnum):
    GREEDY, SAMPLE, BEAM, CONTRASTIVE = flags.STRATEGIES


def generate(
    context: typer.Context,
    model: ModelPath = BUNDLED_MODEL,
    prompt: Annotated[
        str | None,
        typer.Argument(help='The text to continue; "-" or a pipe: from stdin.', show_default=False),
    ] = None,
    prompt_ids: Annotated[str | None, typer.Option(metavar="1,2,3", help="The prompt as token ids.")] = None,
    prompt_file: Annotated[Path | None, typer.Option(metavar="F", help="One prompt per line.")] = None,
    strategy: Annotated[StrategyName, typer.Option(help="How tokens are chosen.")] = StrategyName.GREEDY,
    temperature: Annotated[
        float | None, flag(Sampling, "temperature", "Divides the scores; 0: greedy.")
    ] = None,
    top_k: Annotated[int | None, flag(Sampling, "top_k", "Keep the K best tokens.", "K")] = None,
    top_p: Annotated[float | None, flag(Sampling, "top_p", "Keep the best with this mass.", "P")] = None,
    min_p: Annotated[float | None, flag(Sampling, "min_p", "Drop below P times the best.", "P")] = None,
    typical_p: Annotated[
        float | None, flag(Sampling, "typical_p", "Keep the typical with this mass.", "P")
    ] = None,
    dynatemp_range: flags.DynatempRange = None,
    dynatemp_exponent: flags.DynatempExponent = None,
    top_n_sigma: flags.TopNSigma = None,
    epsilon_cutoff: flags.EpsilonCutoff = None,
    eta_cutoff: flags.EtaCutoff = None,
    xtc_probability: flags.XtcProbability = None,
    xtc_threshold: flags.XtcThreshold = None,
    mirostat_tau: flags.MirostatTau = None,
    mirostat_eta: flags.MirostatEta = None,
    order: flags.Order = None,
    num_beams: flags.NumBeams = None,
    length_penalty: flags.LengthPenalty = None,
    early_stopping: flags.EarlyStopping = None,
    num_return_sequences: flags.NumReturnSequences = None,
    num_beam_groups: flags.NumBeamGroups = None,
    diversity_penalty: flags.DiversityPenalty = None,
    sample: flags.Sample = False,
    penalty_alpha: flags.PenaltyAlpha = None,
    max_new_tokens: Annotated[int | None, flag(Options, "max_new_tokens", "At most N tokens.", "N")] = None,
    min_new_tokens: Annotated[int | None, flag(Options, "min_new_tokens", "No stop before N.", "N")] = None,
    stop: Annotated[
        list[str] | None, flag(Options, "stop", "End before this text (repeatable).", "TEXT")
    ] = None,
    stop_token_ids: Annotated[
        list[str] | None,
        flag(Options, "stop_token_ids", "Ids that end the text, or none.", "IDS", "the bundle's eos"),
    ] = None,
    seed: Annotated[int | None, flag(Options, "seed", "Makes sampling repeatable.", "N")] = None,
    n: Annotated[int | None, flag(Options, "n", "Sequences per prompt.", "N")] = None,
    best_of: flags.BestOf = None,
    token_healing: flags.TokenHealing = False,
    guidance_scale: flags.GuidanceScale = None,
    negative_prompt: flags.NegativePrompt = None,
    echo: Annotated[
        bool, typer.Option("--echo", help="Begin with the prompt.", rich_help_panel="Text")
    ] = False,
    repetition_penalty: Annotated[
        float | None, flag(Options, "repetition_penalty", "Against tokens of prompt and output; 1: off.")
    ] = None,
    presence_penalty: Annotated[
        float | None, flag(Options, "presence_penalty", "Subtracted once from generated tokens.")
    ] = None,
    frequency_penalty: Annotated[
        float | None, flag(Options, "frequency_penalty", "Subtracted per use of a generated token.")
    ] = None,
    no_repeat_ngram_size: Annotated[
        int | None, flag(Options, "no_repeat_ngram_size", "No N-gram comes twice; 0: off.", "N")
    ] = None,
    bad_words: Annotated[
        list[str] | None, flag(Options, "bad_words", "Exclude (repeatable).", "WORD")
    ] = None,
    logit_bias: Annotated[
        list[str] | None, flag(Options, "logit_bias", "Added to a token's score (repeatable).", "ID=X")
    ] = None,
    dry_multiplier: flags.DryMultiplier = None,
    dry_base: flags.DryBase = None,
    dry_allowed_length: flags.DryAllowedLength = None,
    dry_sequence_breakers: flags.DrySequenceBreakers = None,
    exponential_decay_length_penalty: flags.LengthDecay = None,
    forced_bos_token_id: flags.ForcedBos = None,
    forced_eos_token_id: flags.ForcedEos = None,
    suppress_tokens: flags.SuppressTokens = None,
    begin_suppress_tokens: flags.BeginSuppressTokens = None,
    sequence_bias: flags.SequenceBias = None,
    keyword: constraint_flags.KeywordFlag = None,
    keyword_boost: constraint_flags.KeywordBoost = None,
    keyword_guarantee: constraint_flags.KeywordGuarantee = None,
    forbid: constraint_flags.Forbid = None,
    forbid_whole_words: constraint_flags.ForbidWholeWords = False,
    json_schema: constraint_flags.JsonSchemaFlag = None,
    regex: constraint_flags.RegexFlag = None,
    grammar: constraint_flags.GrammarFlag = None,
    choice: constraint_flags.ChoiceFlag = None,
    prompt_lookup: flags.PromptLookup = False,
    draft: flags.Draft = None,
    num_draft_tokens: flags.NumDraftTokens = None,
    logprobs: Annotated[
        int | None, flag(Options, "logprobs", "Report with N alternatives (--json).", "N")
    ] = None,
    max_time: Annotated[float | None, flag(Options, "max_time", "Stop after X seconds.")] = None,
    max_rows: flags.MaxRows = None,
    progress: flags.ShowProgress = None,
    no_stream: Annotated[
        bool, typer.Option("--no-stream", help="Print the text when it is complete.")
    ] = False,
    as_json: AsJson = False,
    provider: ProviderOption = ProviderName.AUTO,
    threads: Threads = None,
    no_fast_prefill: NoFastPrefill = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Continue a prompt. The text goes to stdout, everything else to stderr.

    ortgpt generate "Once upon a time"

    ortgpt generate "Once upon a time" -m models/storyteller-fp32

    ortgpt generate "The king" -m DIR --strategy sample --temperature 0.8 --top-p 0.95 --seed 7

    ortgpt generate "The king" -m DIR --strategy beam --num-beams 5 --no-repeat-ngram-size 3

    ortgpt generate "The king" -m DIR --strategy contrastive --top-k 4 --penalty-alpha 0.6

    echo "The fox" | ortgpt generate -m DIR --stop "." --json

    ortgpt generate "The king" -m DIR --keyword dragon --keyword "golden key" --forbid castle

    ortgpt generate "The fox is" -m DIR --choice " sly" --choice " hungry"

    ortgpt generate "Who? " -m DIR --json-schema card.json --max-new-tokens 60

    ortgpt generate "In the wood" -m DIR --regex " (lived|slept) a [a-z]+\\."

    ortgpt generate "A fable." -m DIR --grammar verse.lark

    ortgpt generate "The king" -m DIR --prompt-lookup

    ortgpt generate "The king" -m DIR --draft SMALLER

    ortgpt generate -m DIR --prompt-file prompts.txt --json > texts.jsonl
    """
    given = dict(context.params)
    options = _options(given)
    chosen = flags.read_strategy(
        strategy.value, {name: given[name] for name in STRATEGY_FIELDS if _is_given(given[name])}
    )
    if logprobs is not None and not as_json:
        raise OptionError("logprobs", "is only shown in JSON", hint="add --json")
    prompts = _prompts(context, prompt, prompt_ids, prompt_file)
    _check_batch_flags(given)
    with contextlib.ExitStack() as stack:
        load = partial(load_model, provider=provider, threads=threads, no_fast_prefill=no_fast_prefill)
        loaded = stack.enter_context(load(model))
        if draft is not None:
            options["draft"] = stack.enter_context(load(draft, whose="the draft model: "))
        num_choices = max(options.get("n", 1), num_return_sequences or 1)
        seconds = None
        if len(prompts) == 1 and not (as_json or no_stream) and num_choices == 1 and best_of is None:
            results = [_stream(loaded, prompts[0], chosen, options)]
        else:
            show = partial(print_result, model=str(model), as_json=as_json)
            if prompt_file is not None:
                started = time.perf_counter()
                rows = BATCH_ROWS if max_rows is None else max_rows
                outcomes = loaded.iterate_batch(prompts, chosen, max_rows=rows, **options)
                has_bar = not (quiet or as_json) if progress is None else progress
                results = show_in_order(outcomes, len(prompts), show, has_bar=has_bar)
                seconds = time.perf_counter() - started
            else:
                results = [_collect(loaded, prompts[0], chosen, options)]
                show(results[0])
        if not quiet:
            print_timings(results, seconds)
    if any(choice.finish_reason == "cancelled" for result in results for choice in result.choices):
        raise typer.Exit(130)


def _options(given: dict[str, Any]) -> OptionFields:
    """The option fields that were given, checked before anything is loaded."""
    fields = {name: given[name] for name in OPTION_FIELDS if _is_given(given.get(name))}
    options = cast(OptionFields, flags.read_option_flags(fields))
    constraints = constraint_flags.read_constraints(given)
    if constraints:
        options["constraints"] = constraints
    make_options(options)
    return options


def _is_given(value: object) -> bool:
    # Not `in (None, False)`: 0 equals False, and --max-new-tokens 0 means something.
    return value is not None and value is not False and not (isinstance(value, list | tuple) and not value)


def _check_batch_flags(given: dict[str, Any]) -> None:
    max_rows, progress = given["max_rows"], given["progress"]
    if max_rows is not None:
        check_max_rows(max_rows)
    if progress and given["quiet"]:
        raise OptionError("progress", "does not go with --quiet")
    for name, is_wanted in (("max_rows", max_rows is not None), ("progress", progress)):
        if is_wanted and given["prompt_file"] is None:
            raise OptionError(name, "is for several prompts", hint="give them with --prompt-file")


def _prompts(
    context: typer.Context, prompt: str | None, prompt_ids: str | None, prompt_file: Path | None
) -> list[str | list[int]]:
    if sum(source is not None for source in (prompt, prompt_ids, prompt_file)) > 1:
        raise OptionError(
            "prompt", "can come from one place only: an argument, --prompt-ids or --prompt-file"
        )
    if prompt_ids is not None:
        return [parse_ids("prompt_ids", prompt_ids)]
    if prompt_file is not None:
        return [*read_prompt_file(prompt_file)]
    return [read_text_argument(prompt, context, "prompt")]


def _stream(model: Model, prompt: str | list[int], strategy: Strategy, options: OptionFields) -> Result:
    """Print text as it comes. Ctrl-C ends it with what has been written."""
    stream = model.stream(prompt, strategy, **options)
    try:
        for event in stream:
            if event.text:
                sys.stdout.write(event.text)
                sys.stdout.flush()
    except KeyboardInterrupt:
        stream.close()
    except OrtgptError:
        print(flush=True)  # what has been written stays, and the error gets a line of its own
        raise
    print(flush=True)
    return stream.result


def _collect(model: Model, prompt: str | list[int], strategy: Strategy, options: OptionFields) -> Result:
    """Like generate, but Ctrl-C gives what there is; with best_of there is nothing before the end."""
    if "best_of" in options:
        return model.generate(prompt, strategy, **options)
    stream = model.stream(prompt, strategy, **options)
    try:
        for _ in stream:
            pass
    except KeyboardInterrupt:
        stream.close()
    return stream.result

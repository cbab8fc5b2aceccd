"""Options of the verbs: valid with every strategy, one validator for every door."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict

from ortgpt.checks import (
    check_bool,
    check_float,
    check_int,
    check_needed,
    check_sequence,
    check_token_ids,
    shown,
)
from ortgpt.constraint_specs import ConstraintSpec
from ortgpt.errors import OptionError
from ortgpt.grammar_specs import Choice, Grammar, JSONSchema, Regex
from ortgpt.option_checks import (
    bias_name,
    check_bad_words,
    check_breakers,
    check_constraints,
    check_logit_bias,
    check_negative_prompt,
    check_processors,
    check_seed,
    check_sequence_bias,
    check_stop_strings,
)

if TYPE_CHECKING:  # the command line reads options without loading numpy
    from ortgpt.interfaces import DraftModel, Processor

MAX_NEW_TOKENS = 2**31 - 1
DRY_BASE, DRY_ALLOWED_LENGTH, DRY_SEQUENCE_BREAKERS = 1.75, 2, ("\n", ":", '"', "*")
NUM_DRAFT_TOKENS, MAX_DRAFT_TOKENS = 8, 64
MAX_SEQUENCES = 128  # of one prompt: bounds the cache that one call can ask for


class OptionFields(TypedDict, total=False):
    """Keyword arguments of generate, stream and generate_batch; see `Options`."""

    max_new_tokens: int
    min_new_tokens: int
    stop: str | Sequence[str]
    stop_token_ids: Sequence[int] | None
    seed: int | Sequence[int] | None
    n: int
    best_of: int | None
    echo: bool
    token_healing: bool
    guidance_scale: float
    negative_prompt: str | Sequence[int] | None
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    dry_multiplier: float
    dry_base: float | None
    dry_allowed_length: int | None
    dry_sequence_breakers: Sequence[str] | None
    no_repeat_ngram_size: int
    bad_words: Sequence[str | Sequence[int]]
    exponential_decay_length_penalty: tuple[int, float] | None
    forced_bos_token_id: int | None
    forced_eos_token_id: int | None
    suppress_tokens: Sequence[int]
    begin_suppress_tokens: Sequence[int]
    sequence_bias: Mapping[str | tuple[int, ...], float]
    logit_bias: Mapping[int, float]
    constraints: ConstraintSpec | Sequence[ConstraintSpec]
    processors: Sequence[Processor]
    prompt_lookup: bool
    draft: DraftModel | None
    num_draft_tokens: int | None
    logprobs: int | None
    max_time: float | None


@dataclass(frozen=True, kw_only=True)
class Options:
    """What generate, stream and generate_batch take besides prompt, strategy and seed.

    max_new_tokens        at most this many; 0 is legal
    min_new_tokens        no stop id and no stop string ends the text before
    stop                  strings that end the text and are cut from it
    stop_token_ids        ids that end the text; None: the bundle's; a list replaces them; [] never
    seed                  0 to 2**63 - 1; sequence j draws from (seed, j). None: drawn and reported.
                          A batch takes one s (prompt i draws from s + i) or a list
    n                     sequences per prompt, sharing one prefill
    best_of               draw so many sequences per prompt and return the n with the best mean raw
                          log-probability; None: n
    echo                  the text begins with the prompt
    token_healing         choose the prompt's last token anew, among those that begin with its text, so that
                          a prompt may end inside a word
    guidance_scale        classifier-free guidance: scores move away from those after the negative prompt,
                          by this factor; 1 is off (Sanchez 2023)
    negative_prompt       what to move away from; None: the prompt's last token alone
    repetition_penalty    over prompt + output (Keskar 2019); 1 is off
    presence_penalty      subtracted once from every generated id; 0 is off
    frequency_penalty     subtracted per occurrence of a generated id; 0 is off
    dry_multiplier        subtract dry_multiplier * dry_base ** (length - dry_allowed_length) from what would
                          continue a repeat of that length, over prompt + output; 0 is off (Weidmann 2024)
    dry_base              at least 1; None: 1.75
    dry_allowed_length    repeats of up to so many ids are free; None: 2
    dry_sequence_breakers  texts that a repeat does not reach back over; None: newline, colon, quotation
                          mark and asterisk
    no_repeat_ngram_size  no n-gram of prompt + output comes twice; 0 is off
    bad_words             words (both with and without a leading space) or id sequences to exclude
    exponential_decay_length_penalty  (start, factor): after `start` generated tokens a stop id's score
                          rises by |score| * (factor ** tokens since - 1)
    forced_bos_token_id   the first generated token
    forced_eos_token_id   the last one, where the text gets as long as it may
    suppress_tokens       ids that are never generated
    begin_suppress_tokens  ids that are not the first token, or the second after forced_bos_token_id
    sequence_bias         {text (both with and without a leading space) or ids: score added to the last id
                          where the ids before it have come, in prompt + output}; -inf excludes it
    logit_bias            {token id: added score}; -inf excludes the token
    constraints           what the text must hold, avoid or look like: Keywords, Forbidden, JSONSchema,
                          Regex, Grammar, ResultChoice
    processors            your own: (token_ids, logits) -> logits, after the built-in ones
    prompt_lookup         guess tokens from what the text repeats and check them in one pass (greedy and
                          sampling; the result is the same)
    draft                 a loaded smaller model with the same tokenizer that guesses tokens, checked in one
                          pass (greedy and sampling; the result is the same; Leviathan 2023)
    num_draft_tokens      at most so many guesses per pass; None: 8
    logprobs              report log-probabilities, with this many alternatives
    max_time              seconds; then the text ends with "length" and stop_reason "max_time"

    Raises OptionError when a value is out of range.
    """

    max_new_tokens: int = 100
    min_new_tokens: int = 0
    stop: str | Sequence[str] = ()
    stop_token_ids: Sequence[int] | None = None
    seed: int | Sequence[int] | None = None
    n: int = 1
    best_of: int | None = None
    echo: bool = False
    token_healing: bool = False
    guidance_scale: float = 1.0
    negative_prompt: str | Sequence[int] | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_sequence_breakers: Sequence[str] | None = None
    no_repeat_ngram_size: int = 0
    bad_words: Sequence[str | Sequence[int]] = ()
    exponential_decay_length_penalty: tuple[int, float] | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | None = None
    suppress_tokens: Sequence[int] = ()
    begin_suppress_tokens: Sequence[int] = ()
    sequence_bias: Mapping[str | tuple[int, ...], float] = field(default_factory=dict)
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    constraints: Sequence[ConstraintSpec] = ()
    processors: Sequence[Processor] = ()
    prompt_lookup: bool = False
    draft: DraftModel | None = None
    num_draft_tokens: int | None = None
    logprobs: int | None = None
    max_time: float | None = None

    def __post_init__(self) -> None:
        check_int("max_new_tokens", self.max_new_tokens, 0, MAX_NEW_TOKENS)
        check_int("min_new_tokens", self.min_new_tokens, 0, MAX_NEW_TOKENS)
        self._store("seed", check_seed(self.seed))
        check_int("n", self.n, 1, MAX_SEQUENCES)
        if self.best_of is not None:
            check_int("best_of", self.best_of, self.n, MAX_SEQUENCES)
        for name in ("echo", "token_healing", "prompt_lookup"):
            check_bool(name, getattr(self, name))
        self._check_guidance()
        self._check_drafts()
        check_float("repetition_penalty", self.repetition_penalty, 0.0, above=True)
        check_float("presence_penalty", self.presence_penalty)
        check_float("frequency_penalty", self.frequency_penalty)
        check_int("no_repeat_ngram_size", self.no_repeat_ngram_size, 0)
        if self.logprobs is not None:
            check_int("logprobs", self.logprobs, 0)
        if self.max_time is not None:
            check_float("max_time", self.max_time, 0.0)
        self._store("stop", check_stop_strings(self.stop))
        if self.stop_token_ids is not None:
            self._store("stop_token_ids", check_token_ids("stop_token_ids", self.stop_token_ids))
        self._check_dry()
        self._store("bad_words", check_bad_words(self.bad_words))
        self._store("exponential_decay_length_penalty", self._length_decay())
        self._check_forced_and_suppressed()
        self._store("sequence_bias", check_sequence_bias(self.sequence_bias))
        self._store("logit_bias", check_logit_bias(self.logit_bias))
        self._store("constraints", check_constraints(self.constraints))
        self._check_healing()
        self._store("processors", check_processors(self.processors))

    def _check_healing(self) -> None:
        for constraint in self.constraints:
            if self.token_healing and isinstance(constraint, JSONSchema | Regex | Grammar | Choice):
                name = type(constraint).__name__
                raise OptionError("token_healing", f"does not go with {name}, which is about the whole text")

    def _check_guidance(self) -> None:
        check_float("guidance_scale", self.guidance_scale, 0.0)
        if self.negative_prompt is not None:
            self._store("negative_prompt", check_negative_prompt(self.negative_prompt))
            if not self.is_guided:
                raise OptionError("negative_prompt", "has no effect without guidance_scale")

    @property
    def num_sequences(self) -> int:
        """How many are drawn per prompt; `n` of them are returned."""
        return self.n if self.best_of is None else self.best_of

    @property
    def is_guided(self) -> bool:
        """Whether scores are moved away from those after the negative prompt."""
        return self.guidance_scale != 1

    def _check_drafts(self) -> None:
        if self.draft is not None and not hasattr(self.draft, "decoder"):
            raise OptionError("draft", f"must be a loaded model, got {shown(self.draft)}")
        if self.draft is not None and self.prompt_lookup:
            raise OptionError("draft", "does not go with prompt_lookup: choose one")
        if self.num_draft_tokens is not None:
            check_int("num_draft_tokens", self.num_draft_tokens, 1, MAX_DRAFT_TOKENS)
            if not self.is_drafted:
                raise OptionError("num_draft_tokens", "has no effect without prompt_lookup or draft")

    @property
    def is_drafted(self) -> bool:
        """Whether tokens are guessed and then checked."""
        return self.prompt_lookup or self.draft is not None

    def _check_dry(self) -> None:
        check_float("dry_multiplier", self.dry_multiplier, 0.0)
        if self.dry_base is not None:
            check_float("dry_base", self.dry_base, 1.0)
        if self.dry_allowed_length is not None:
            check_int("dry_allowed_length", self.dry_allowed_length, 0)
        if self.dry_sequence_breakers is not None:
            self._store("dry_sequence_breakers", check_breakers(self.dry_sequence_breakers))
        for name in ("dry_base", "dry_allowed_length", "dry_sequence_breakers"):
            check_needed(self, name, "dry_multiplier")

    def _length_decay(self) -> tuple[int, float] | None:
        name = "exponential_decay_length_penalty"
        if self.exponential_decay_length_penalty is None:
            return None
        pair = check_sequence(name, self.exponential_decay_length_penalty)
        if len(pair) != 2:
            raise OptionError(name, f"must be a start and a factor, got {shown(pair)}")
        if self.stop_token_ids == ():
            raise OptionError(name, "has no effect without a stop id")
        return check_int(f"{name}[0]", pair[0], 0), check_float(f"{name}[1]", pair[1], 0.0, above=True)

    def _check_forced_and_suppressed(self) -> None:
        for name in ("suppress_tokens", "begin_suppress_tokens"):
            self._store(name, check_token_ids(name, getattr(self, name)))
        for name in ("forced_bos_token_id", "forced_eos_token_id"):
            token_id = getattr(self, name)
            if token_id is not None and check_int(name, token_id, 0) in self.suppress_tokens:
                raise OptionError(name, f"is among suppress_tokens: {token_id}")

    def _store(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # frozen: only here, to keep the checked copy

    def check_against(self, vocab_size: int) -> None:
        """Raise OptionError for ids and counts that this vocabulary does not have."""
        if self.stop_token_ids is not None:
            check_token_ids("stop_token_ids", self.stop_token_ids, vocab_size)
        for index, word in enumerate(self.bad_words):
            if not isinstance(word, str):
                check_token_ids(f"bad_words[{index}]", word, vocab_size)
        for name in ("suppress_tokens", "begin_suppress_tokens"):
            check_token_ids(name, getattr(self, name), vocab_size)
        for name in ("forced_bos_token_id", "forced_eos_token_id"):
            if getattr(self, name) is not None:
                check_int(name, getattr(self, name), 0, vocab_size - 1)
        for key in self.sequence_bias:
            if not isinstance(key, str):
                check_token_ids(bias_name(key), key, vocab_size)
        for token_id in self.logit_bias:
            check_int("logit_bias", token_id, 0, vocab_size - 1)
        if isinstance(self.negative_prompt, tuple):
            check_token_ids("negative_prompt", self.negative_prompt, vocab_size)
        if self.logprobs is not None:
            check_int("logprobs", self.logprobs, 0, vocab_size)


def make_options(fields: OptionFields) -> Options:
    """Options from keyword arguments; an unknown name is an OptionError, not a TypeError."""
    known = {entry.name for entry in dataclasses.fields(Options)}
    for name in fields:
        if name not in known:
            raise OptionError(name, "is not an option; the options are " + ", ".join(sorted(known)))
    return Options(**fields)  # type: ignore[arg-type]  # one constraint alone becomes a list

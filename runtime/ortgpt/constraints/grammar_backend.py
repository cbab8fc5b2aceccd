"""The one file that imports llguidance: matchers of grammars over a vocabulary.

It knows no ortgpt but the errors, because the process that tries a grammar out loads it as well and is to
start fast.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias

from ortgpt.errors import MissingExtraError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

    Matcher: TypeAlias = LLMatcher

# Masks follow the language alone; llguidance would else narrow them to one tokenisation of what is forced.
NO_FORCING = '\n%llguidance {"no_forcing": true}\n'
MAX_LEXER_STATES = 50_000  # up to 1 kB each, shared by all copies of a matcher
PROBE_STEPS = 32
_PLACE = re.compile(r"^at \d+\(\d+\): (failed to compile JSON schema: )?")


class MatcherError(Exception):
    """A grammar is wrong or too large, or its matcher has come to a limit; the text says in a line how."""

    def __init__(self, raw: str) -> None:
        first, *rest = [line.strip() for line in raw.splitlines()] or ["no reason given"]
        first = first.replace("NoExtensionBias", "no text goes on from here")
        causes = [line.removeprefix("error: ") for line in rest if line.startswith("error: ")]
        super().__init__(_PLACE.sub("", ": ".join([first.rstrip(":"), *causes]))[:400])


class _Wrapped:
    """A tokenizer as llguidance asks for it."""

    bos_token_id = None

    def __init__(self, tokens: Sequence[bytes], encode: Callable[[str], list[int]]) -> None:
        self.tokens = [*tokens, b""]
        # An end of its own: which ids stop a text is the caller's choice and not the grammar's.
        self.eos_token_id = len(tokens)
        self.special_token_ids = [len(tokens)]
        self._encode = encode

    def __call__(self, text: bytes | str) -> list[int]:
        return self._encode(text.decode("utf-8", "replace") if isinstance(text, bytes) else text)


@dataclass(frozen=True)
class Vocabulary:
    """The tokens that grammars are matched with. text_bits: bit i is set where id i stands for text."""

    native: LLTokenizer
    text_bits: int


def library_folder() -> Path:
    """Where llguidance is installed, for a process that looks nowhere else."""
    return Path(str(_library().__file__)).resolve().parents[1]


def make_vocabulary(tokens: Sequence[bytes], encode: Callable[[str], list[int]]) -> Vocabulary:
    """tokens: the bytes of each id, b"" for those that are never text. Takes about 3 us per token."""
    library = _library()
    wrapped = library.TokenizerWrapper(_Wrapped(tokens, encode))
    bits = "".join("1" if token else "0" for token in reversed(tokens))
    return Vocabulary(library.LLTokenizer(wrapped), int(bits, 2))


def byte_vocabulary() -> Vocabulary:
    """Tokens of one byte each."""
    return make_vocabulary([bytes((byte,)) for byte in range(256)], lambda text: list(text.encode()))


def pattern_as_lark(pattern: str) -> str:
    """The pattern as it stands between the slashes of a Lark grammar."""
    return str(_library().regex_to_lark(pattern, ""))


def make_matcher(vocabulary: Vocabulary, lark: str) -> Matcher:
    """Compile a grammar. Raises MatcherError where it is wrong, too large, or describes no text."""
    library = _library()
    limits = library.LLParserLimits(max_lexer_states=MAX_LEXER_STATES, verbose_errors=False)
    matcher: Matcher = library.LLMatcher(vocabulary.native, lark + NO_FORCING, log_level=0, limits=limits)
    check(matcher)
    _try_out(matcher, vocabulary)
    return matcher


def check(matcher: Matcher) -> None:
    if matcher.is_error():
        raise MatcherError(matcher.get_error())


def advanced(matcher: Matcher, token_ids: Sequence[int]) -> Matcher:
    """A copy that has taken these tokens."""
    copy = matcher.deep_copy()
    copy.consume_tokens(list(token_ids))
    check(copy)
    return copy


def allowed_tokens(matcher: Matcher) -> bytes:
    """One bit per id, set where the text may go on with it, lowest id first; one bit too many."""
    mask = matcher.compute_bitmask()
    check(matcher)
    return mask


def _try_out(matcher: Matcher, vocabulary: Vocabulary) -> None:
    """Write some tokens: what a grammar costs in its first steps is to show when it is compiled."""
    for _ in range(PROBE_STEPS):
        mask = int.from_bytes(allowed_tokens(matcher), "little") & vocabulary.text_bits
        if not mask:
            if not matcher.is_accepting():
                raise MatcherError("no text matches it")
            return
        matcher = advanced(matcher, [(mask & -mask).bit_length() - 1])


def _library() -> ModuleType:
    try:
        import llguidance
    except ImportError:
        feature = "a constraint on the form of the text"
        raise MissingExtraError(feature, "grammar", package="llguidance") from None
    return llguidance

"""Constraints as the caller gives them: frozen, checked when they are made.

What a text must hold (`Keywords`), avoid (`Forbidden`) or look like (`JSONSchema`, `Regex`, `Grammar`,
`Choice`, which are in `ortgpt.grammar_specs`). They go into the option `constraints`, with any strategy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ortgpt.checks import check_bool, check_float, check_sequence, check_text
from ortgpt.errors import OptionError
from ortgpt.grammar_specs import Choice, Grammar, JSONSchema, Regex

MAX_WORDS = 64
MAX_WORD_LENGTH = 1000  # characters


@dataclass(frozen=True)
class Keywords:
    """Every word or phrase appears in the generated text: as a whole word, in any case, in any order.

    words      words or phrases
    guarantee  hold every end back until all words are there, and write them where the tokens left only
               just suffice; False: `boost` alone, which promises nothing
    boost      added to the score of tokens that begin or continue a missing word. In beam search with
               guarantee beams that are further with the words are kept instead (Post and Vilar 2018)

    Raises OptionError for what is no word.
    """

    words: Sequence[str]
    guarantee: bool = True
    boost: float = 5.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", _checked_words("keywords", self.words))  # frozen: only here
        check_bool("guarantee", self.guarantee)
        check_float("boost", self.boost, 0.0)
        if not self.guarantee and self.boost == 0:
            raise OptionError("keywords", "have no effect without guarantee and boost")


@dataclass(frozen=True)
class Forbidden:
    """None of these words or phrases appears in the generated text, in any case, however it is tokenised.

    words        words or phrases
    whole_words  only as a whole word: "cat" leaves "category" alone; by default it does not

    Raises OptionError for what is no word.
    """

    words: Sequence[str]
    whole_words: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", _checked_words("forbidden", self.words))  # frozen: only here
        check_bool("whole_words", self.whole_words)


ConstraintSpec = Keywords | Forbidden | JSONSchema | Regex | Grammar | Choice


def _checked_words(option: str, value: object) -> tuple[str, ...]:
    """Words without the spaces around them, each once."""
    words = (value,) if isinstance(value, str) else check_sequence(option, value)
    if not 0 < len(words) <= MAX_WORDS:
        raise OptionError(option, f"must be 1 to {MAX_WORDS} words, got {len(words)}")
    checked: dict[str, None] = {}
    for index, word in enumerate(words):
        name = f"{option}[{index}]"
        stripped = check_text(name, word).strip()
        if not stripped:
            raise OptionError(name, "is empty")
        if "\ufffd" in stripped:
            raise OptionError(name, "holds U+FFFD, which stands for what is no text")
        if len(stripped) > MAX_WORD_LENGTH:
            raise OptionError(name, f"has {len(stripped)} characters, more than {MAX_WORD_LENGTH}")
        checked[stripped] = None
    return tuple(checked)

"""The token sequences that write a keyword, and what they cost."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ortgpt.constraints.text_tail import fold_case
from ortgpt.errors import OptionError
from ortgpt.interfaces import Tokenizer

Sequences = Collection[tuple[int, ...]]


@dataclass(frozen=True)
class Form:
    """One way to write a keyword.

    token_ids
    is_spaced  it begins with a space, so that it is a whole word whatever stands before
    """

    token_ids: tuple[int, ...]
    is_spaced: bool


@dataclass(frozen=True)
class Keyword:
    """A keyword, case folded, with its forms.

    boost      added to the score of tokens that write it
    is_needed  whether its coming is guaranteed
    cost       tokens that its shortest form with a space takes: so many always suffice
    """

    text: str
    forms: tuple[Form, ...]
    boost: float
    is_needed: bool

    @property
    def cost(self) -> int:
        return min(len(form.token_ids) for form in self.forms if form.is_spaced)


def make_keyword(
    word: str, tokenizer: Tokenizer, *, boost: float, is_needed: bool, excluded: Sequences, option: str
) -> Keyword:
    """Tokenise a word as given, in lower case and capitalised, with and without a leading space.

    excluded: sequences that no form may hold. Raises OptionError when no form is left.
    """
    spellings = dict.fromkeys((word, word.lower(), word[:1].upper() + word[1:]))
    forms: dict[tuple[int, ...], Form] = {}
    for spelling in spellings:
        for text in (" " + spelling, spelling):
            token_ids = tuple(tokenizer.encode(text))
            # A tokenizer that changes the text, or takes it for a special token, does not write the word.
            if fold_case(tokenizer.decode(token_ids)) == fold_case(text):
                forms.setdefault(token_ids, Form(token_ids, text.startswith(" ")))
    if not any(form.is_spaced for form in forms.values()):
        raise OptionError(option, f"can't be written with this tokenizer: {word!r}")
    allowed = tuple(form for form in forms.values() if not _holds_any(form.token_ids, excluded))
    if not any(form.is_spaced for form in allowed):
        raise OptionError(
            option,
            f"can't be written without ids that bad_words, suppress_tokens, stop_token_ids or a bias "
            f"exclude: {word!r}",
        )
    return Keyword(fold_case(word), allowed, boost, is_needed)


def _holds_any(token_ids: tuple[int, ...], sequences: Sequences) -> bool:
    return any(
        token_ids[place : place + len(sequence)] == sequence
        for sequence in sequences
        for place in range(len(token_ids) - len(sequence) + 1)
    )

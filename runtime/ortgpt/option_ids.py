"""Options that are given as text, as the token ids that the processors need."""

from __future__ import annotations

from ortgpt.interfaces import Tokenizer
from ortgpt.options import DRY_SEQUENCE_BREAKERS, Options


def bad_word_ids(options: Options, tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """Bad words as ids; a word is banned both as the text's first and after a space."""
    sequences: list[tuple[int, ...]] = []
    for word in options.bad_words:
        sequences += _forms(word, tokenizer) if isinstance(word, str) else [tuple(word)]
    return list(dict.fromkeys(sequences))


def sequence_biases(options: Options, tokenizer: Tokenizer) -> dict[tuple[int, ...], float]:
    """Biases by ids; a text has one both as the text's first and after a space. The same ids add up."""
    biases: dict[tuple[int, ...], float] = {}
    for key, bias in options.sequence_bias.items():
        for sequence in _forms(key, tokenizer) if isinstance(key, str) else [key]:
            biases[sequence] = biases.get(sequence, 0.0) + bias
    return biases


def breaker_ids(options: Options, tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """The tokens and token sequences in which a breaker of DRY can come, as in llama.cpp.

    A token that holds the breaker is one by itself. One that ends with its beginning is one before
    the tokens of the rest.
    """
    if options.dry_multiplier == 0:
        return []
    given = options.dry_sequence_breakers
    breakers = [text.encode() for text in (DRY_SEQUENCE_BREAKERS if given is None else given)]
    table = [tokenizer.token_bytes(token_id) for token_id in range(tokenizer.size)]
    found: dict[tuple[int, ...], None] = {}
    for breaker in breakers:
        rests: dict[int, list[tuple[int, ...]]] = {}  # by how much of the breaker has come
        for token_id, token in enumerate(table):
            if breaker in token:
                found[(token_id,)] = None
            elif breaker[0] in token:
                for length in range(1, min(len(breaker), len(token) + 1)):
                    if token.endswith(breaker[:length]):
                        if length not in rests:
                            rests[length] = _spellings(breaker[length:], table, tokenizer)
                        found.update({(token_id, *rest): None for rest in rests[length]})
    return list(found)


def _spellings(rest: bytes, table: list[bytes], tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """The tokens of what is left of a breaker; half a character has none, but may be one token."""
    try:
        return [tuple(tokenizer.encode(rest.decode()))]
    except UnicodeDecodeError:
        return [(token_id,) for token_id, token in enumerate(table) if token == rest]


def _forms(text: str, tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """As a text's beginning and after a space."""
    forms = (text, " " + text.lstrip())
    return list(dict.fromkeys(tuple(tokenizer.encode(form)) for form in forms))

"""Masks and ends of a grammar, against an enumeration of its language."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pytest

from ortgpt import Choice, ConstraintError, Grammar, JSONSchema, Regex
from ortgpt.constraints import grammar_backend
from ortgpt.constraints.grammar import GrammarConstraint, bind
from ortgpt.constraints.grammar_compiler import GrammarCompiler
from ortgpt.constraints.grammar_source import GrammarSpec
from ortgpt.interfaces import Floats, Ids, Tokenizer
from ortgpt.testing import END_OF_TEXT_ID, ByteTokenizer
from ortgpt.text.tokenizer import TextTokenizer, load_tokenizer

VOCAB = 260  # three ids more than the tokenizer has
STOP = END_OF_TEXT_ID
WORDS = [
    "fox",
    "fond of foxes",
    "the king",
    "the kingdom",
    "the queen",
    "né",
    "日本",
    "🙂",
    "a\nb",
    '"\\/',
    "\x00",
]

BYTES = ByteTokenizer()
COMPILER = GrammarCompiler(BYTES, VOCAB)


@pytest.fixture(scope="module")
def tokenizer(storyteller: Path) -> TextTokenizer:
    return load_tokenizer((storyteller / "tokenizer.json").read_bytes())


def constraint(spec: GrammarSpec, stops: Sequence[int] = (STOP,)) -> GrammarConstraint:
    return bind(COMPILER.compile(spec), stops)


def ids_of(text: str | bytes) -> Ids:
    return np.array(list(text.encode() if isinstance(text, str) else text), np.int64)


def scores(vocab: int = VOCAB, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(vocab).astype(np.float32)


def allowed(bound: GrammarConstraint, generated: Ids, vocab: int = VOCAB) -> set[int]:
    return set(np.flatnonzero(np.isfinite(bound.apply(generated, scores(vocab)))).tolist())


def expected(
    language: Collection[bytes], begun: bytes, tokenizer: Tokenizer, stops: Sequence[int] = (STOP,)
) -> set[int]:
    """The obvious way: an id is allowed where some text of the language goes on with its bytes."""
    rest = [text[len(begun) :] for text in language if text.startswith(begun)]
    ids = {
        token_id
        for token_id in range(tokenizer.size)
        if token_id not in stops
        and (token := tokenizer.token_bytes(token_id))
        and any(text.startswith(token) for text in rest)
    }
    return ids | (set(stops) if begun in language else set())


def beginnings(language: Collection[bytes]) -> list[bytes]:
    return sorted({text[:length] for text in language for length in range(len(text) + 1)})


CHOICE_LANGUAGE = [word.encode() for word in WORDS]
PATTERNS = ["a[bc]+", "(ab|a)(c|bc)?", "a*b{1,2}c?", "(a|b)?(b|c){2}", "[^a]b*", "((a|b)(a|b))*c"]


def language_of(pattern: str, longest: int = 7) -> set[bytes]:
    """All texts over a, b, c of up to `longest` characters that Python's own engine matches."""
    return {
        bytes(text)
        for length in range(longest + 1)
        for text in itertools.product(b"abc", repeat=length)
        if re.fullmatch(pattern, bytes(text).decode())
    }


def test_a_choice_allows_what_one_of_its_texts_goes_on_with() -> None:
    bound = constraint(Choice(WORDS))
    for begun in beginnings(CHOICE_LANGUAGE):
        if (wanted := expected(CHOICE_LANGUAGE, begun, BYTES)) - {STOP}:
            assert allowed(bound, ids_of(begun)) == wanted, begun


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_allows_what_some_match_goes_on_with(pattern: str) -> None:
    bound, language = constraint(Regex(pattern)), language_of(pattern)
    for begun in beginnings(language):
        if len(begun) <= 3:  # so that every match has a short one behind it
            got = {i for i in allowed(bound, ids_of(begun)) if i in (*b"abc", STOP)}
            assert got == expected(language, begun, BYTES), begun


def test_tokens_of_many_bytes_are_allowed_in_every_tokenisation(tokenizer: TextTokenizer) -> None:
    compiler = GrammarCompiler(tokenizer, tokenizer.size + 8)
    (special,) = tokenizer.special_ids
    for spec in (
        Choice(WORDS),
        Grammar("start: " + " | ".join(f"R{i}" for i in range(2)) + _as_rules(WORDS)),
    ):
        bound = bind(compiler.compile(spec), [special])
        for text in CHOICE_LANGUAGE:
            ids = tokenizer.encode(text.decode())
            for length in range(len(ids)):
                begun = b"".join(map(tokenizer.token_bytes, ids[:length]))
                got = allowed(bound, np.array(ids[:length], np.int64), tokenizer.size + 8)
                assert got == expected(CHOICE_LANGUAGE, begun, tokenizer, [special]), begun


def _as_rules(words: list[str]) -> str:
    """The same language as a grammar of two terminals."""
    quoted = ['"' + "".join(f"\\u{unit:04x}" for unit in _utf16(word)) + '"' for word in words]
    return f"\nR0: {' | '.join(quoted[::2])}\nR1: {' | '.join(quoted[1::2])}"


def _utf16(word: str) -> list[int]:
    return np.frombuffer(word.encode("utf-16-le"), "<u2").tolist()


def test_what_is_forced_may_be_written_in_any_tokens(tokenizer: TextTokenizer) -> None:
    bound = bind(GrammarCompiler(tokenizer, tokenizer.size).compile(Regex("the king")), [0])
    texts = {tokenizer.token_bytes(i) for i in allowed(bound, ids_of(""), tokenizer.size)}
    assert {b"t", b"th", b"the"} <= texts


@pytest.mark.parametrize("spec", [Choice(WORDS), Regex("(a|b)*c"), JSONSchema({"type": "integer"})], ids=str)
def test_scores_are_kept_or_excluded_and_the_input_is_left_alone(spec: GrammarSpec) -> None:
    bound, given = constraint(spec), scores()
    given.flags.writeable = False
    result = bound.apply(ids_of(""), given)
    assert result.dtype == np.float32
    assert result.shape == (VOCAB,)
    kept = np.isfinite(result)
    assert 0 < kept.sum() < VOCAB
    np.testing.assert_array_equal(result[kept], given[kept])
    assert (result[~kept] == -np.inf).all()
    assert not np.shares_memory(result, given)


def test_padding_and_special_tokens_are_never_text() -> None:
    bound = constraint(Regex("(.|\n)*"), stops=[])
    result = allowed(bound, ids_of("a"))
    assert result <= set(range(256))
    assert {*b"a \n~"} <= result


def test_stop_ids_are_allowed_exactly_where_the_text_matches() -> None:
    bound = constraint(Regex("ab?c?"), stops=[STOP, ord("c"), 5])
    assert allowed(bound, ids_of("")) == {ord("a")}
    assert allowed(bound, ids_of("a")) == {ord("b"), STOP, ord("c"), 5}  # c as a stop, not as text
    assert not bound.may_end(ids_of(""))
    assert bound.may_end(ids_of("a"))


def test_a_stop_id_that_stands_for_text_is_no_text_where_the_text_may_not_end() -> None:
    bound = constraint(Regex("(ab|b)c"), stops=[ord("a")])
    assert allowed(bound, ids_of("")) == {ord("b")}


def test_nothing_follows_a_stop_id() -> None:
    bound = constraint(Regex("ab?"))
    ended = np.append(ids_of("a"), STOP)
    assert bound.may_end(ended)
    assert bound.is_complete(ended)
    assert not bound.fits(ended, [ord("b")])
    with pytest.raises(ConstraintError):
        bound.may_end(np.append(ended, ord("b")))


@pytest.mark.parametrize(
    ("spec", "text", "is_accepted", "is_complete"),
    [
        (Choice(["fox", "foxes"]), "fo", False, False),
        (Choice(["fox", "foxes"]), "fox", True, False),
        (Choice(["fox", "foxes"]), "foxes", True, True),
        (Regex("a{2,3}"), "aa", True, False),
        (Regex("a{2,3}"), "aaa", True, True),
        (Regex("a*"), "", True, False),
        (JSONSchema({"type": "object", "properties": {}, "additionalProperties": False}), "{}", True, True),
        (JSONSchema({"type": "integer"}), "1", True, False),
        (JSONSchema({"type": "string"}), '"a"', True, True),
        (Grammar('start: ""'), "", True, True),
        (Grammar('start: "a"+'), "aa", True, False),
    ],
    ids=str,
)
def test_a_text_is_complete_where_it_matches_and_no_longer_one_does(
    spec: GrammarSpec, text: str, is_accepted: bool, is_complete: bool
) -> None:
    bound = constraint(spec)
    assert bound.may_end(ids_of(text)) == is_accepted
    assert bound.is_complete(ids_of(text)) is is_complete


def test_a_state_is_the_same_in_any_order_of_calls() -> None:
    spec = JSONSchema({"type": "array", "items": {"enum": ["ab", "ac", 12, None]}, "maxItems": 4})
    texts = [b'["ab",12,null', b'["ac"', b"[12,12,12,12]", b'[null,"ab","ac"]', b"[]"]
    histories = [ids_of(text[:length]) for text in texts for length in range(len(text) + 1)]
    wanted = [_everything(constraint(spec), ids) for ids in histories]  # each from the start
    bound = constraint(spec)
    rng = np.random.default_rng(0)
    for index in rng.integers(len(histories), size=400):
        assert _everything(bound, histories[index]) == wanted[index]


def test_a_forgotten_state_is_made_again() -> None:
    bound = constraint(Regex("[abc]+d"))
    rng = np.random.default_rng(0)
    histories = [rng.choice([*b"abc"], 30) for _ in range(300)]  # more than are remembered
    assert all(bound.fits(ids, [*b"ad"]) for _ in range(2) for ids in histories)


def _everything(bound: GrammarConstraint, ids: Ids) -> tuple[object, ...]:
    try:
        mask = bound.apply(ids, scores()).tobytes()
    except ConstraintError as error:
        mask = str(error).encode()
    return mask, bound.may_end(ids), bound.is_complete(ids), bound.fits(ids, [*b",12"])


@pytest.mark.parametrize("pattern", PATTERNS)
def test_fits_agrees_with_the_masks_token_by_token(pattern: str) -> None:
    bound = constraint(Regex(pattern))
    begun = beginnings(language_of(pattern, 3))
    for start, text in itertools.product(begun[:8], itertools.product((*b"abc", STOP), repeat=2)):
        steps = [*ids_of(start).tolist(), *text]
        by_masks = all(
            STOP not in steps[:place] and steps[place] in _allowed_or_none(bound, steps[:place])
            for place in range(len(start), len(steps))
        )
        assert bound.fits(ids_of(start), text) is by_masks, (start, text)


def _allowed_or_none(bound: GrammarConstraint, ids: list[int]) -> set[int]:
    try:
        return allowed(bound, np.array(ids, np.int64))
    except ConstraintError:
        return set()


def test_fits_refuses_padding_and_special_tokens() -> None:
    bound = constraint(Regex(".*"), stops=[])
    assert bound.fits(ids_of(""), [])
    assert bound.fits(ids_of(""), [*b"ab"])
    assert not bound.fits(ids_of(""), [END_OF_TEXT_ID])
    assert not bound.fits(ids_of(""), [257])
    assert not bound.fits(ids_of(""), [-1])


def test_a_dead_end_is_a_constraint_error() -> None:
    """FAULTS 41"""
    bound = constraint(Regex("ab"), stops=[])
    with pytest.raises(ConstraintError, match="is complete"):
        bound.apply(ids_of("ab"), scores())
    without_b = constraint(Regex("a[bc]"), stops=[*b"bc"])  # as stops they are no text
    with pytest.raises(ConstraintError, match="no token continues the text"):
        without_b.apply(ids_of("a"), scores())


def test_a_complete_text_leaves_the_stop_ids_alone() -> None:
    """FAULTS 41"""
    assert allowed(constraint(Regex("ab")), ids_of("ab")) == {STOP}


@pytest.mark.parametrize(
    "ids", [ids_of("x"), ids_of("abb"), np.array([END_OF_TEXT_ID]), np.array([300])], ids=str
)
def test_ids_outside_the_grammar_are_a_constraint_error(ids: Ids) -> None:
    bound = constraint(Regex("ab"), stops=[])
    for ask in (bound.may_end, bound.is_complete, lambda one: bound.apply(one, scores())):
        with pytest.raises(ConstraintError):
            ask(ids)


def test_a_step_beyond_the_backends_limits_is_a_constraint_error() -> None:
    many = {"type": "object", "properties": {f"p{i}": {} for i in range(1100)}}
    bound = constraint(Grammar(f'start: "a"{{40}} ("b" | wide)\nwide: %json {json.dumps(many)}'))
    assert allowed(bound, ids_of("a" * 40)) == {*b"b{"}
    with pytest.raises(ConstraintError, match=r"can't be continued.* items"):
        bound.apply(ids_of("a" * 40 + "{"), scores())


def test_states_that_others_have_used_up_are_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lexer's states are shared by all texts of a grammar: one text must not spoil those after it."""
    monkeypatch.setattr(grammar_backend, "MAX_LEXER_STATES", 2500)
    compiled = GrammarCompiler(BYTES, VOCAB).compile(Regex("(a|b)*a(a|b){40}c"))
    rng = np.random.default_rng(0)
    roots = [compiled.root]
    for _ in range(12):  # of about 580 states each
        bound = bind(compiled, [STOP])
        ids = rng.choice([*b"ab"], 600)
        assert bound.fits(ids[:1], ids[1:].tolist())
        assert {*b"ab"} <= allowed(bound, ids)
        assert not bound.fits(ids, [*b"abd"])
        roots += [compiled.root] if compiled.root is not roots[-1] else []
    assert len(roots) > 1


def test_a_long_history_is_made_again_in_small_steps() -> None:
    """The backend bounds what it does from one mask to the next, so one large step can fail."""
    bound = bind(GrammarCompiler(BYTES, VOCAB).compile(Regex("(a|b)*a(a|b){40}c")), [STOP])
    ids = np.random.default_rng(1).choice([*b"ab"], 6000)
    assert {*b"ab"} <= allowed(bound, ids)


def test_multiples_of_a_large_number_are_followed() -> None:
    bound = constraint(JSONSchema({"type": "integer", "multipleOf": 9973}))
    for number in (0, 9973, 9973 * 12345, 9974, 5):
        fits = bound.fits(ids_of(""), [*str(number).encode(), STOP])
        assert fits is (number % 9973 == 0)

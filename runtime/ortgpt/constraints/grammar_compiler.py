"""Compiles constraints on form for one vocabulary, under supervision, and keeps the latest."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from ortgpt.constraints.grammar_backend import MatcherError, Vocabulary, make_matcher, make_vocabulary
from ortgpt.constraints.grammar_check import check_in_child
from ortgpt.constraints.grammar_source import GrammarSpec, is_plain, lark_of, option_of
from ortgpt.errors import OptionError
from ortgpt.interfaces import Tokenizer

if TYPE_CHECKING:
    from ortgpt.constraints.grammar_backend import Matcher

T = TypeVar("T")

MAX_COMPILED = 32
STACK_BYTES = 64 << 20
_stack_lock = threading.Lock()  # the size of new threads' stacks belongs to the whole process


class CompiledGrammar:
    """A grammar for one vocabulary. Any number of constraints share it, in any threads.

    is_text    bool (tokenizer size,): the ids that stand for text
    tokenizer  of the vocabulary
    """

    def __init__(self, make: Callable[[], Matcher], is_text: NDArray[np.bool_], tokenizer: Tokenizer) -> None:
        self.is_text, self.tokenizer = is_text, tokenizer
        self._make = make
        self._root = make()

    @property
    def root(self) -> Matcher:
        """The matcher before any token, to be copied and not to be moved."""
        return self._root

    def renew(self, spent: Matcher) -> None:
        """Compile anew in place of a root whose lexer, which its copies share, has come to its limit."""
        if self._root is spent:
            self._root = self._make()


class GrammarCompiler:
    """Compiles specs for one tokenizer. Thread-safe; keeps the 32 grammars used last, in memory alone.

    tokenizer   its ids 0 .. size - 1 are those that a text can have
    vocab_size  of the model; ids from the tokenizer's size on are never text
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self._tokenizer = tokenizer
        self._vocabulary: tuple[Vocabulary, NDArray[np.bool_]] | None = None
        self._compiled: OrderedDict[GrammarSpec, CompiledGrammar] = OrderedDict()
        self._lock = threading.Lock()

    def compile(self, spec: GrammarSpec) -> CompiledGrammar:
        """The grammar of a spec; a child process tries out first what is not plainly harmless.

        Raises OptionError, named after the kind of spec, where it is wrong, describes no text or costs too
        much; OrtgptError where no child can be started; MissingExtraError without llguidance.
        """
        with self._lock:
            known = self._compiled.get(spec)
            if known is not None:
                self._compiled.move_to_end(spec)
                return known
            vocabulary, is_text = self._vocabulary = self._vocabulary or self._make_vocabulary()
        option, lark = option_of(spec), lark_of(spec)
        if not is_plain(spec):
            check_in_child(option, lark)
        try:
            compiled = CompiledGrammar(
                lambda: on_large_stack(lambda: make_matcher(vocabulary, lark)), is_text, self._tokenizer
            )
        except MatcherError as error:
            raise OptionError(option, f"can't be followed: {error}") from None
        with self._lock:
            self._compiled[spec] = compiled
            if len(self._compiled) > MAX_COMPILED:
                self._compiled.popitem(last=False)
        return compiled

    def _make_vocabulary(self) -> tuple[Vocabulary, NDArray[np.bool_]]:
        special = self._tokenizer.special_ids
        tokens = [
            b"" if token_id in special else self._tokenizer.token_bytes(token_id)
            for token_id in range(self._tokenizer.size)
        ]
        is_text = np.array([bool(token) for token in tokens])
        return make_vocabulary(tokens, self._tokenizer.encode), is_text


def on_large_stack(work: Callable[[], T]) -> T:
    """The result of `work`, which a thread with room for deep recursion has done."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="ortgpt-grammar", daemon=True)
    with _stack_lock:
        before = threading.stack_size(STACK_BYTES)
        try:
            thread.start()
        finally:
            threading.stack_size(before)
    thread.join()
    if errors:
        raise errors[0]
    return results[0]

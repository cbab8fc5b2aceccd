"""From the constraints that the caller gave to one that is bound to a sequence."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

from ortgpt.constraint_specs import ConstraintSpec, Forbidden, Keywords
from ortgpt.constraints.combined import AllOf
from ortgpt.constraints.forbidden import ForbiddenWords
from ortgpt.constraints.grammar import bind as bind_grammar
from ortgpt.constraints.grammar_compiler import GrammarCompiler
from ortgpt.constraints.grammar_source import GrammarSpec
from ortgpt.constraints.keyword_forms import Keyword, make_keyword
from ortgpt.constraints.keywords import KeywordTask
from ortgpt.constraints.text_tail import fold_case, holds_word
from ortgpt.constraints.vocabulary import Vocabulary
from ortgpt.errors import OptionError
from ortgpt.interfaces import Constraint, Ids, Tokenizer


@dataclass(frozen=True)
class Sequel:
    """What constraints need to know of the output that they are bound to.

    prompt_ids       ids before it
    before           the end of the prompt's text
    healed           bytes that the output's text begins with, before any token of its own
    budget           tokens that may be generated
    stop_token_ids   ids that end it
    excluded         id sequences that other options exclude
    bad_words        texts that other options exclude
    is_first_forced  whether another option chooses the first token
    uses_banks       whether the search keeps beams by how far they are with the keywords
    """

    prompt_ids: tuple[int, ...]
    before: str
    healed: bytes
    budget: int
    stop_token_ids: tuple[int, ...]
    excluded: tuple[tuple[int, ...], ...] = ()
    bad_words: tuple[str, ...] = ()
    is_first_forced: bool = False
    uses_banks: bool = False


class ConstraintBinder:
    """Binds constraints for one tokenizer; what can be shared is made once, when it is first needed."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._tokenizer, self._vocab_size = tokenizer, vocab_size

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(self._tokenizer)

    @cached_property
    def grammars(self) -> GrammarCompiler:
        return GrammarCompiler(self._tokenizer, self._vocab_size)

    def bind(self, specs: Sequence[ConstraintSpec], sequel: Sequel) -> AllOf | None:
        """One constraint for all of them; None where there are none.

        Raises OptionError where keywords contradict other options or need more tokens than there are.
        """
        if not specs:
            return None
        others: list[Constraint] = []
        forbidden = self._forbidden_words(specs)
        if forbidden:
            others.append(
                ForbiddenWords(forbidden, self.vocabulary, before=sequel.before, healed=sequel.healed)
            )
        forms = [spec for spec in specs if isinstance(spec, GrammarSpec)]
        others += [bind_grammar(self.grammars.compile(spec), sequel.stop_token_ids) for spec in forms]
        keywords = self._keywords(specs, sequel, forbidden)
        task = self._task(keywords, others, sequel, has_form=bool(forms)) if keywords else None
        return AllOf(others, task)

    def healing_rule(self, specs: Sequence[ConstraintSpec], before: str) -> Callable[[bytes], bool]:
        """Whether bytes may come behind a prompt that ends so, before any token of the output."""
        forbidden = self._forbidden_words(specs)
        if not forbidden:
            return lambda data: True
        return ForbiddenWords(forbidden, self.vocabulary, before=before).admits

    def _forbidden_words(self, specs: Sequence[ConstraintSpec]) -> list[tuple[str, bool]]:
        return [
            (word, spec.whole_words) for spec in specs if isinstance(spec, Forbidden) for word in spec.words
        ]

    def _keywords(
        self, specs: Sequence[ConstraintSpec], sequel: Sequel, forbidden: Sequence[tuple[str, bool]]
    ) -> list[Keyword]:
        """Each word once, whatever its case; needed if any of the constraints needs it."""
        chosen: dict[str, tuple[str, str, float, bool]] = {}
        for spec in specs:
            if not isinstance(spec, Keywords):
                continue
            for index, word in enumerate(spec.words):
                option = f"keywords[{index}]"
                _check_free_of(option, word, forbidden, "is forbidden")
                bad_words = [(bad, True) for bad in sequel.bad_words]
                _check_free_of(option, word, bad_words, "is among bad_words")
                _, _, boost, is_needed = chosen.get(fold_case(word), (option, word, 0.0, False))
                chosen[fold_case(word)] = (option, word, max(boost, spec.boost), is_needed or spec.guarantee)
        return [
            make_keyword(
                word,
                self._tokenizer,
                boost=boost,
                is_needed=is_needed,
                excluded=sequel.excluded,
                option=option,
            )
            for option, word, boost, is_needed in chosen.values()
        ]

    def _task(
        self, keywords: Sequence[Keyword], others: Sequence[Constraint], sequel: Sequel, *, has_form: bool
    ) -> KeywordTask:
        reach = max(map(len, sequel.excluded), default=1) - 1  # ids back that a sequence can begin

        def admits(generated: Ids, token_ids: Sequence[int]) -> bool:
            tail = generated[max(0, len(generated) - reach) :].tolist()
            past = (*sequel.prompt_ids[max(0, len(sequel.prompt_ids) - reach) :], *tail)
            return leaves_out(sequel.excluded, past, token_ids) and all(
                other.fits(generated, token_ids) for other in others
            )

        task = KeywordTask(
            keywords,
            self.vocabulary,
            budget=sequel.budget,
            stop_token_ids=sequel.stop_token_ids,
            before=sequel.before,
            healed=sequel.healed,
            others=admits,
            has_others=bool(others or sequel.excluded),
            has_form=has_form,
            is_boosted=not sequel.uses_banks,
            is_first_forced=sequel.is_first_forced,
        )
        if task.required > sequel.budget:
            raise OptionError(
                "keywords",
                f"need {task.required} tokens, {max(0, sequel.budget)} can be generated",
                hint="raise max_new_tokens, shorten the prompt, or ask for fewer keywords",
            )
        return task


def _check_free_of(option: str, word: str, others: Sequence[tuple[str, bool]], why: str) -> None:
    for other, is_whole in others:
        if other and holds_word(fold_case(word), fold_case(other), is_whole=is_whole):
            raise OptionError(option, f"{word!r} holds {other!r}, which {why}")


def leaves_out(excluded: Collection[tuple[int, ...]], past: Sequence[int], token_ids: Sequence[int]) -> bool:
    """Whether no excluded sequence is completed by these ids, which follow `past`."""
    if not excluded:
        return True
    reach = max(map(len, excluded)) - 1
    before = tuple(past[len(past) - min(reach, len(past)) :])
    ids = (*before, *token_ids)
    return not any(
        ids[place : place + len(sequence)] == sequence
        for sequence in excluded
        for place in range(max(0, len(before) - len(sequence) + 1), len(ids) - len(sequence) + 1)
    )

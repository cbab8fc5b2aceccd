"""Checks of single options: each returns a checked copy of a value from outside, or raises `OptionError`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ortgpt.checks import check_float, check_int, check_sequence, check_text, check_token_ids, shown
from ortgpt.constraint_specs import ConstraintSpec
from ortgpt.errors import OptionError

if TYPE_CHECKING:  # the command line reads options without loading numpy
    from ortgpt.interfaces import Processor

BATCH_ROWS, MAX_BATCH_ROWS = 32, 1024  # that run at once: unless told otherwise, and at most
MAX_SEED = 2**63 - 1


def check_seed(value: object) -> int | tuple[int, ...] | None:
    if value is None:
        return None
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return tuple(check_int(f"seed[{i}]", item, 0, MAX_SEED) for i, item in enumerate(value))
    return check_int("seed", value, 0, MAX_SEED)


def check_stop_strings(value: object) -> tuple[str, ...]:
    stops = (value,) if isinstance(value, str) else check_sequence("stop", value)
    for index, stop in enumerate(stops):
        if not check_text(f"stop[{index}]", stop):
            raise OptionError(f"stop[{index}]", "is empty: it would end every text at once")
    return stops


def check_bad_words(value: object) -> tuple[str | tuple[int, ...], ...]:
    words: list[str | tuple[int, ...]] = []
    for index, word in enumerate(check_sequence("bad_words", value)):
        name = f"bad_words[{index}]"
        checked = check_text(name, word) if isinstance(word, str) else check_token_ids(name, word)
        if not checked:
            raise OptionError(name, "is empty")
        words.append(checked)
    return tuple(words)


def check_breakers(value: object) -> tuple[str, ...]:
    breakers = check_sequence("dry_sequence_breakers", value)
    for index, breaker in enumerate(breakers):
        name = f"dry_sequence_breakers[{index}]"
        if not check_text(name, breaker):
            raise OptionError(name, "is empty")
    return breakers


def check_sequence_bias(value: object) -> Mapping[str | tuple[int, ...], float]:
    if not isinstance(value, Mapping):
        raise OptionError("sequence_bias", f"must map texts or ids to numbers, got {shown(value)}")
    checked: dict[str | tuple[int, ...], float] = {}
    for key, bias in value.items():
        name = bias_name(key)
        sequence = check_text(name, key) if isinstance(key, str) else check_token_ids(name, key)
        if not sequence:
            raise OptionError(name, "is empty")
        checked[sequence] = check_bias(name, bias)
    return checked


def bias_name(key: object) -> str:
    return f"sequence_bias[{shown(key)}]"


def check_logit_bias(value: object) -> Mapping[int, float]:
    if not isinstance(value, Mapping):
        raise OptionError("logit_bias", f"must map token ids to numbers, got {shown(value)}")
    checked: dict[int, float] = {}
    for key, bias in value.items():
        token_id = check_int("logit_bias", key, 0)
        checked[token_id] = check_bias(f"logit_bias[{token_id}]", bias)
    return checked


def check_bias(name: str, value: object) -> float:
    """A finite number, or -inf."""
    return value if isinstance(value, float) and value == -float("inf") else check_float(name, value)


def check_processors(value: object) -> tuple[Processor, ...]:
    processors = check_sequence("processors", value)
    for index, processor in enumerate(processors):
        if not callable(processor):
            raise OptionError(f"processors[{index}]", f"must be callable, got {shown(processor)}")
    return processors


def check_constraints(value: object) -> tuple[ConstraintSpec, ...]:
    constraints = (value,) if isinstance(value, ConstraintSpec) else check_sequence("constraints", value)
    for index, constraint in enumerate(constraints):
        if not isinstance(constraint, ConstraintSpec):
            raise OptionError(
                f"constraints[{index}]", f"must be a constraint such as Keywords, got {shown(constraint)}"
            )
    return constraints


def check_negative_prompt(value: object) -> str | tuple[int, ...]:
    return (
        check_text("negative_prompt", value)
        if isinstance(value, str)
        else check_token_ids("negative_prompt", value)
    )


def check_max_rows(value: object) -> int:
    return check_int("max_rows", value, 1, MAX_BATCH_ROWS)

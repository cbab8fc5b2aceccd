"""Range checks for values from outside: each returns the value or raises an `OptionError`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from ortgpt.errors import OptionError


def shown(value: object, limit: int = 60) -> str:
    """Repr of a value from outside, cut to `limit` characters for use in a message."""
    try:
        text = repr(value)
    except Exception:  # a foreign __repr__, or an int too long to print, must not hide the error
        text = f"<{type(value).__name__}>"
    return text if len(text) <= limit else text[: limit - 1] + "…"


def check_int(option: str, value: object, low: int, high: int | None = None) -> int:
    """An integer (numpy's too, bool not) in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise OptionError(option, f"must be an integer, got {shown(value)}")
    number = int(value)
    if number < low or (high is not None and number > high):
        span = f"at least {low}" if high is None else f"between {low} and {high}"
        raise OptionError(option, f"must be {span}, got {shown(value)}")
    return number


def check_float(
    option: str,
    value: object,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: bool = False,
) -> float:
    """A finite number in [low, high], or in (low, high] with `above`."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise OptionError(option, f"must be a number, got {shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise OptionError(option, f"must be a finite number, got {shown(value)}")
    if number < low or number > high or (above and number == low):
        bounds = [f"{'above' if above else 'at least'} {low:g}"] if low > -math.inf else []
        bounds += [f"at most {high:g}"] if high < math.inf else []
        raise OptionError(option, f"must be {' and '.join(bounds)}, got {shown(value)}")
    return number


def check_bool(option: str, value: object) -> None:
    if not isinstance(value, bool):
        raise OptionError(option, f"must be True or False, got {shown(value)}")


def check_token_ids(option: str, value: object, vocab_size: int | None = None) -> tuple[int, ...]:
    """A sequence of token ids, each below `vocab_size` where that is known."""
    if isinstance(value, str | bytes) or (not isinstance(value, Sequence) and not hasattr(value, "tolist")):
        raise OptionError(option, f"must be a sequence of token ids, got {shown(value)}")
    items = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(items, Sequence):
        raise OptionError(option, f"must be a sequence of token ids, got {shown(value)}")
    high = None if vocab_size is None else vocab_size - 1
    return tuple(check_int(f"{option}[{i}]", item, 0, high) for i, item in enumerate(items))


def check_text(option: str, value: object) -> str:
    """A string that can be written as UTF-8 (no lone surrogates)."""
    if not isinstance(value, str):
        raise OptionError(option, f"must be a string, got {shown(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise OptionError(
            option, f"holds a lone surrogate at character {error.start}, which is not text"
        ) from None
    return value


def check_sequence(option: str, value: Any) -> tuple[Any, ...]:
    """A list or tuple of anything, as a tuple; no string."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence):
        raise OptionError(option, f"must be a list, got {shown(value)}")
    return tuple(value)


def check_needed(options: object, option: str, switch: str) -> None:
    """`option`, where it is not None, has no effect unless `switch` is on."""
    if getattr(options, option) is not None and not getattr(options, switch):
        raise OptionError(option, f"has no effect without {switch}")

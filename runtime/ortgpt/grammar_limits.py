"""How large patterns and grammars may be, and where that can be seen without compiling them.

What passes here can still be costly; `ortgpt.constraints.grammar_check` sees to that.
"""

from __future__ import annotations

import json
import re
from typing import Any

from ortgpt.checks import check_text, shown
from ortgpt.errors import OptionError

MAX_PATTERN_LENGTH = 8 * 1024  # characters
MAX_GRAMMAR_LENGTH = 64 * 1024  # characters
MAX_NESTING = 64  # groups inside groups
MAX_ALTERNATIVES = 2048
MAX_REPETITION = 1000  # of one {m,n}
MAX_REPETITIONS = 100_000  # of nested ones, multiplied

_LOOKAROUND = ("(?=", "(?!", "(?<=", "(?<!")
_BRACED_ESCAPE = re.compile(r"\\[pPxuUN]\{[^}]*\}")
_BOUNDS = re.compile(r"\{\s*(\d*)\s*(?:,\s*(\d*)\s*)?\}")
_LARK = re.compile(
    r"""(?P<comment>(?://|\#)[^\n]*)
      | (?P<text>"(?:\\.|[^"\\])*")
      | /(?P<pattern>(?:\\.|[^/\\])+)/
      | %(?P<block>json|regex|llguidance)\s*(?=\{)
      | (?P<token><[^<>\s]+>)
      | (?P<range>~\s*\d+(?:\s*\.\.\s*\d+)?)
      | (?P<bounds>\{\s*\d*\s*(?:,\s*\d*\s*)?\})
      | (?P<mark>[][(){}|])""",
    re.VERBOSE | re.DOTALL,
)


def check_length(option: str, text: object, longest: int) -> str:
    """Text of 1 to `longest` characters."""
    checked = check_text(option, text)
    if not checked:
        raise OptionError(option, "is empty")
    if len(checked) > longest:
        raise OptionError(option, f"has {len(checked)} characters, more than {longest}")
    return checked


def check_repetition(option: str, count: str) -> int:
    """A bound of a repetition, as it is written in a pattern or grammar."""
    if len(count) > 9 or int(count) > MAX_REPETITION:  # int() of very many digits raises
        raise OptionError(option, f"repeats something {count[:20]} times, more than {MAX_REPETITION}")
    return int(count)


def check_pattern(option: str, pattern: object) -> str:
    """A regular expression within the limits, without lookaround and backreferences."""
    text = check_length(option, pattern, MAX_PATTERN_LENGTH)
    groups, last, alternatives, place = (
        [1],
        1,
        1,
        0,
    )  # repetitions inside each open group, and of the last item
    while place < len(text):
        char = text[place]
        end = place + 1
        if char == "\\":
            end = _after_escape(option, text, place)
            last = 1
        elif char == "[":
            end = _after_class(option, text, place)
            last = 1
        elif char == "(":
            _check_group(option, text, place)
            groups.append(1)
        elif char == ")":
            if len(groups) == 1:
                raise OptionError(option, f"closes a group at character {place} that is not open")
            last = groups.pop()
            groups[-1] = max(groups[-1], last)
        elif char == "{" and (bounds := _BOUNDS.match(text, place)):
            end = bounds.end()
            last *= max((check_repetition(option, count) for count in bounds.groups() if count), default=1)
            groups[-1] = max(groups[-1], last)
        elif char not in "*+?":
            alternatives += char == "|"
            last = 1
        check_size(option, len(groups) - 1, alternatives)
        if last > MAX_REPETITIONS:
            raise OptionError(option, f"repeats something {last} times, more than {MAX_REPETITIONS}")
        place = end
    if len(groups) > 1:
        raise OptionError(option, "has a group that is not closed")
    return text


def check_size(option: str, nesting: int, alternatives: int) -> None:
    """Nesting and number of alternatives of what has been read so far."""
    if nesting > MAX_NESTING:
        raise OptionError(option, f"is nested more than {MAX_NESTING} levels deep")
    if alternatives > MAX_ALTERNATIVES:
        raise OptionError(option, f"has more than {MAX_ALTERNATIVES} alternatives")


def check_lark(option: str, grammar: object) -> tuple[str, list[Any]]:
    """A grammar within the limits, and the JSON schemas that stand in it after %json."""
    text = check_length(option, grammar, MAX_GRAMMAR_LENGTH)
    schemas: list[Any] = []
    nesting, alternatives, place = 0, 1, 0
    while found := _LARK.search(text, place):
        place = found.end()
        kind, value = found.lastgroup, found[0]
        if kind == "pattern":
            check_pattern(option, found["pattern"])
        elif kind == "block":
            content, place = _read_block(option, text, place)
            schemas += [content] if found["block"] == "json" else []
        elif kind == "token":
            raise OptionError(option, f"names the token {shown(value)}: a grammar describes text, not tokens")
        elif kind in ("range", "bounds"):
            for count in re.findall(r"\d+", value):
                check_repetition(option, count)
        elif kind == "mark":
            nesting = max(0, nesting + (value in "([{") - (value in ")]}"))
            alternatives += value == "|"
        check_size(option, nesting, alternatives)
    return text, schemas


def _after_escape(option: str, text: str, place: int) -> int:
    """Where the escape at `place` ends."""
    after = text[place + 1 : place + 2]
    if after.isdigit() and after != "0":
        raise OptionError(option, f"has the backreference \\{after}, which is not supported")
    if text.startswith((r"\k<", r"\k{", r"\g<", r"\g{"), place):
        raise OptionError(option, f"has the backreference {text[place : place + 3]}, which is not supported")
    braced = _BRACED_ESCAPE.match(text, place)
    return braced.end() if braced else place + 2


def _after_class(option: str, text: str, place: int) -> int:
    """Where the character class at `place` ends; classes may hold classes."""
    depth = 0
    while place < len(text):
        if text[place] == "\\":
            place += 1
        elif text[place] == "[":
            depth += 1
            place += text.startswith("^", place + 1)
            place += text.startswith("]", place + 1)  # the first one is a plain character
        elif text[place] == "]":
            depth -= 1
        check_size(option, depth, 1)
        place += 1
        if depth == 0:
            return place
    raise OptionError(option, "has a character class that is not closed")


def _check_group(option: str, text: str, place: int) -> None:
    if text.startswith(_LOOKAROUND, place):
        raise OptionError(option, f"has lookaround at character {place}, which is not supported")
    if text.startswith("(?P=", place):
        raise OptionError(option, f"has a backreference at character {place}, which is not supported")


def _read_block(option: str, text: str, place: int) -> tuple[Any, int]:
    """The JSON at `place`, and where it ends."""
    try:
        return json.JSONDecoder().raw_decode(text, place)
    except (ValueError, RecursionError):
        raise OptionError(option, f"has a block at character {place} that is not JSON") from None

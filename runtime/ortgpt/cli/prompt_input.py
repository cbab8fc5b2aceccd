"""Where prompts come from: the argument, stdin, ids or a file. Never waits for a keyboard."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import typer

from ortgpt.checks import check_int, shown
from ortgpt.errors import OptionError


def read_text_argument(text: str | None, context: typer.Context, name: str) -> str:
    """The argument itself, or stdin for "-" and for a missing argument behind a pipe."""
    if text is not None and text != "-":
        return text
    if text is None and (sys.stdin is None or sys.stdin.isatty()):
        with contextlib.redirect_stdout(sys.stderr):  # rich prints the help itself
            print(context.get_help())
        raise OptionError(name, "is missing", hint="give it as an argument or through a pipe")
    return read_stdin(name)


def read_stdin(name: str) -> str:
    """All of stdin, less one newline at the end, which `echo` adds."""
    if sys.stdin is None:
        raise OptionError(name, "can't be read: stdin is closed")
    try:
        data = sys.stdin.buffer.read()
    except OSError as error:
        raise OptionError(name, f"can't be read from stdin: {error.strerror}") from None
    text = decode_utf8(data, name)
    return text.removesuffix("\n").removesuffix("\r")


def read_prompt_file(path: Path, option: str = "prompt_file", kind: str = "prompt") -> list[str]:
    """One prompt, or text of another kind, per line; empty lines are skipped. option: what names the file."""
    # Not splitlines(), which also ends a line at form feeds and Unicode separators.
    lines = [line.removesuffix("\r") for line in read_text_file(path, option).split("\n")]
    prompts = [line for line in lines if line.strip()]
    if not prompts:
        raise OptionError(option, f"{path} holds no {kind}")
    return prompts


def read_text_file(path: Path, option: str, max_bytes: int | None = None) -> str:
    """A UTF-8 file without its byte order mark. A larger one is refused: it may be an endless device."""
    try:
        with path.open("rb") as file:
            data = file.read() if max_bytes is None else file.read(max_bytes + 1)
    except OSError as error:
        raise OptionError(option, f"{path} can't be read: {error.strerror}") from None
    if max_bytes is not None and len(data) > max_bytes:
        raise OptionError(option, f"{path} has more than {max_bytes} bytes")
    return decode_utf8(data, option).removeprefix("\ufeff")


def parse_ids(option: str, values: list[str] | str) -> list[int]:
    """Ids from "1,2,3", from repeated flags, or both; "none" is an empty list."""
    joined = ",".join([values] if isinstance(values, str) else values)
    if joined.strip().lower() == "none":
        return []
    return [_int(option, part) for part in joined.split(",")]


def parse_biases(values: list[str]) -> dict[int, float]:
    """{id: bias} from "ID=VALUE" flags."""
    biases: dict[int, float] = {}
    for value in values:
        token_id, _, bias = value.partition("=")
        try:
            biases[_int("logit_bias", token_id)] = float(bias)
        except ValueError:
            raise OptionError("logit_bias", f"must look like ID=VALUE, got {shown(value)}") from None
    return biases


def decode_utf8(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise OptionError(name, f"is not UTF-8 text (byte {error.start})") from None


def _int(option: str, text: str) -> int:
    try:
        value = int(text)
    except ValueError:  # also for more digits than Python converts
        raise OptionError(option, f"must be token ids like 1,2,3, got {shown(text)}") from None
    return check_int(option, value, 0)

"""Prints docs/cli.md from the command line's own declarations.

    python docs/make_cli_page.py > docs/cli.md

It reads what the commands declare to typer, not the drawn help: that depends on the terminal's width
and colours and on typer's version. A test compares the flags with those of `ortgpt COMMAND --help`.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
import typing
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, NamedTuple

from typer.models import ArgumentInfo, OptionInfo

from ortgpt.benchmark import results as bench
from ortgpt.benchmark.plan import Plan
from ortgpt.cli import main
from ortgpt.cli.app import add_commands, app
from ortgpt.results import Result, ResultChoice, Score, Timings, TokenLogprob

HEAD = """# The command line

<!-- Written by docs/make_cli_page.py: change the commands, then run it again. -->

The text, or with `--json` one JSON document, goes to stdout; progress, warnings and the timing line go to
stderr. `ortgpt --version` prints the version, `-h` or `--help` helps, before a command and after one.
"""


class Row(NamedTuple):
    """A parameter: its flags or metavar, default or "required", and help."""

    name: str
    default: str
    help_text: str


def make_page() -> str:
    add_commands()
    commands = {
        info.name or info.callback.__name__: info.callback
        for info in app.registered_commands
        if info.callback is not None
    }
    sections = [section for name, callback in commands.items() for section in _command(name, callback)]
    return "\n".join([HEAD, *sections, *_json(), *_exit_codes()])


def _command(name: str, callback: Callable[..., Any]) -> Iterator[str]:
    summary, *examples = inspect.cleandoc(callback.__doc__ or "").split("\n\n")
    yield f"## ortgpt {name}\n\n{summary}\n"
    yield "```text\n" + "\n".join(examples) + "\n```\n"
    panels: dict[str, list[Row]] = {"Arguments": [], "Options": []}
    for panel, row in _parameters(callback):
        panels.setdefault(panel, []).append(row)
    for panel, rows in panels.items():
        if rows:
            yield f"### {name}: {panel[0].lower()}{panel[1:]}\n\n" + _table(rows)


def _parameters(callback: Callable[..., Any]) -> Iterator[tuple[str, Row]]:
    hints = typing.get_type_hints(callback, include_extras=True)
    for name, parameter in inspect.signature(callback).parameters.items():
        kind, *declared = typing.get_args(hints[name]) or (None,)
        info = next((item for item in declared if isinstance(item, ArgumentInfo | OptionInfo)), None)
        if info is None:  # typer's own context
            continue
        default = "required" if parameter.default is parameter.empty else _default(info, parameter.default)
        row = Row(_name(name, kind, info), default, info.help or "")
        panel = "Arguments" if isinstance(info, ArgumentInfo) else info.rich_help_panel or "Options"
        yield str(panel), row


def _name(name: str, kind: Any, info: ArgumentInfo | OptionInfo) -> str:
    if isinstance(info, ArgumentInfo):
        return f"`{(info.metavar or name).upper()}`"
    # Inside Annotated, typer.Option takes its first flag for a default, and so does its record.
    declared = [item for item in (info.default, *(info.param_decls or ())) if isinstance(item, str)]
    flags = ", ".join(declared or ("--" + name.replace("_", "-"),))
    if kind in (bool, bool | None):
        return f"`{flags}`"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"`{flags} {'|'.join(member.value for member in kind)}`"
    return f"`{flags} {info.metavar or name.upper()}`"


def _default(info: ArgumentInfo | OptionInfo, default: object) -> str:
    """What the help shows: a text given for it, or the value."""
    if isinstance(info.show_default, str):
        return info.show_default
    if isinstance(default, Enum):
        return str(default.value)
    return "" if default is None or isinstance(default, bool) else str(default)


def _table(rows: list[Row]) -> str:
    lines = ["| | default | |", "|---|---|---|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _json() -> Iterator[str]:
    """The documents of --json, from the dataclasses that they are made of."""
    yield "## JSON\n\n`generate --json`, a document for each prompt, on a line of its own:\n"
    choice, timings = _keys(ResultChoice, ", "), _keys(Timings, ", ")
    result = _keys(Result, ",\n ")
    result = result.replace('"choices"', f'"choices": [{{{choice}}}]').replace(
        '"timings"', f'"timings": {{{timings}}}'
    )
    yield f'```text\n{{"model",\n {result}}}\n```\n'
    yield f"An entry of `logprobs` is {{{_keys(TokenLogprob, ', ')}}}; `top` lists the same.\n"
    yield f'`score --json`:\n\n```text\n{{"model", {_keys(Score, ", ")}}}\n```\n'
    yield f"`bench --json`:\n\n```text\n{_bench_document()}\n```\n"
    figure, resident = _keys(bench.Figure, ", "), _keys(bench.Resident, ", ")
    yield f"A *figure* is {{{figure}}}, a *memory* {{{resident}}}; null is not known.\n"
    yield "`inspect --json` has the bundle's path, whether it was verified, and its manifest;"
    yield "`doctor --json` the facts that it prints otherwise, and a list of problems.\n"


def _bench_document() -> str:
    parts = {
        Plan: "plan",
        bench.HostShare: "host_share",
        bench.Bandwidth: "bandwidth",
        bench.Memory: "memory",
    }
    lists = {bench.RowsSpeed: "decode", bench.ContextSpeed: "contexts"}
    separator = ",\n "
    document = _keys(bench.Report, separator)
    for owner, name in (*parts.items(), *lists.items()):
        held = f"{{{_bench_keys(owner)}}}"
        line = f'{separator}"{name}"'
        document = document.replace(line, f"{line}: " + (f"[{held}]" if owner in lists else held))
    for entry in dataclasses.fields(bench.Report):
        if "Figure" in str(entry.type):
            document = document.replace(f'"{entry.name}"', f'"{entry.name}": *figure*')
    return f'{{"model",\n {document}}}'


def _bench_keys(owner: type) -> str:
    kinds = {"Figure": ": *figure*", "Resident": ": *memory*"}
    return ", ".join(f'"{one.name}"{kinds.get(str(one.type), "")}' for one in dataclasses.fields(owner))


def _keys(owner: type, separator: str) -> str:
    return separator.join(f'"{entry.name}"' for entry in dataclasses.fields(owner))


def _exit_codes() -> Iterator[str]:
    """The paragraph of main's docstring that lists them."""
    listed = next(part for part in (main.__doc__ or "").split("\n\n") if part.startswith("Exit codes:"))
    yield "## Exit codes\n"
    codes = listed.removeprefix("Exit codes:").strip().rstrip(".").replace("\n", " ").split(", ")
    yield "| code | |\n|---|---|\n" + "\n".join("| {} | {} |".format(*code.split(" ", 1)) for code in codes)


if __name__ == "__main__":
    sys.stdout.write(make_page() + "\n")

"""Arguments that several commands share, and the flags of every option field."""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ortgpt.options import Options
from ortgpt.strategies import BeamSearch, ContrastiveSearch, Sampling


class ProviderName(StrEnum):
    AUTO, CPU, CUDA = "auto", "cpu", "cuda"


ModelPath = Annotated[
    Path,
    typer.Option(
        "-m",
        "--model",
        metavar="DIR",
        help="Bundle that `ortgpt export` or `ortgpt adopt` made.",
        show_default="storyteller, a small model that comes along",
    ),
]
ProviderOption = Annotated[
    ProviderName, typer.Option("--provider", help="What runs the model; auto takes the best that can.")
]
WantedProvider = Annotated[
    ProviderName, typer.Option("--provider", help="What is to run models: cuda has to be there if named.")
]
Threads = Annotated[
    int | None, typer.Option("--threads", metavar="N", help="Threads of the model.", show_default="all")
]
NoFastPrefill = Annotated[
    bool,
    typer.Option("--no-fast-prefill", help="Leave out the second copy of the layers that a bundle may have."),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No warnings, no progress, no timing line.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


PANELS: dict[type, str] = {
    Options: "Text",
    Sampling: "Sampling (with --strategy sample)",
    BeamSearch: "Beam search (with --strategy beam)",
    ContrastiveSearch: "Contrastive search (with --strategy contrastive)",
}


def flag(owner: type, field: str, help_text: str, metavar: str = "X", unset: str = "") -> Any:
    """The flag of a dataclass field. Its default stays with the dataclass; help only shows it.

    unset: what to show for a default that stands for "none given".
    """
    default = next(entry.default for entry in dataclasses.fields(owner) if entry.name == field)
    shown: bool | str = str(default)
    if default is None or default is dataclasses.MISSING or isinstance(default, tuple):
        shown = unset or False
    name = "--" + field.replace("_", "-")
    return typer.Option(
        name, metavar=metavar, help=help_text, show_default=shown, rich_help_panel=PANELS[owner]
    )

"""`ortgpt verify`: mounted by the runtime's command line through the entry point `ortgpt.commands`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ortgpt.errors import MissingExtraError, OrtgptError

if TYPE_CHECKING:
    from ortgpt_export.verification import Check, Verification


class Reference(StrEnum):
    TORCH, NUMPY = "torch", "numpy"


class ProviderName(StrEnum):
    AUTO, CPU, CUDA = "auto", "cpu", "cuda"


def verify(
    bundle: Annotated[Path, typer.Argument(metavar="DIR", help="The bundle, of any dialect and precision.")],
    against: Annotated[
        Path,
        typer.Option(
            "--against",
            metavar="CHECKPOINT",
            help="The checkpoint that it was made of; it may lose three times what its manifest says "
            "(or 0.001 nats), up to its precision's limit.",
        ),
    ],
    reference: Annotated[
        Reference | None,
        typer.Option(help="What computes the checkpoint.", show_default="numpy of GPT-2, else torch"),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="What the greedy text continues.", show_default="the probe's text"),
    ] = None,
    provider: Annotated[ProviderName, typer.Option(help="What runs the bundle.")] = ProviderName.CPU,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no warnings.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Compare a bundle, as it runs here, with its checkpoint: exit code 1 when it is beyond its limits.

    ortgpt verify models/storyteller-fp32 --against models/storyteller

    ortgpt verify models/gpt2-int8 --against ./gpt2 --reference torch --json
    """
    _check_packages()
    from ortgpt_export.verification import verify_bundle  # here: it loads numpy, which --help need not

    def on_check(name: str) -> None:
        if not quiet:
            print(f"comparing: {name}", file=sys.stderr)

    result = verify_bundle(
        bundle,
        against,
        reference=None if reference is None else reference.value,
        provider=provider.value,
        prompt=prompt,
        on_check=on_check,
    )
    if as_json:
        print(json.dumps(document(result, bundle, against)))
    else:
        print("\n".join(report_lines(result)))
    if not result.passed:
        names = ", ".join(check.name for check in result.checks if not check.passed)
        raise OrtgptError(f"{bundle} is beyond its limits: {names}")


def _check_packages() -> None:
    """Raise MissingExtraError when what reads a checkpoint can't be imported."""
    for package in ("ml_dtypes", "safetensors"):
        if find_spec(package) is None:
            raise MissingExtraError("verify", "export", package=package)


def document(result: Verification, bundle: Path, checkpoint: Path) -> dict[str, Any]:
    """What --json prints."""
    return {
        "bundle": str(bundle),
        "checkpoint": str(checkpoint),
        "dialect": result.manifest.dialect,
        "precision": result.manifest.precision,
        "provider": result.provider,
        "reference": result.reference,
        "passed": result.passed,
        "checks": [{**asdict(check), "passed": check.passed} for check in result.checks],
        "prompt": result.prompt,
        "text": result.text,
    }


def report_lines(result: Verification) -> list[str]:
    """What is printed for people: a line a check, then the text."""
    manifest = result.manifest
    kind = f"{manifest.precision}, {manifest.dialect} dialect, on {result.provider}"
    rows = [("", "measured", "limit", ""), *(_row(check) for check in result.checks)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"{kind}, against {result.reference}"]
    for row in rows:
        cells = (text.ljust(width) for text, width in zip(row, widths, strict=False))
        lines.append("  ".join([*cells, row[3]]).rstrip())
    return [*lines, "", f"{result.prompt}|{result.text}"]


def _row(check: Check) -> tuple[str, str, str, str]:
    measured = "none" if check.measured is None else f"{check.measured:.2e} {check.unit}"
    limit = "" if check.limit is None else f"{check.limit:.0e}" if check.limit else "0"
    return check.name, measured, limit, ("" if check.passed else "BEYOND; ") + check.details

"""Optimum's part of an export: a checkpoint becomes a graph of the portable dialect."""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from ortgpt.checks import shown
from ortgpt.errors import CheckpointError, MissingExtraError
from ortgpt_export.causal_model import first_line, kept_quiet, load_causal_model
from ortgpt_export.config import CONFIG_NAME
from ortgpt_export.json_file import read_object

TASK = "text-generation-with-past"
TRACED_NAME = "model.onnx"


def check_optimum() -> None:
    """Raise MissingExtraError unless Optimum can be imported: known before the work starts."""
    for package in ("torch", "transformers", "optimum.exporters.onnx"):
        if not _is_there(package):
            raise MissingExtraError("--via optimum", "optimum", package=package.partition(".")[0])


def describe_tracing() -> str:
    """What traces a graph here, with versions: "optimum-onnx 0.1.0, torch 2.13.0, transformers 4.57.6"."""
    return ", ".join(f"{name} {version(name)}" for name in ("optimum-onnx", "torch", "transformers"))


def check_family(staged: Path) -> None:
    """Raise CheckpointError unless Optimum exports the staged model with a cache."""
    import optimum.exporters.onnx.model_configs  # noqa: F401  (its import registers what it knows)
    from optimum.exporters.tasks import TasksManager

    model_type = read_object(staged / CONFIG_NAME)["model_type"]
    known = TasksManager.get_supported_model_type_for_task(TASK, "onnx")
    if model_type.replace("_", "-") not in {name.replace("_", "-") for name in known}:
        raise CheckpointError(
            f"config.json: model_type = {shown(model_type)} is not a model that Optimum exports for {TASK}"
        )


def trace(staged: Path, folder: Path, *, attention: str | None = None, verbose: bool = False) -> Path:
    """Let Optimum write the graph of a staged checkpoint into `folder`; returns its path.

    attention  see load_causal_model
    verbose    let through what Optimum and torch have to say

    Raises CheckpointError when they fail.
    """
    from optimum.exporters.onnx import onnx_export_from_model

    # What Optimum's main_export does, but for the loading: that would take a pickle, and any attention.
    model = load_causal_model(staged, attention=attention)
    try:
        with kept_quiet(verbose=verbose):
            onnx_export_from_model(model, folder, task=TASK, do_validation=False, no_post_process=True)
    except MemoryError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"Optimum can't export this {model.config.model_type}: {first_line(error)}",
            hint="--debug shows what it had to say",
        ) from error
    path = folder / TRACED_NAME
    if not path.exists():
        raise CheckpointError(f"Optimum exports this {model.config.model_type} as several graphs")
    return path


def _is_there(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # a package above it
        return False

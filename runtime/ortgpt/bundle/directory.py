"""Finds a bundle's directory, or says what lies there instead and what to do about it."""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from ortgpt.bundle.files import unreadable
from ortgpt.checks import shown
from ortgpt.errors import BundleError, OptionError
from ortgpt.manifest import MANIFEST_NAME


def find_directory(directory: str | os.PathLike[str], *, needs_manifest: bool = True) -> Path:
    """The bundle's directory with links resolved; says what else the path is if it is no bundle."""
    if not isinstance(directory, str | os.PathLike):
        raise OptionError("directory", f"must be a path, got {shown(directory)}")
    text = os.fspath(directory)
    try:
        if not stat.S_ISDIR(os.stat(text).st_mode):
            raise BundleError(f"{text} is a file, a bundle is a directory")
        root = Path(os.path.realpath(text, strict=True))
        names = set(os.listdir(root))
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(f"there is no bundle at {shown(text, 300)}", hint=_missing_hint(text)) from None
    except (OSError, ValueError) as error:
        raise unreadable(shown(text, 300), error) from None
    if MANIFEST_NAME in names or not needs_manifest:
        return root
    if "config.json" in names and any(name.endswith(".onnx") for name in names):
        raise BundleError(
            f"{text} has no {MANIFEST_NAME}: another program exported it",
            hint=f"it is made a bundle by: ortgpt adopt {shlex.quote(text)}",
        )
    refuse_checkpoint(text, names, "a bundle")
    raise BundleError(f"{text} is not a bundle: it has no {MANIFEST_NAME}")


def refuse_checkpoint(text: str, names: Collection[str], wanted: str) -> None:
    """Raise BundleError where a directory's names are those of a checkpoint, which `wanted` is not."""
    if "config.json" in names and any(_is_weights(name) for name in names):
        raise BundleError(f"{text} is a checkpoint, not {wanted}", hint=_export_hint(text))


def _is_weights(name: str) -> bool:
    return name.endswith(".safetensors") or name == "pytorch_model.bin"


def _missing_hint(text: str) -> str | None:
    """A hub id, such as gpt2 or org/name, is probably meant to be downloaded."""
    if re.fullmatch(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", text, re.ASCII):
        return _export_hint(text)
    return None


def _export_hint(source: str) -> str:
    return f"a checkpoint is turned into a bundle by: ortgpt export {shlex.quote(source)} -o OUT"


@contextmanager
def located(directory: str | os.PathLike[str]) -> Iterator[None]:
    """Puts the bundle's path before what is wrong with it."""
    try:
        yield
    except BundleError as error:
        raise type(error)(f"{os.fspath(directory)}: {error}", hint=error.hint) from None

"""Opens a bundle: whatever lies in the directory, the outcome is a checked Bundle or one BundleError."""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ortgpt.bundle.files import (
    FileIdentity,
    check_digest,
    check_size,
    hash_file,
    open_regular,
    read_exactly,
    read_verified,
    settled_identity,
    unreadable,
)
from ortgpt.bundle.graph_check import check_graph
from ortgpt.bundle.wire import read_model
from ortgpt.checks import shown
from ortgpt.errors import BundleError, BundleIntegrityError, OptionError
from ortgpt.manifest import (
    GRAPH_NAME,
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    PREFILL_GRAPH_NAME,
    TOKENIZER_NAME,
    WEIGHTS_NAME,
    Manifest,
)
from ortgpt.manifest_reader import read_manifest

MAX_FILES = 100
# Files that are held in memory; GPT-2's graph takes 0.1 MB and its tokenizer 3.5 MB.
MAX_BYTES = {GRAPH_NAME: 64 << 20, PREFILL_GRAPH_NAME: 64 << 20, TOKENIZER_NAME: 64 << 20}

OnProgress = Callable[[int, int], None]
"""Is told (bytes hashed so far, bytes in all)."""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle whose files were checked.

    directory          with every link resolved
    graph, tokenizer   the very bytes that were hashed
    prefill_graph      the same of the graph for wide steps; None: the bundle has none
    identities         of the data files that were hashed, by name; onnxruntime opens them once more
    verified           whether digests were compared
    """

    directory: Path
    manifest: Manifest
    graph: bytes = field(repr=False)
    tokenizer: bytes = field(repr=False)
    prefill_graph: bytes | None = field(repr=False)
    identities: Mapping[str, FileIdentity]
    verified: bool

    @property
    def weights_path(self) -> Path:
        return self.directory / WEIGHTS_NAME

    @property
    def has_links(self) -> bool:
        """Whether a data file is a link, as in the hub's cache."""
        return any((self.directory / name).is_symlink() for name in self.identities)

    def check_weights_unchanged(self) -> None:
        """Raise BundleIntegrityError unless the data files are still those that were checked.

        To be called once onnxruntime has mapped them: then nothing was swapped in between.
        """
        for name, checked in self.identities.items():
            try:
                identity = FileIdentity.of(os.stat(self.directory / name))
            except OSError as error:
                raise BundleIntegrityError(f"{self.directory}: {unreadable(name, error)}") from None
            if identity != checked:
                raise BundleIntegrityError(
                    f"{self.directory}: {name} changed while the model was loaded",
                    hint="load it again when nothing writes to the bundle any more",
                )


def open_bundle(
    directory: str | os.PathLike[str],
    *,
    verify: bool = True,
    strict: bool = False,
    on_progress: OnProgress = lambda done, total: None,
) -> Bundle:
    """Read and check a bundle.

    verify       compare SHA-256 digests; without it sizes, the manifest and the graph are still checked
    strict       refuse hard links, through which a file can be changed from elsewhere
    on_progress  is called while digests are computed

    Files that the manifest does not list are ignored. Raises BundleError, BundleIntegrityError where
    files differ from the manifest; the message lists every file that is at fault.
    """
    root = _find_directory(directory)
    with _located(directory), ExitStack() as stack:
        manifest = _read_manifest(root, strict)
        files = _open_files(root, manifest, strict, stack)
        identities = {name: settled_identity(name, files[name]) for name in manifest.data_names}
        held = _read_files(files, manifest, verify, on_progress)
        for name, identity in identities.items():
            if FileIdentity.of(os.fstat(files[name])) != identity:
                raise BundleIntegrityError(f"{name} changed while it was read")
        _check_graphs(held, manifest)
    return Bundle(
        directory=root,
        manifest=manifest,
        graph=held[GRAPH_NAME],
        tokenizer=held[TOKENIZER_NAME],
        prefill_graph=held.get(PREFILL_GRAPH_NAME),
        identities=identities,
        verified=verify,
    )


def _find_directory(directory: str | os.PathLike[str]) -> Path:
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
    if MANIFEST_NAME in names:
        return root
    if "config.json" in names and any(_is_weights(name) for name in names):
        raise BundleError(f"{text} is a checkpoint, not a bundle", hint=_export_hint(text))
    raise BundleError(f"{text} is not a bundle: it has no {MANIFEST_NAME}")


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
def _located(directory: str | os.PathLike[str]) -> Iterator[None]:
    """Puts the bundle's path before what is wrong with it."""
    try:
        yield
    except BundleError as error:
        raise type(error)(f"{os.fspath(directory)}: {error}", hint=error.hint) from None


def _read_manifest(root: Path, strict: bool) -> Manifest:
    with _opened(root / MANIFEST_NAME, root, strict) as descriptor:
        size = os.fstat(descriptor).st_size
        if size > MAX_MANIFEST_BYTES:
            raise BundleError(f"{MANIFEST_NAME} has {size} bytes, at most {MAX_MANIFEST_BYTES} are read")
        manifest = read_manifest(read_exactly(MANIFEST_NAME, descriptor, size))
    if len(manifest.files) > MAX_FILES:
        raise BundleError(f"the manifest lists {len(manifest.files)} files, at most {MAX_FILES} are read")
    return manifest


@contextmanager
def _opened(path: Path, root: Path, strict: bool) -> Iterator[int]:
    descriptor = open_regular(path, root)
    try:
        if strict and os.fstat(descriptor).st_nlink > 1:
            raise BundleError(f"{path.name} is a hard link, which strict does not allow")
        yield descriptor
    finally:
        os.close(descriptor)


def _open_files(root: Path, manifest: Manifest, strict: bool, stack: ExitStack) -> dict[str, int]:
    """Descriptors of all listed files, after checking what costs nothing: kind, links and size."""
    files: dict[str, int] = {}
    problems: list[BundleError] = []
    for name, entry in manifest.files.items():
        try:
            files[name] = stack.enter_context(_opened(root / name, root, strict))
            check_size(name, files[name], entry.size)
            if entry.size > MAX_BYTES.get(name, entry.size):
                raise BundleError(f"{name} has {entry.size} bytes, at most {MAX_BYTES[name]} are read")
        except BundleError as error:
            problems.append(error)
    _raise_all(problems)
    return files


def _read_files(
    files: dict[str, int], manifest: Manifest, verify: bool, on_progress: OnProgress
) -> dict[str, bytes]:
    """The contents of the files that are held in memory; compares every file's digest."""
    total, done = sum(entry.size for entry in manifest.files.values()), 0
    held: dict[str, bytes] = {}
    problems: list[BundleError] = []

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        on_progress(done, total)

    for name, entry in manifest.files.items():
        try:
            if name in MAX_BYTES:
                held[name] = read_verified(name, files[name], entry.size, entry.sha256 if verify else None)
            elif verify:
                check_digest(name, hash_file(name, files[name], on_bytes), entry.sha256)
        except BundleError as error:
            problems.append(error)
        if verify and name in MAX_BYTES:
            on_bytes(entry.size)
    _raise_all(problems)
    return held


def _check_graphs(held: Mapping[str, bytes], manifest: Manifest) -> None:
    sizes = {name: manifest.files[name].size for name in manifest.data_names}
    own = {WEIGHTS_NAME: sizes[WEIGHTS_NAME]}
    check_graph(read_model(held[GRAPH_NAME]), manifest, own)
    if manifest.fast_prefill:
        graph = read_model(held[PREFILL_GRAPH_NAME], PREFILL_GRAPH_NAME)
        check_graph(graph, manifest, sizes, PREFILL_GRAPH_NAME)


def _raise_all(problems: list[BundleError]) -> None:
    """One error for all: BundleIntegrityError as soon as one of them is."""
    if problems:
        is_integrity = any(isinstance(problem, BundleIntegrityError) for problem in problems)
        kind = BundleIntegrityError if is_integrity else BundleError
        raise kind("; ".join(map(str, problems)))

"""Opens a bundle: whatever lies in the directory, the outcome is a checked Bundle or one BundleError."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from ortgpt.bundle.directory import find_directory, located
from ortgpt.bundle.files import (
    FileIdentity,
    check_digest,
    check_size,
    hash_file,
    map_file,
    opened_regular,
    read_exactly,
    read_verified,
    settled_identity,
    unreadable,
)
from ortgpt.bundle.graph_check import check_graph
from ortgpt.bundle.wire import Model, read_model
from ortgpt.errors import BundleError, BundleIntegrityError
from ortgpt.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    PREFILL_GRAPH_NAME,
    TOKENIZER_NAME,
    WEIGHTS_NAME,
    Manifest,
)
from ortgpt.manifest_reader import read_manifest

MAX_FILES = 100
# Of files that are held in memory; GPT-2's graph takes 0.1 MB and its tokenizer 3.5 MB.
MAX_HELD_BYTES = 64 << 20

OnProgress = Callable[[int, int], None]
"""Is told (bytes hashed so far, bytes in all)."""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle whose files were checked.

    directory          with every link resolved
    graph, tokenizer   the very bytes that were hashed; of a portable graph that holds gigabytes of weights
                       its path, and its identity is among the others
    prefill_graph      the same of the graph for wide steps; None: the bundle has none
    identities         of the files that were hashed and that onnxruntime opens once more, by name
    verified           whether digests were compared
    """

    directory: Path
    manifest: Manifest
    graph: bytes | Path = field(repr=False)
    tokenizer: bytes = field(repr=False)
    prefill_graph: bytes | None = field(repr=False)
    identities: Mapping[str, FileIdentity]
    verified: bool

    @property
    def weights_path(self) -> Path:
        return self.directory / WEIGHTS_NAME

    @property
    def has_links(self) -> bool:
        """Whether a file that onnxruntime opens is a link, as in the hub's cache."""
        return any((self.directory / name).is_symlink() for name in self.identities)

    def read_graph(self, graph: bytes | Path | None = None) -> Model:
        """One of the bundle's graphs, parsed; None: the first.

        Raises BundleIntegrityError when another file lies in its place by now.
        """
        source = self.graph if graph is None else graph
        data = self.map_data(source.name) if isinstance(source, Path) else source
        return read_model(data, self.manifest.graph_name, dialect=self.manifest.dialect)

    def map_data(self, name: str) -> mmap.mmap | bytes:
        """One of the files of `identities`, mapped. Raises BundleIntegrityError when it is another by now."""
        path = self.directory / name
        with opened_regular(path, self.directory) as descriptor:
            if FileIdentity.of(os.fstat(descriptor)) != self.identities[name]:
                raise BundleIntegrityError(f"{path} changed since the bundle was opened")
            return map_file(name, descriptor)

    def check_weights_unchanged(self) -> None:
        """Raise BundleIntegrityError unless the files of `identities` are still those that were checked.

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
    manifest: Manifest | None = None,
    verify: bool = True,
    strict: bool = False,
    on_progress: OnProgress = lambda done, total: None,
) -> Bundle:
    """Read and check a bundle.

    manifest     in place of the one in the directory, which need not be there
    verify       compare SHA-256 digests; without it sizes, the manifest and the graph are still checked
    strict       refuse hard links, through which a file can be changed from elsewhere
    on_progress  is called while digests are computed

    Files that the manifest does not list are ignored. Raises BundleError, BundleIntegrityError where
    files differ from the manifest; the message lists every file that is at fault.
    """
    root = find_directory(directory, needs_manifest=manifest is None)
    with located(directory), ExitStack() as stack:
        manifest = manifest or _read_manifest(root, strict)
        files = _open_files(root, manifest, strict, stack)
        reopened = _names_reopened(manifest)
        identities = {name: settled_identity(name, files[name]) for name in reopened}
        held = _read_files(files, manifest, verify, on_progress)
        for name, identity in identities.items():
            if FileIdentity.of(os.fstat(files[name])) != identity:
                raise BundleIntegrityError(f"{name} changed while it was read")
        _check_graphs(held, files, manifest)
    return Bundle(
        directory=root,
        manifest=manifest,
        graph=held.get(manifest.graph_name, root / manifest.graph_name),
        tokenizer=held[TOKENIZER_NAME],
        prefill_graph=held.get(PREFILL_GRAPH_NAME),
        identities=identities,
        verified=verify,
    )


def _names_reopened(manifest: Manifest) -> tuple[str, ...]:
    """The files that onnxruntime opens by itself: they are not held in memory."""
    is_large = manifest.files[manifest.graph_name].size > MAX_HELD_BYTES
    if manifest.portable is not None and is_large:
        return (manifest.graph_name, *manifest.data_names)
    return manifest.data_names


def _names_held(manifest: Manifest) -> set[str]:
    names = {manifest.graph_name, PREFILL_GRAPH_NAME, TOKENIZER_NAME} & set(manifest.files)
    return names - set(_names_reopened(manifest))


def _read_manifest(root: Path, strict: bool) -> Manifest:
    with opened_regular(root / MANIFEST_NAME, root, strict=strict) as descriptor:
        size = os.fstat(descriptor).st_size
        if size > MAX_MANIFEST_BYTES:
            raise BundleError(f"{MANIFEST_NAME} has {size} bytes, at most {MAX_MANIFEST_BYTES} are read")
        manifest = read_manifest(read_exactly(MANIFEST_NAME, descriptor, size))
    if len(manifest.files) > MAX_FILES:
        raise BundleError(f"the manifest lists {len(manifest.files)} files, at most {MAX_FILES} are read")
    return manifest


def _open_files(root: Path, manifest: Manifest, strict: bool, stack: ExitStack) -> dict[str, int]:
    """Descriptors of all listed files, after checking what costs nothing: kind, links and size."""
    files: dict[str, int] = {}
    problems: list[BundleError] = []
    held = _names_held(manifest)
    for name, entry in manifest.files.items():
        try:
            files[name] = stack.enter_context(opened_regular(root / name, root, strict=strict))
            check_size(name, files[name], entry.size)
            if name in held and entry.size > MAX_HELD_BYTES:
                raise BundleError(f"{name} has {entry.size} bytes, at most {MAX_HELD_BYTES} are read")
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
    to_hold = _names_held(manifest)
    problems: list[BundleError] = []

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        on_progress(done, total)

    for name, entry in manifest.files.items():
        try:
            if name in to_hold:
                held[name] = read_verified(name, files[name], entry.size, entry.sha256 if verify else None)
            elif verify:
                check_digest(name, hash_file(name, files[name], on_bytes), entry.sha256)
        except BundleError as error:
            problems.append(error)
        if verify and name in to_hold:
            on_bytes(entry.size)
    _raise_all(problems)
    return held


def _check_graphs(held: Mapping[str, bytes], files: Mapping[str, int], manifest: Manifest) -> None:
    sizes = {name: manifest.files[name].size for name in manifest.data_names}
    own = sizes if manifest.portable is not None else {WEIGHTS_NAME: sizes[WEIGHTS_NAME]}
    name = manifest.graph_name
    data = held[name] if name in held else map_file(name, files[name])
    check_graph(read_model(data, name, dialect=manifest.dialect), manifest, own, name)
    if manifest.fast_prefill:
        graph = read_model(held[PREFILL_GRAPH_NAME], PREFILL_GRAPH_NAME)
        check_graph(graph, manifest, sizes, PREFILL_GRAPH_NAME)


def _raise_all(problems: list[BundleError]) -> None:
    """One error for all: BundleIntegrityError as soon as one of them is."""
    if problems:
        is_integrity = any(isinstance(problem, BundleIntegrityError) for problem in problems)
        kind = BundleIntegrityError if is_integrity else BundleError
        raise kind("; ".join(map(str, problems)))

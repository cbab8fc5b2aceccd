"""A directory of another exporter becomes a bundle: the path of the work, in its order."""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ortgpt.adoption.config_files import CONFIG_NAME, MAX_CONFIG_BYTES, ModelConfig, read_model_config
from ortgpt.adoption.graph_choice import choose_graph
from ortgpt.adoption.manifest_file import write_manifest
from ortgpt.adoption.recognition import CacheSizes, describe_graph, find_cache_sizes, find_precision
from ortgpt.bundle.bundle import open_bundle
from ortgpt.bundle.directory import find_directory, located, refuse_checkpoint
from ortgpt.bundle.files import hash_file, map_file, opened_regular, read_exactly
from ortgpt.bundle.wire import Model as GraphModel
from ortgpt.bundle.wire import read_model
from ortgpt.errors import BundleError
from ortgpt.generator import Model
from ortgpt.interfaces import Floats, Ids, Tokenizer
from ortgpt.loading import start_model
from ortgpt.manifest import (
    GENERATION_CONFIG_NAME,
    MANIFEST_NAME,
    TOKENIZER_NAME,
    Architecture,
    FileEntry,
    Manifest,
    Probe,
    Provenance,
)
from ortgpt.manifest_reader import read_manifest
from ortgpt.probe import make_probe
from ortgpt.text.tokenizer import load_tokenizer

logger = logging.getLogger("ortgpt")

ONNXRUNTIME_FLOOR = "1.31"
# Logits of a prompt read at once against the same one read in two parts; above what rounding makes of them.
CACHE_TOLERANCE = 1e-2
_NO_PROBE = Probe(text="?", token_ids=(), argmax=0)


def adopt(path: str | os.PathLike[str], *, file: str | None = None, force: bool = False) -> Manifest:
    """Make a bundle of a directory that optimum-cli or another exporter wrote, and return its manifest.

    path   holds the graph, config.json and tokenizer.json; nothing is written but manifest.json
    file   the graph's name, where there are several
    force  replace a manifest that is there

    The graph is checked as at every load, then run once for the manifest's known answer. Raises BundleError
    for what can't be run, OptionError, ProviderError, OrtgptError when the manifest can't be written.
    """
    root = find_directory(path, needs_manifest=False)
    names = os.listdir(root)
    if not any(name.endswith(".onnx") for name in names):
        refuse_checkpoint(os.fspath(path), names, "a directory with a graph")
    with located(path):
        if MANIFEST_NAME in names:
            _check_foreign(root, names)
            if not force:
                raise BundleError(f"it has a {MANIFEST_NAME} already", hint="--force replaces it")
        found = _look(root, choose_graph(names, file))
        manifest = read_manifest(_describe(root, found).to_json())  # which lists what does not fit together
    with start_model(open_bundle(path, manifest=manifest, verify=False)) as model, located(path):
        probe = make_probe(lambda ids: _logits(model, ids), manifest.architecture.context, model.tokenizer)
        _check_cache(model, probe)
    manifest = replace(manifest, probe=probe)
    write_manifest(root, manifest)
    for note in manifest.notes:
        logger.warning("%s", note)
    return manifest


def _check_foreign(root: Path, names: list[str]) -> None:
    """Raise BundleError for what `ortgpt export` wrote, which comes without config.json."""
    try:
        manifest = read_manifest(_read(root, MANIFEST_NAME))
    except BundleError:  # it says nothing, and may be replaced
        return
    if manifest.dialect == "fused" or CONFIG_NAME not in names:
        raise BundleError("it is a bundle already", hint="it can be run as it is")


@dataclass(frozen=True)
class _Found:
    """What lies in the directory. file: the graph's name."""

    file: str
    graph: GraphModel
    config: ModelConfig
    tokenizer: Tokenizer
    others: tuple[str, ...]


def _look(root: Path, file: str) -> _Found:
    with opened_regular(root / file, root) as descriptor:
        graph = read_model(map_file(file, descriptor), file, dialect="portable")
    config = _read(root, CONFIG_NAME)
    generation = _read(root, GENERATION_CONFIG_NAME) if (root / GENERATION_CONFIG_NAME).exists() else None
    with opened_regular(root / TOKENIZER_NAME, root) as descriptor:
        size = os.fstat(descriptor).st_size
        tokenizer = load_tokenizer(read_exactly(TOKENIZER_NAME, descriptor, size))
    others = (CONFIG_NAME,) if generation is None else (CONFIG_NAME, GENERATION_CONFIG_NAME)
    return _Found(file, graph, read_model_config(config, generation), tokenizer, others)


def _describe(root: Path, found: _Found) -> Manifest:
    """The manifest, but for the known answer."""
    graph, config = describe_graph(found.graph, found.file), found.config
    sizes = find_cache_sizes(found.graph, graph)
    kv_heads = _cache_heads(config, sizes)
    head_size = _head_size(config, sizes)
    known, size = found.tokenizer.size, config.vocab_size
    if known > size:
        raise BundleError(f"{TOKENIZER_NAME} has {known} ids, {CONFIG_NAME} a vocab_size of {size}")
    precision, block_size = find_precision(found.graph)
    needed = (graph.file, *graph.data_files, TOKENIZER_NAME)
    entries = {name: _measure(root, name) for name in (*needed, *found.others)}
    return Manifest(
        architecture=Architecture(
            model_type=config.model_type,
            layers=config.layers,
            heads=config.heads,
            head_size=head_size,
            cache_head_size=head_size,
            width=config.width,
            context=config.context,
            vocab_size=config.vocab_size,
            tokenizer_size=found.tokenizer.size,
            bos_token_id=config.bos_token_id,
            eos_token_ids=config.eos_token_ids,
            kv_heads=None if kv_heads == config.heads else kv_heads,
        ),
        dialect="portable",
        precision=precision,
        block_size=block_size,
        row_invariant=False,
        files={name: entries[name] for name in needed},
        provenance=Provenance(
            source=config.source or root.name,
            source_sha256=_digest(entries),
            exporter=found.graph.producer or "unknown",
            onnxruntime_floor=ONNXRUNTIME_FLOOR,
        ),
        probe=_NO_PROBE,
        parity="skipped",
        notes=config.notes,
        portable=graph,
    )


def _cache_heads(config: ModelConfig, sizes: CacheSizes) -> int:
    """Heads of keys and values. Raises BundleError where graph and config.json are of two models."""
    if config.kv_heads is not None:
        return config.kv_heads
    if sizes.heads is None or sizes.heads == config.heads:
        return config.heads
    if not config.shares_heads or config.heads % sizes.heads:
        raise BundleError(
            f"{CONFIG_NAME} says {config.heads} heads, but the graph's cache is one of {sizes.heads}"
        )
    return sizes.heads


def _head_size(config: ModelConfig, sizes: CacheSizes) -> int:
    """As config.json says; else heads make up the width. Raises BundleError where the graph's do not."""
    if config.head_size is not None:
        return config.head_size
    if sizes.head_size is None:
        return max(1, config.width // config.heads)
    if config.heads * sizes.head_size != config.width:
        raise BundleError(
            f"{CONFIG_NAME} says {config.heads} heads in a width of {config.width}, "
            f"but the graph's cache has heads of {sizes.head_size}"
        )
    return sizes.head_size


def _measure(root: Path, name: str) -> FileEntry:
    with opened_regular(root / name, root) as descriptor:
        return FileEntry(size=os.fstat(descriptor).st_size, sha256=hash_file(name, descriptor))


def _digest(entries: dict[str, FileEntry]) -> str:
    """As of an exported checkpoint: SHA-256 of "name digest" lines, sorted by name."""
    lines = "".join(f"{name} {entries[name].sha256}\n" for name in sorted(entries))
    return hashlib.sha256(lines.encode("utf-8")).hexdigest()


def _read(root: Path, name: str) -> bytes:
    with opened_regular(root / name, root) as descriptor:
        size = os.fstat(descriptor).st_size
        if size > MAX_CONFIG_BYTES:
            raise BundleError(f"{name} has {size} bytes, at most {MAX_CONFIG_BYTES} are read")
        return read_exactly(name, descriptor, size)


def _logits(model: Model, token_ids: Ids) -> Floats:
    """Behind the last of some tokens, (1, vocab)."""
    decoder = model.decoder()
    logits = decoder.extend([token_ids]).logits[0, -1:].copy()
    decoder.release()
    if not np.isfinite(logits).all():
        raise BundleError("the model's logits are not finite")
    return logits


def _check_cache(model: Model, probe: Probe) -> None:
    """Raise BundleError when a past does not stand for the tokens that made it."""
    ids = np.array((*probe.token_ids, probe.argmax))[-model.manifest.architecture.context :]
    whole = _logits(model, ids)[0]
    decoder = model.decoder()
    decoder.extend([ids[:-1]])
    parts = decoder.extend([ids[-1:]]).logits[0, -1]
    difference = float(np.abs(whole - parts).max())
    decoder.release()
    # Dynamic quantisation sees other ranges in a prompt than in a token.
    if model.manifest.precision == "fp32" and difference > CACHE_TOLERANCE * (1 + float(np.abs(whole).max())):
        raise BundleError(
            f"its cache does not continue a text: logits differ by {difference:.2g} from those without a past"
        )

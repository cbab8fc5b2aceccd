"""Reads a manifest and reports every problem of it in one error.

Unknown keys are ignored with a warning, so that a newer minor version can be read; another major
version is refused.
"""

from __future__ import annotations

import json
import logging
import math
import re
from typing import Any

from ortgpt.errors import BundleError
from ortgpt.manifest import (
    CACHE_LAYOUTS,
    DIALECTS,
    GENERATION_CONFIG_NAME,
    IDS_TYPES,
    MAX_MANIFEST_BYTES,
    PRECISIONS,
    PREFILL_GRAPH_NAME,
    PREFILL_WEIGHTS_NAME,
    SCHEMA_MAJOR,
    TOKENIZER_NAME,
    Architecture,
    FileEntry,
    Manifest,
    Parity,
    Perplexity,
    PortableGraph,
    Probe,
    Provenance,
    Quality,
    check_file_name,
    parse_version,
)

logger = logging.getLogger("ortgpt")

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can spell it, but it is not text


def read_manifest(text: str | bytes) -> Manifest:
    """Parse and check a manifest. Raises BundleError that lists every problem found."""
    return _Reader().manifest(_parse_object(text))


def _parse_object(text: str | bytes) -> dict[str, Any]:
    if len(text) > MAX_MANIFEST_BYTES:
        raise BundleError(f"manifest is larger than {MAX_MANIFEST_BYTES} bytes")
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # ValueError: also bad UTF-8 and huge integers
        raise BundleError(f"manifest is not valid JSON: {str(error)[:200] or type(error).__name__}") from None
    if not isinstance(data, dict):
        raise BundleError("manifest must be a JSON object")
    return data


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


class _Reader:
    """Reads typed fields and collects what is wrong, so that one error can list it all."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def manifest(self, data: dict[str, Any]) -> Manifest:
        self._check_version(data.get("schema_version"))
        sections = {
            name: self._section(data, name) for name in ("architecture", "files", "provenance", "probe")
        }
        parity = data.get("parity")
        known = set(Manifest.__dataclass_fields__)
        for key in sorted(set(data) - known):
            logger.warning("manifest has an unknown key %r, which is ignored", key[:80])
        manifest = Manifest(
            schema_version=str(data.get("schema_version")),
            architecture=self._architecture(sections["architecture"]),
            dialect=self._one_of(data, "dialect", DIALECTS),
            precision=self._one_of(data, "precision", PRECISIONS),
            block_size=None if data.get("block_size") is None else self._int(data, "block_size", 1),
            row_invariant=self._bool(data, "row_invariant"),
            files=self._files(sections["files"]),
            provenance=self._provenance(sections["provenance"]),
            probe=self._probe(sections["probe"]),
            parity="skipped" if parity == "skipped" else self._parity(self._section(data, "parity")),
            notes=self._notes(data.get("notes", [])),
            quality=None if data.get("quality") is None else self._quality(self._section(data, "quality")),
            portable=None
            if data.get("portable") is None
            else self._portable(self._section(data, "portable")),
        )
        self._check_whole(manifest)
        if self.problems:
            raise BundleError("manifest is not usable: " + "; ".join(self.problems))
        return manifest

    def _check_version(self, value: object) -> None:
        if not isinstance(value, str) or parse_version(value)[0] == 0:
            raise BundleError('manifest has no schema_version like "1.0"')
        if parse_version(value)[0] != SCHEMA_MAJOR:
            raise BundleError(
                f"manifest has schema_version {value[:20]}, this ortgpt reads {SCHEMA_MAJOR}.x",
                hint="export the checkpoint again, or install the ortgpt that wrote the bundle",
            )

    def _architecture(self, data: dict[str, Any]) -> Architecture:
        counts = {
            name: self._int(data, name, 1, 2**31 - 1, "architecture.")
            for name in (
                "layers",
                "heads",
                "head_size",
                "cache_head_size",
                "width",
                "context",
                "vocab_size",
                "tokenizer_size",
            )
        }
        bos = data.get("bos_token_id")
        return Architecture(
            model_type=self._str(data, "model_type", "architecture."),
            bos_token_id=None if bos is None else self._int(data, "bos_token_id", 0, where="architecture."),
            eos_token_ids=self._ids(data, "eos_token_ids", "architecture."),
            kv_heads=None
            if data.get("kv_heads") is None
            else self._int(data, "kv_heads", 1, 2**31 - 1, "architecture."),
            **counts,
        )

    def _check_whole(self, manifest: Manifest) -> None:
        shape = manifest.architecture
        if shape.heads % shape.cache_heads:
            self.problems.append(f"{shape.heads} heads can't share {shape.cache_heads} of keys and values")
        if manifest.dialect == "fused" and shape.heads * shape.head_size != shape.width:
            self.problems.append(
                f"{shape.heads} heads of size {shape.head_size} do not make width {shape.width}"
            )
        if shape.cache_head_size < shape.head_size:
            self.problems.append("architecture.cache_head_size is smaller than head_size")
        if shape.tokenizer_size > shape.vocab_size:
            self.problems.append("architecture.tokenizer_size is larger than vocab_size")
        ids = (*shape.eos_token_ids, *manifest.probe.token_ids, manifest.probe.argmax)
        if any(i >= shape.vocab_size for i in ids) or (shape.bos_token_id or 0) >= shape.vocab_size:
            self.problems.append("a token id is outside the vocabulary")
        if (manifest.portable is not None) != (manifest.dialect == "portable"):
            self.problems.append("portable must be there for the portable dialect, and for no other")
        needed = [manifest.graph_name, *manifest.data_names, TOKENIZER_NAME]
        if manifest.dialect == "fused":
            needed.append(GENERATION_CONFIG_NAME)
        for name in needed:
            if name not in manifest.files:
                self.problems.append(f"files does not list {name[:80]}")
        if (PREFILL_GRAPH_NAME in manifest.files) != (PREFILL_WEIGHTS_NAME in manifest.files):
            self.problems.append(
                f"files lists one of {PREFILL_GRAPH_NAME} and {PREFILL_WEIGHTS_NAME}, not both"
            )

    def _files(self, data: dict[str, Any]) -> dict[str, FileEntry]:
        entries: dict[str, FileEntry] = {}
        for name, value in data.items():
            problem = check_file_name(name)
            if problem:
                self.problems.append(f"files: {name[:80]!r} {problem}")
                continue
            entry = value if isinstance(value, dict) else {}
            digest = self._str(entry, "sha256", f"files.{name}.").lower()
            if not re.fullmatch(r"[0-9a-f]{64}", digest):
                self.problems.append(f"files.{name}.sha256 is not a SHA-256 digest in hex")
            entries[name] = FileEntry(size=self._int(entry, "size", 0, where=f"files.{name}."), sha256=digest)
        return entries

    def _provenance(self, data: dict[str, Any]) -> Provenance:
        names = ("source", "source_sha256", "exporter", "onnxruntime_floor")
        return Provenance(**{name: self._str(data, name, "provenance.") for name in names})

    def _probe(self, data: dict[str, Any]) -> Probe:
        return Probe(
            text=self._str(data, "text", "probe."),
            token_ids=self._ids(data, "token_ids", "probe."),
            argmax=self._int(data, "argmax", 0, where="probe."),
        )

    def _parity(self, data: dict[str, Any]) -> Parity:
        where = "parity."
        return Parity(
            reference=self._str(data, "reference", where),
            prompt_tokens=self._int(data, "prompt_tokens", 0, where=where),
            cached_steps=self._int(data, "cached_steps", 0, where=where),
            max_abs_logits_difference=self._float(data, "max_abs_logits_difference", where),
            max_abs_hidden_difference=self._float(data, "max_abs_hidden_difference", where),
            greedy_agreement=self._float(data, "greedy_agreement", where),
        )

    def _quality(self, data: dict[str, Any]) -> Quality:
        where = "quality."
        perplexity = data.get("perplexity")
        return Quality(
            texts=self._int(data, "texts", 0, where=where),
            tokens=self._int(data, "tokens", 0, where=where),
            kl_divergence=self._float(data, "kl_divergence", where),
            top1_agreement=self._float(data, "top1_agreement", where),
            perplexity=None
            if perplexity is None
            else self._perplexity(self._section(data, "perplexity", where)),
        )

    def _portable(self, data: dict[str, Any]) -> PortableGraph:
        where = "portable."
        flags = ("attention_mask", "position_ids", "cache_branch", "hidden_states")
        return PortableGraph(
            file=self._str(data, "file", where),
            data_files=self._strings(data, "data_files", where),
            cache=self._one_of(data, "cache", CACHE_LAYOUTS, where),
            ids_type=self._one_of(data, "ids_type", IDS_TYPES, where),
            **{name: self._bool(data, name, where) for name in flags},
        )

    def _perplexity(self, data: dict[str, Any]) -> Perplexity:
        where = "quality.perplexity."
        return Perplexity(
            text=self._str(data, "text", where),
            tokens=self._int(data, "tokens", 0, where=where),
            stride=self._int(data, "stride", 1, where=where),
            value=self._float(data, "value", where),
            fp32=self._float(data, "fp32", where),
        )

    def _section(self, data: dict[str, Any], name: str, where: str = "") -> dict[str, Any]:
        value = data.get(name)
        if not isinstance(value, dict):
            self.problems.append(f"{where}{name} must be an object")
            return {}
        return value

    def _int(self, data: dict[str, Any], name: str, low: int, high: int = 2**63 - 1, where: str = "") -> int:
        value = data.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.problems.append(f"{where}{name} must be an integer of at least {low}")
            return low
        return value

    def _float(self, data: dict[str, Any], name: str, where: str) -> float:
        value = data.get(name)
        try:
            if not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value):
                return float(value)
        except OverflowError:  # an integer beyond every float
            pass
        self.problems.append(f"{where}{name} must be a finite number")
        return 0.0

    def _str(self, data: dict[str, Any], name: str, where: str = "") -> str:
        value = data.get(name)
        if not isinstance(value, str) or not value or _LONE_SURROGATE.search(value):
            self.problems.append(f"{where}{name} must be a string")
            return ""
        return value

    def _notes(self, value: object) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(
            isinstance(note, str) and not _LONE_SURROGATE.search(note) for note in value
        ):
            self.problems.append("notes must be a list of strings")
            return ()
        return tuple(value)

    def _strings(self, data: dict[str, Any], name: str, where: str) -> tuple[str, ...]:
        value = data.get(name)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.problems.append(f"{where}{name} must be a list of strings")
            return ()
        return tuple(value)

    def _bool(self, data: dict[str, Any], name: str, where: str = "") -> bool:
        value = data.get(name)
        if not isinstance(value, bool):
            self.problems.append(f"{where}{name} must be true or false")
        return value is True

    def _ids(self, data: dict[str, Any], name: str, where: str) -> tuple[int, ...]:
        value = data.get(name)
        if not isinstance(value, list) or not all(
            isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in value
        ):
            self.problems.append(f"{where}{name} must be a list of token ids")
            return ()
        return tuple(value)

    def _one_of(self, data: dict[str, Any], name: str, legal: tuple[Any, ...], where: str = "") -> Any:
        value = data.get(name)
        if value not in legal:
            self.problems.append(f"{where}{name} must be one of {', '.join(legal)}")
            return legal[0]
        return value

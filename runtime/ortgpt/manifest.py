"""The manifest: the contract between export and runtime, as plain data.

Export writes it with `Manifest.to_json`, the runtime reads and checks it with
`ortgpt.manifest_reader.read_manifest`.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Literal, get_args

MANIFEST_NAME = "manifest.json"
GRAPH_NAME = "decoder.onnx"
WEIGHTS_NAME = "decoder.onnx.data"
PREFILL_GRAPH_NAME = "prefill.onnx"
PREFILL_WEIGHTS_NAME = "prefill.onnx.data"
TOKENIZER_NAME = "tokenizer.json"
GENERATION_CONFIG_NAME = "generation_config.json"

# 1.1: precisions other than fp32, quality, prefill.onnx. 1.2: the portable dialect, kv_heads
SCHEMA_MAJOR, SCHEMA_MINOR = 1, 2
MAX_MANIFEST_BYTES = 1 << 20

Dialect = Literal["fused", "portable"]
DIALECTS: tuple[Dialect, ...] = get_args(Dialect)
CacheLayout = Literal["pairs", "stacked"]
CACHE_LAYOUTS: tuple[CacheLayout, ...] = get_args(CacheLayout)
IdsType = Literal["int64", "int32"]
IDS_TYPES: tuple[IdsType, ...] = get_args(IdsType)
Precision = Literal["fp32", "fp16", "int8", "int8-dynamic", "int4"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
ElementType = Literal["float32", "float16"]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The model's shape.

    width            size of the hidden states (n_embd)
    head_size        the model's own; cache_head_size is what the graph's cache holds, zero-padded
                     to a multiple of 8
    vocab_size       rows of the embedding table, columns of the logits
    tokenizer_size   ids that the tokenizer knows; ids from here to vocab_size are never generated
    bos_token_id     begins an empty prompt; None: the first eos id does
    eos_token_ids    end a text
    kv_heads         heads of keys and values where several heads of queries share one; None: as many
    """

    model_type: str
    layers: int
    heads: int
    head_size: int
    cache_head_size: int
    width: int
    context: int
    vocab_size: int
    tokenizer_size: int
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    kv_heads: int | None = None

    @property
    def cache_heads(self) -> int:
        """Heads that the cache holds."""
        return self.kv_heads or self.heads

    def cache_bytes_per_token(self, itemsize: int = 4) -> int:
        """Bytes that one token of one row takes in the cache: keys and values of every layer."""
        return 2 * self.layers * self.cache_heads * self.cache_head_size * itemsize


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of the bundle: bytes and lowercase hex digest."""

    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where the bundle comes from, and the oldest onnxruntime that can run it ("1.32")."""

    source: str
    source_sha256: str
    exporter: str
    onnxruntime_floor: str


@dataclass(frozen=True, kw_only=True)
class Parity:
    """What the export compared, in plain numbers."""

    reference: str
    prompt_tokens: int
    cached_steps: int
    max_abs_logits_difference: float
    max_abs_hidden_difference: float
    greedy_agreement: float


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """Of one text under the bundle (`value`) and under the fp32 model.

    text    the file's name
    stride  tokens by which the windows move that it was read in
    """

    text: str
    tokens: int
    stride: int
    value: float
    fp32: float


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What a bundle that is not fp32 has lost: its next-token distributions against those of fp32.

    texts, tokens   how much of the fp32 model's own sampled text was compared
    kl_divergence   KL(fp32 || bundle), mean over the tokens, in nats
    top1_agreement  share of the tokens after which both hold the same one for the likeliest
    """

    texts: int
    tokens: int
    kl_divergence: float
    top1_agreement: float
    perplexity: Perplexity | None = None


@dataclass(frozen=True, kw_only=True)
class PortableGraph:
    """What a graph of the portable dialect takes and gives, where exporters differ.

    file            the graph's file
    data_files      the files that hold its weights; empty: they are in the graph's file
    cache           "pairs": past_key_values.N.key and .value, each [rows, kv_heads, length, head_size];
                    "stacked": past_N, [2, rows, kv_heads, length, head_size]
    ids_type        of input_ids, attention_mask and position_ids
    attention_mask  whether it takes one, [rows, past + new]: 0 hides a cell
    position_ids    whether it takes them; else it works positions out by itself
    cache_branch    whether it is a merged decoder, which is told by use_cache_branch if there is a past
    hidden_states   whether it gives them, after the last norm
    """

    file: str
    data_files: tuple[str, ...]
    cache: CacheLayout
    ids_type: IdsType
    attention_mask: bool
    position_ids: bool
    cache_branch: bool
    hidden_states: bool


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A known answer that shows the tokenizer and the weights belong together.

    text         a sentence
    token_ids    its ids
    argmax       the model's greedy id after it
    """

    text: str
    token_ids: tuple[int, ...]
    argmax: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything the runtime relies on.

    block_size     weights that share a scale; None: there are none, or a whole column shares it
    row_invariant  whether a row's numbers are the same bits whatever other rows run beside it
    parity         "skipped" where nothing was measured
    quality        of a bundle that is not fp32; None where nothing was measured. A bundle with two graphs has
                   that of the one that loses more
    portable       of the portable dialect: how its graph is spoken to; None for the fused one
    """

    architecture: Architecture
    dialect: Dialect
    precision: Precision
    block_size: int | None
    row_invariant: bool
    files: dict[str, FileEntry]
    provenance: Provenance
    probe: Probe
    parity: Parity | Literal["skipped"]
    notes: tuple[str, ...] = ()
    quality: Quality | None = None
    portable: PortableGraph | None = None
    schema_version: str = field(default=f"{SCHEMA_MAJOR}.{SCHEMA_MINOR}")

    @property
    def ragged_widths(self) -> bool:
        """Whether the graph has query_seqlens, which onnxruntime 1.32 brought."""
        return parse_version(self.provenance.onnxruntime_floor) >= (1, 32)

    @property
    def fast_prefill(self) -> bool:
        """Whether the bundle has a second graph, with a second copy of the layers, for wide steps."""
        return PREFILL_GRAPH_NAME in self.files

    @property
    def hidden_states(self) -> bool:
        """Whether the graph gives them."""
        return self.portable is None or self.portable.hidden_states

    @property
    def graph_name(self) -> str:
        """The graph's file."""
        return GRAPH_NAME if self.portable is None else self.portable.file

    @property
    def data_names(self) -> tuple[str, ...]:
        """The files that hold weights. decoder.onnx refers to the first one only, prefill.onnx to both."""
        if self.portable is not None:
            return self.portable.data_files
        return (WEIGHTS_NAME, PREFILL_WEIGHTS_NAME) if self.fast_prefill else (WEIGHTS_NAME,)

    @property
    def element_type(self) -> ElementType:
        """Of what goes through the graph, and of the cache."""
        return element_type(self.precision)

    def to_json(self) -> str:
        data = asdict(self)
        ordered = {"schema_version": data.pop("schema_version"), **data}
        return json.dumps(ordered, indent=2, allow_nan=False) + "\n"


def element_type(precision: Precision) -> ElementType:
    """What a precision computes in; the integers of a quantised one are weights only."""
    return "float16" if precision == "fp16" else "float32"


def parse_version(text: str) -> tuple[int, int]:
    """(major, minor) of a version like "1.32" or "1.32.0"."""
    match = re.match(r"(\d{1,6})\.(\d{1,6})", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def check_file_name(name: str) -> str | None:
    """What is wrong with a file name in a manifest, or None. Only plain names are legal."""
    if not 1 <= len(name) <= 255 or "\0" in name or not name.isprintable():
        return "is not a file name"
    if PurePosixPath(name).name != name or "\\" in name or ":" in name or name in (".", ".."):
        return "is not a plain file name inside the bundle"
    stem = name.split(".", 1)[0].upper()
    if stem in {"CON", "PRN", "AUX", "NUL"} or re.fullmatch(r"(COM|LPT)\d", stem):
        return "is a reserved device name"
    return None

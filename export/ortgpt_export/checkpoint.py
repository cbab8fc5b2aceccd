"""The weights of a GPT-2 checkpoint in safetensors files: checked as a whole, read one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from ortgpt.checks import shown
from ortgpt.errors import CheckpointError, MissingExtraError
from ortgpt.interfaces import Floats
from ortgpt.manifest import check_file_name
from ortgpt_export.config import GPT2Config
from ortgpt_export.json_file import read_object
from ortgpt_export.safetensors_header import MAX_TENSORS, TensorInfo, read_header

try:
    import ml_dtypes  # noqa: F401  (its import teaches numpy the name "bfloat16")
    from safetensors import SafetensorError, safe_open
except ImportError as error:
    raise MissingExtraError("export", "export", package=error.name or "safetensors") from None

WEIGHTS_FILE = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
DTYPES = ("F32", "F16", "BF16")
MAX_PROBLEMS = 30  # that one message lists

_CONVERT = (
    "convert it once where transformers is installed:\n"
    "  from transformers import AutoModelForCausalLM\n"
    '  AutoModelForCausalLM.from_pretrained("DIR").save_pretrained("DIR", safe_serialization=True)'
)


class Checkpoint(Mapping[str, Floats]):
    """GPT-2's weights by canonical name (`wte.weight`, `h.0.attn.c_attn.weight`, ...), as float32.

    Every access reads from disk and checks for NaN and infinity, so that no more than one tensor is
    in memory. Linear weights are (in, out), as GPT-2 stores them. `lm_head.weight` is there only when
    the head is not the embedding table. Close it, or use it in a with statement.
    """

    def __init__(self, tensors: dict[str, tuple[Path, str, TensorInfo]]) -> None:
        self._tensors = tensors  # canonical name -> (file, name in the file, header entry)
        self._files: dict[Path, Any] = {}
        self._open = ExitStack()

    def __getitem__(self, name: str) -> Floats:
        path, stored_name, _ = self._tensors[name]
        try:
            if path not in self._files:
                self._files[path] = self._open.enter_context(safe_open(path, framework="np"))
            values: Floats = self._files[path].get_tensor(stored_name).astype(np.float32, copy=False)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path.name} can't be read: {error}") from None
        if not np.isfinite(values).all():
            raise CheckpointError(f"{path.name}: {stored_name} holds NaN or infinite values")
        return values

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @property
    def nbytes(self) -> int:
        """Bytes that the weights take as float32."""
        return 4 * sum(info.size for _, _, info in self._tensors.values())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.clear()
        self._open.close()


def open_checkpoint(directory: Path, config: GPT2Config) -> Checkpoint:
    """The weights in a directory, checked against the configuration.

    Raises CheckpointError that lists every tensor which is missing, unexpected, of the wrong shape
    or of a type other than float32, float16 and bfloat16.
    """
    found = _canonical(read_headers(directory))
    if config.tie_word_embeddings and "wte.weight" not in found and "lm_head.weight" in found:
        found["wte.weight"] = found.pop("lm_head.weight")  # one shared tensor, saved under either name
    expected = expected_shapes(config)
    if config.tie_word_embeddings and "lm_head.weight" not in found:
        del expected["lm_head.weight"]
    _check_tensors(expected, {name: info for name, (_, _, info) in found.items()})
    checkpoint = Checkpoint({name: found[name] for name in expected})
    if "lm_head.weight" in found:
        _drop_equal_head(checkpoint, config)
    return checkpoint


def expected_shapes(config: GPT2Config) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all weights, in the order of the forward pass."""
    width, inner = config.n_embd, config.n_inner
    shapes: dict[str, tuple[int, ...]] = {
        "wte.weight": (config.vocab_size, width),
        "wpe.weight": (config.n_positions, width),
    }
    block: dict[str, tuple[int, ...]] = {
        "ln_1.weight": (width,),
        "ln_1.bias": (width,),
        "attn.c_attn.weight": (width, 3 * width),
        "attn.c_attn.bias": (3 * width,),
        "attn.c_proj.weight": (width, width),
        "attn.c_proj.bias": (width,),
        "ln_2.weight": (width,),
        "ln_2.bias": (width,),
        "mlp.c_fc.weight": (width, inner),
        "mlp.c_fc.bias": (inner,),
        "mlp.c_proj.weight": (inner, width),
        "mlp.c_proj.bias": (width,),
    }
    for layer in range(config.n_layer):
        shapes.update({f"h.{layer}.{name}": shape for name, shape in block.items()})
    shapes.update({"ln_f.weight": (width,), "ln_f.bias": (width,)})
    shapes["lm_head.weight"] = (config.vocab_size, width)
    return shapes


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a checkpoint: one, or the shards that the index names."""
    if (directory / WEIGHTS_FILE).exists():
        return [directory / WEIGHTS_FILE]
    if (directory / INDEX_NAME).exists():
        return [directory / name for name in sorted(set(_read_index(directory).values()))]
    unread = [
        name
        for name in ("pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack")
        if (directory / name).exists()
    ] + sorted(path.name for path in directory.glob("*.np[yz]"))
    if unread:
        raise CheckpointError(
            f"the checkpoint has no {WEIGHTS_FILE}, only {', '.join(unread)}: such files are never read, "
            "because a pickle can run code and the others would need their frameworks",
            hint=_CONVERT,
        )
    raise CheckpointError(f"the checkpoint has neither {WEIGHTS_FILE} nor {INDEX_NAME}", hint=_CONVERT)


def read_headers(directory: Path) -> dict[str, tuple[Path, TensorInfo]]:
    """Every tensor of every file; a sharded checkpoint must hold exactly what its index says."""
    tensors: dict[str, tuple[Path, TensorInfo]] = {}
    for path in weight_files(directory):
        for name, info in read_header(path).items():
            if name in tensors:
                raise CheckpointError(f"{shown(name)} is in both {tensors[name][0].name} and {path.name}")
            tensors[name] = (path, info)
        if len(tensors) > MAX_TENSORS:
            raise CheckpointError(f"the checkpoint has more than {MAX_TENSORS:,} tensors")
    if not (directory / WEIGHTS_FILE).exists():
        for name, file_name in _read_index(directory).items():
            if name not in tensors or tensors[name][0].name != file_name:
                raise CheckpointError(f"{INDEX_NAME}: {shown(name)} is not in {file_name}")
    return tensors


def _read_index(directory: Path) -> dict[str, str]:
    weight_map = read_object(directory / INDEX_NAME).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{INDEX_NAME}: weight_map must map tensor names to file names")
    for file_name in weight_map.values():
        problem = check_file_name(file_name) if isinstance(file_name, str) else "is not a file name"
        if problem is None and not file_name.endswith(".safetensors"):
            problem = "is not a safetensors file"
        if problem:
            raise CheckpointError(f"{INDEX_NAME}: weight_map: {shown(file_name)} {problem}")
    return weight_map


def _canonical(
    tensors: dict[str, tuple[Path, TensorInfo]],
) -> dict[str, tuple[Path, str, TensorInfo]]:
    """Names without the prefix "transformer.", and without the causal masks that old files hold."""
    result: dict[str, tuple[Path, str, TensorInfo]] = {}
    for stored_name, (path, info) in tensors.items():
        name = stored_name.removeprefix("transformer.")
        if name.startswith("h.") and name.endswith((".attn.bias", ".attn.masked_bias")):
            continue
        if name in result:
            raise CheckpointError(f"{path.name} holds both {shown(stored_name)} and {shown(result[name][1])}")
        result[name] = (path, stored_name, info)
    return result


def _check_tensors(expected: dict[str, tuple[int, ...]], found: dict[str, TensorInfo]) -> None:
    problems = [f"{name} is missing" for name in expected if name not in found]
    for name, info in found.items():
        if name not in expected:
            problems.append(f"{shown(name)} is not part of the GPT-2 that config.json describes")
        elif info.shape != expected[name]:
            problems.append(f"{name} has shape {list(info.shape)}, not {list(expected[name])}")
        elif info.dtype not in DTYPES:
            problems.append(f"{name} has type {info.dtype}, not one of {', '.join(DTYPES)}")
    if problems:
        rest = len(problems) - MAX_PROBLEMS
        shown_problems = problems[:MAX_PROBLEMS] + ([f"and {rest} more"] if rest > 0 else [])
        raise CheckpointError("the weights do not fit config.json: " + "; ".join(shown_problems))


def _drop_equal_head(checkpoint: Checkpoint, config: GPT2Config) -> None:
    """Share one tensor where a separate head equals the embedding table."""
    if np.array_equal(checkpoint["lm_head.weight"], checkpoint["wte.weight"]):
        del checkpoint._tensors["lm_head.weight"]
    elif config.tie_word_embeddings:
        raise CheckpointError(
            "config.json: tie_word_embeddings = true, but lm_head.weight differs from wte.weight",
            hint="set tie_word_embeddings to false in config.json if the separate head is meant",
        )

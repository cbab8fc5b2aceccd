"""Checkpoints to spoil, and the bare graph on onnxruntime without the runtime's decoder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from checkpoints import make_checkpoint
from safetensors.numpy import load_file, save_file

from ortgpt.manifest import Manifest
from ortgpt_export.checkpoint import open_checkpoint
from ortgpt_export.config import GPT2Config, read_config
from ortgpt_export.exporter import export_checkpoint
from ortgpt_export.graph import write_graph
from ortgpt_export.job import describe
from ortgpt_export.schemes import SCHEMES, Scheme

Weights = dict[str, np.ndarray]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A whole random checkpoint of two layers; a test may change it."""
    return make_checkpoint(tmp_path / "checkpoint")


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A whole random checkpoint of another family; a test may change it."""
    from portable_exports import make_portable_checkpoint  # brings torch along

    return make_portable_checkpoint(tmp_path / "tiny-llama", "llama")


@pytest.fixture
def export() -> Callable[..., Manifest]:
    """export(checkpoint, bundle, ...): via Optimum."""

    def run(source: Path, output: Path, **options: Any) -> Manifest:
        return export_checkpoint(str(source), output, via="optimum", **options)

    return run


@pytest.fixture
def edit_config() -> Callable[..., None]:
    """edit_config(directory, key=value, ...): change config.json."""

    def edit(directory: Path, **changes: Any) -> None:
        path = directory / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


@pytest.fixture
def edit_weights() -> Callable[[Path, Callable[[Weights], Weights]], None]:
    """edit_weights(directory, change): replace the weights by change(weights)."""

    def edit(directory: Path, change: Callable[[Weights], Weights]) -> None:
        path = directory / "model.safetensors"
        save_file(change(load_file(path)), path, metadata={"format": "pt"})

    return edit


@pytest.fixture
def weights_of_two_layers(checkpoint: Path) -> tuple[Weights, GPT2Config]:
    """What the export reads of `checkpoint`."""
    config = read_config(checkpoint)
    with open_checkpoint(checkpoint, config) as weights:
        return dict(weights), config


class Graph:
    """One row on the bare graph; feeds exactly what the graph's contract asks for, cache in place."""

    def __init__(
        self,
        checkpoint: Path,
        folder: Path,
        onnxruntime_floor: str = "1.32",
        scheme: Scheme = SCHEMES["fp32"],
    ) -> None:
        self.config: GPT2Config = read_config(checkpoint)
        self._is_ragged = onnxruntime_floor == "1.32"
        architecture = describe(self.config, self.config.vocab_size)
        folder.mkdir(exist_ok=True)
        with (
            open_checkpoint(checkpoint, self.config) as weights,
            (folder / "decoder.onnx.data").open("wb") as file,
        ):
            self.proto = write_graph(
                weights, self.config, architecture, file, ragged_widths=self._is_ragged, scheme=scheme
            )
        self.path = folder / "decoder.onnx"
        self.path.write_bytes(self.proto)
        self._session = onnxruntime.InferenceSession(str(self.path), providers=["CPUExecutionProvider"])
        shape = (1, architecture.heads, self.config.n_positions, architecture.cache_head_size)
        self._has_bias = scheme.element_type == "float32"
        self._cache = {
            f"{layer}.{kind}": onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, scheme.element_type))
            for layer in range(self.config.n_layer)
            for kind in ("key", "value")
        }
        self._length = 0

    def extend(self, token_ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """(logits (new, vocab), hidden (new, n_embd)) of new tokens."""
        new, total = len(token_ids), self._length + len(token_ids)
        positions = np.arange(self._length, total)[None]
        feeds: dict[str, np.ndarray] = {
            "input_ids": np.array([token_ids], np.int64),
            "position_ids": positions.astype(np.int64),
            "seqlens_k": np.array([total - 1], np.int32),
            "total_sequence_length": np.array(total, np.int32),
            "output_positions": np.arange(new, dtype=np.int64)[None],
        }
        if self._has_bias:
            feeds["attention_bias"] = np.zeros((1, 1, new, total), np.float32)
        if self._is_ragged:
            feeds["query_seqlens"] = np.array([new], np.int32)
        binding = self._session.io_binding()
        for name, value in feeds.items():
            binding.bind_cpu_input(name, value)
        for name, value in self._cache.items():
            binding.bind_ortvalue_input(f"past_key_values.{name}", value)
            binding.bind_ortvalue_output(f"present.{name}", value)
        binding.bind_output("logits")
        binding.bind_output("hidden_states")
        self._session.run_with_iobinding(binding)
        self._length = total
        logits, hidden = (value.numpy() for value in binding.get_outputs()[-2:])
        return logits[0], hidden[0]

    def run(self, token_ids: list[int], prompt: int) -> tuple[np.ndarray, np.ndarray]:
        """The first `prompt` tokens at once, the others one by one."""
        steps = [self.extend(token_ids[:prompt])] + [self.extend([i]) for i in token_ids[prompt:]]
        return np.concatenate([s[0] for s in steps]), np.concatenate([s[1] for s in steps])


@pytest.fixture
def make_graph(tmp_path: Path) -> Callable[..., Graph]:
    """make_graph(checkpoint, onnxruntime_floor="1.32", scheme=fp32) -> the graph on onnxruntime."""

    def make(checkpoint: Path, **options: Any) -> Graph:
        return Graph(checkpoint, tmp_path / "graph", **options)

    return make

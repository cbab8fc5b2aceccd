"""Authors the fused ONNX graph of a GPT-2 straight from its weights.

Per layer: SkipLayerNormalization (adds the residual and the previous bias), MatMul + Add for query,
key and value, GroupQueryAttention on the host's cache buffers, MatMul, SkipLayerNormalization, MatMul,
bias + activation, MatMul. The head runs at output_positions only and shares the embedding's initializer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np

from ortgpt.errors import MissingExtraError
from ortgpt.graph_contract import FLOAT, INT32, INT64, Port, cache_names, fused_inputs, fused_outputs
from ortgpt.interfaces import Floats
from ortgpt.manifest import WEIGHTS_NAME, Architecture
from ortgpt_export.config import GPT2Config
from ortgpt_export.external_data import ALIGNMENT, ExternalData

try:
    from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper
except ImportError as error:
    raise MissingExtraError("export", "export", package=error.name or "onnx") from None

OPSET = 20  # com.microsoft operators do the rest; both load from onnxruntime 1.31 on
IR_VERSION = 10
HEAD_SIZE_MULTIPLE = 8  # GroupQueryAttention on CPU takes no other head sizes
QUERY_SEQLENS_INPUT = 16  # its place among GroupQueryAttention's inputs
MICROSOFT = "com.microsoft"

_ONNX_TYPES = {FLOAT: TensorProto.FLOAT, INT32: TensorProto.INT32, INT64: TensorProto.INT64}

OnBytes = Callable[[int], None]
"""Is told the bytes of each weight that has been written."""


def cache_head_size(config: GPT2Config) -> int:
    """The head size inside the graph: zero-padded to a multiple of 8."""
    return -(-config.head_size // HEAD_SIZE_MULTIPLE) * HEAD_SIZE_MULTIPLE


def data_bytes(config: GPT2Config, weight_bytes: int) -> int:
    """About how large the graph's data file gets: the weights, padded heads, page alignment."""
    width, padding = config.n_embd, cache_head_size(config) / config.head_size - 1
    padded = 4 * config.n_layer * (4 * width * width + 3 * width) * padding
    return weight_bytes + int(padded) + ALIGNMENT * (12 * config.n_layer + 5)


def write_graph(
    weights: Mapping[str, Floats],
    config: GPT2Config,
    architecture: Architecture,
    data_file: BinaryIO,
    *,
    ragged_widths: bool,
    on_bytes: OnBytes = lambda _: None,
) -> bytes:
    """Write the weights into data_file, tensor by tensor; returns the serialised graph.

    data_file becomes the file named WEIGHTS_NAME beside the graph. ragged_widths adds the input
    query_seqlens, which onnxruntime knows from 1.32 on.
    """
    inputs = fused_inputs(architecture, ragged_widths=ragged_widths)
    author = _Author(weights, config, ExternalData(data_file, WEIGHTS_NAME), ragged_widths, on_bytes)
    graph = helper.make_graph(
        author.nodes(),
        "gpt2",
        [_value_info(port) for port in inputs],
        [_value_info(port) for port in fused_outputs(architecture)],
        author.initializers,
    )
    model: ModelProto = helper.make_model(
        graph,
        producer_name="ortgpt",
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)],
        ir_version=IR_VERSION,
    )
    return bytes(model.SerializeToString(deterministic=True))


def _value_info(port: Port) -> ValueInfoProto:
    return helper.make_tensor_value_info(port.name, _ONNX_TYPES[port.dtype], port.shape)


class _Author:
    """Emits the nodes in the order of the forward pass, and each weight where it is first used."""

    def __init__(
        self,
        weights: Mapping[str, Floats],
        config: GPT2Config,
        data: ExternalData,
        ragged_widths: bool,
        on_bytes: OnBytes,
    ) -> None:
        self._weights = weights
        self._config = config
        self._data = data
        self._ragged_widths = ragged_widths
        self._on_bytes = on_bytes
        self._nodes: list[NodeProto] = []
        self._constants: list[TensorProto] = []

    @property
    def initializers(self) -> list[TensorProto]:
        return [*self._data.initializers, *self._constants]

    def nodes(self) -> list[NodeProto]:
        """The whole model."""
        residual, added, bias = self._embedding()
        for layer in range(self._config.n_layer):
            residual, added, bias = self._block(layer, residual, added, bias)
        self._norm("ln_f", residual, added, bias, "hidden_states")
        self._head()
        return self._nodes

    def _embedding(self) -> tuple[str, str, str]:
        """(token vectors, position vectors, no bias): the first norm adds them up."""
        self._node("Gather", [self._weight("wte.weight"), "input_ids"], ["tokens"])
        self._node("Gather", [self._weight("wpe.weight"), "position_ids"], ["positions"])
        return "tokens", "positions", ""

    def _block(self, layer: int, residual: str, added: str, bias: str) -> tuple[str, str, str]:
        """One layer; returns (residual, what the next norm adds to it, the bias it adds as well)."""
        h = f"h.{layer}."
        residual = self._norm(h + "ln_1", residual, added, bias, h + "ln_1", keep_sum=True)
        attended = self._attention(layer)
        bias = self._weight(h + "attn.c_proj.bias")
        residual = self._norm(h + "ln_2", residual, attended, bias, h + "ln_2", keep_sum=True)
        self._node("MatMul", [h + "ln_2", self._weight(h + "mlp.c_fc.weight")], [h + "mlp.c_fc"])
        activated = self._activation(h + "mlp.c_fc", self._weight(h + "mlp.c_fc.bias"), h + "mlp.act")
        self._node("MatMul", [activated, self._weight(h + "mlp.c_proj.weight")], [h + "mlp.c_proj"])
        return residual, h + "mlp.c_proj", self._weight(h + "mlp.c_proj.bias")

    def _norm(
        self, weight: str, residual: str, added: str, bias: str, output: str, *, keep_sum: bool = False
    ) -> str:
        """output = layer norm of (residual + added + bias); returns the name of that sum."""
        inputs = [residual, added, self._weight(weight + ".weight"), self._weight(weight + ".bias")]
        outputs = [output, "", "", weight + ".sum"] if keep_sum else [output]
        self._node(
            "SkipLayerNormalization",
            inputs + ([bias] if bias else []),
            outputs,
            MICROSOFT,
            epsilon=self._config.layer_norm_epsilon,
        )
        return weight + ".sum"

    def _attention(self, layer: int) -> str:
        """Attention over the past and the new tokens, without the output bias."""
        a = f"h.{layer}.attn."
        weight, bias = self._weights[a + "c_attn.weight"], self._weights[a + "c_attn.bias"]
        self._write(a + "c_attn.weight", self._pad_heads(weight, 3, axis=1))
        self._write(a + "c_attn.bias", self._pad_heads(bias, 3, axis=0))
        self._write(a + "c_proj.weight", self._pad_heads(self._weights[a + "c_proj.weight"], 1, axis=0))
        self._node("MatMul", [f"h.{layer}.ln_1", a + "c_attn.weight"], [a + "c_attn.product"])
        self._node("Add", [a + "c_attn.product", a + "c_attn.bias"], [a + "c_attn"])
        (past_key, present_key), (past_value, present_value) = cache_names(layer)
        inputs = [a + "c_attn", "", "", past_key, past_value, "seqlens_k", "total_sequence_length"]
        inputs += ["", "", "", "attention_bias"]
        if self._ragged_widths:
            inputs += [""] * (QUERY_SEQLENS_INPUT - len(inputs)) + ["query_seqlens"]
        self._node(
            "GroupQueryAttention",
            inputs,
            [a + "heads", present_key, present_value],
            MICROSOFT,
            num_heads=self._config.n_head,
            kv_num_heads=self._config.n_head,
            scale=self._attention_scale(layer),
        )
        self._node("MatMul", [a + "heads", a + "c_proj.weight"], [a + "c_proj"])
        return a + "c_proj"

    def _attention_scale(self, layer: int) -> float:
        """What query-key products are multiplied by; from the model's own head size, not the padded one."""
        scale = 1 / math.sqrt(self._config.head_size) if self._config.scale_attn_weights else 1.0
        return scale / (layer + 1) if self._config.scale_attn_by_inverse_layer_idx else scale

    def _pad_heads(self, values: Floats, parts: int, axis: int) -> Floats:
        """Zero-pad every head along an axis that holds parts * heads * head_size entries."""
        heads, size, padded = self._config.n_head, self._config.head_size, cache_head_size(self._config)
        if size == padded:
            return values
        before, after = values.shape[:axis], values.shape[axis + 1 :]
        split = values.reshape(*before, parts * heads, size, *after)
        pads = [(0, 0)] * split.ndim
        pads[axis + 1] = (0, padded - size)
        return np.pad(split, pads).reshape(*before, parts * heads * padded, *after)

    def _activation(self, values: str, bias: str, output: str) -> str:
        """The MLP's activation of values + bias."""
        kind = self._config.activation
        fused = {"gelu_tanh": "FastGelu", "gelu": "BiasGelu"}.get(kind)
        if fused:
            return self._node(fused, [values, bias], [output], MICROSOFT)
        biased = self._node("Add", [values, bias], [output + ".in"])
        if kind == "silu":
            return self._node("QuickGelu", [biased], [output], MICROSOFT, alpha=1.0)
        if kind == "quick_gelu":
            return self._node("QuickGelu", [biased], [output], MICROSOFT, alpha=1.702)
        plain = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid"}.get(kind)
        return self._node(plain, [biased], [output]) if plain else biased

    def _head(self) -> None:
        """Logits of the hidden states at output_positions."""
        self._constants.append(helper.make_tensor("last_axis", TensorProto.INT64, [1], [-1]))
        self._node("Unsqueeze", ["output_positions", "last_axis"], ["output_indices"])
        self._node("GatherND", ["hidden_states", "output_indices"], ["output_states"], batch_dims=1)
        is_separate = "lm_head.weight" in self._weights
        table = self._weight("lm_head.weight") if is_separate else "wte.weight"
        self._node("FusedMatMul", ["output_states", table], ["logits"], MICROSOFT, transB=1)

    def _weight(self, name: str) -> str:
        return self._write(name, self._weights[name])

    def _write(self, name: str, values: Floats) -> str:
        self._on_bytes(values.nbytes)
        return self._data.add(name, values)

    def _node(
        self, operator: str, inputs: list[str], outputs: list[str], domain: str = "", **attributes: Any
    ) -> str:
        """Append a node; returns its first output."""
        self._nodes.append(
            helper.make_node(operator, inputs, outputs, name=outputs[0], domain=domain, **attributes)
        )
        return outputs[0]

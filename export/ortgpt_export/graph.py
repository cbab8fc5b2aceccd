"""Authors the fused ONNX graph of a GPT-2 straight from its weights.

Per layer: LayerNormalization, the product for query, key and value, GroupQueryAttention on the host's cache
buffers, a product, the residual's sum, LayerNormalization, product, activation, product, sum. How a product
is made is the scheme's. The head runs at output_positions only and shares the embedding's initializer.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import BinaryIO

from ortgpt.errors import MissingExtraError
from ortgpt.graph_contract import (
    cache_names,
    fused_inputs,
    fused_outputs,
    has_shared_rows,
)
from ortgpt.interfaces import Floats
from ortgpt.manifest import WEIGHTS_NAME, Architecture
from ortgpt_export.config import GPT2Config
from ortgpt_export.external_data import ALIGNMENT
from ortgpt_export.graph_writer import MICROSOFT, GraphWriter, OnBytes, value_infos
from ortgpt_export.heads import cache_head_size, pad_heads
from ortgpt_export.matrices import Tables
from ortgpt_export.schemes import SCHEMES, Scheme

try:
    from onnx import ModelProto, helper
except ImportError as error:
    raise MissingExtraError("export", "export", package=error.name or "onnx") from None

OPSET = 20  # com.microsoft operators do the rest; both load from onnxruntime 1.31 on
IR_VERSION = 10
QUERY_SEQLENS_INPUT = 16  # its place among GroupQueryAttention's inputs


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
    scheme: Scheme = SCHEMES["fp32"],
    location: str = WEIGHTS_NAME,
    beside: bytes = b"",
    own: Collection[str] = (),
    on_bytes: OnBytes = lambda _: None,
) -> bytes:
    """Write the weights into data_file, tensor by tensor; returns the serialised graph.

    data_file becomes the file named `location` beside the graph. ragged_widths adds the input query_seqlens,
    which onnxruntime knows from 1.32 on. on_bytes is told of each weight of the checkpoint, once it is
    written. beside: another serialised graph of the same weights, but for those named in `own`; what both
    hold in the same form stays in that one's data file, and this one refers to it there.
    """
    kind = scheme.element_type
    written = [one for one in ModelProto.FromString(beside).graph.initializer if one.name not in own]
    writer = GraphWriter(data_file, on_bytes, kind, location=location, written=written)
    _Author(weights, config, writer, scheme, ragged_widths).write()
    graph = helper.make_graph(
        writer.nodes,
        "gpt2",
        value_infos(fused_inputs(architecture, ragged_widths=ragged_widths, element_type=kind)),
        value_infos(fused_outputs(architecture, element_type=kind)),
        writer.initializers,
    )
    model: ModelProto = helper.make_model(
        graph,
        producer_name="ortgpt",
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)],
        ir_version=IR_VERSION,
    )
    return bytes(model.SerializeToString(deterministic=True))


class _Author:
    """Emits the nodes in the order of the forward pass, and each weight where it is first used."""

    def __init__(
        self,
        weights: Mapping[str, Floats],
        config: GPT2Config,
        writer: GraphWriter,
        scheme: Scheme,
        ragged_widths: bool,
    ) -> None:
        self._weights = weights
        self._config = config
        self._writer = writer
        self._scheme = scheme
        self._ragged_widths = ragged_widths

    def write(self) -> None:
        """The whole model."""
        residual = self._embedding()
        for layer in range(self._config.n_layer):
            residual = self._block(layer, residual)
        self._norm("ln_f", residual, self._writer.inside("hidden_states"))
        self._writer.give_out("hidden_states")
        self._head()
        self._writer.give_out("logits")

    def _embedding(self) -> str:
        """Token and position vectors, added up."""
        self._look_up(self._scheme.table, "wte.weight", "input_ids", "tokens")
        self._look_up(self._scheme.positions, "wpe.weight", "position_ids", "positions")
        return self._writer.node("Add", ["tokens", "positions"], ["embeddings"])

    def _look_up(self, form: Tables, name: str, ids: str, output: str) -> None:
        table = self._weights[name]
        form.store(self._writer, name, table)
        form.look_up(self._writer, name, table, ids, output)
        self._writer.written(table)

    def _block(self, layer: int, residual: str) -> str:
        """One layer; returns the sum that the next one continues."""
        h = f"h.{layer}."
        self._norm(h + "ln_1", residual, h + "ln_1")
        residual = self._writer.node("Add", [residual, self._attention(layer)], [h + "attn.sum"])
        self._norm(h + "ln_2", residual, h + "ln_2")
        self._multiply(h + "ln_2", h + "mlp.c_fc", self._weights[h + "mlp.c_fc.weight"])
        activated = self._activation(h + "mlp.c_fc", self._weight(h + "mlp.c_fc.bias"), h + "mlp.act")
        bias = self._weight(h + "mlp.c_proj.bias")
        product = self._multiply(activated, h + "mlp.c_proj", self._weights[h + "mlp.c_proj.weight"], bias)
        return self._writer.node("Add", [residual, product], [h + "mlp.sum"])

    def _norm(self, weight: str, values: str, output: str) -> str:
        # Not SkipLayerNormalization, which adds the residual as well and takes three to five times as long.
        return self._writer.node(
            "LayerNormalization",
            [values, self._weight(weight + ".weight"), self._weight(weight + ".bias")],
            [output],
            epsilon=self._config.layer_norm_epsilon,
        )

    def _attention(self, layer: int) -> str:
        """Attention over the past and the new tokens."""
        a = f"h.{layer}.attn."
        bias = self._write(
            a + "c_attn.bias", pad_heads(self._weights[a + "c_attn.bias"], self._config, parts=3, axis=0)
        )
        weight = pad_heads(self._weights[a + "c_attn.weight"], self._config, parts=3, axis=1)
        self._multiply(f"h.{layer}.ln_1", a + "c_attn", weight, bias)
        (past_key, present_key), (past_value, present_value) = cache_names(layer)
        inputs = [a + "c_attn", "", "", past_key, past_value, "seqlens_k", "total_sequence_length"]
        if has_shared_rows(self._scheme.element_type):
            inputs += ["", "", "", "attention_bias"]
        if self._ragged_widths:
            inputs += [""] * (QUERY_SEQLENS_INPUT - len(inputs)) + ["query_seqlens"]
        self._writer.microsoft(
            "GroupQueryAttention",
            inputs,
            [a + "heads", present_key, present_value],
            num_heads=self._config.n_head,
            kv_num_heads=self._config.n_head,
            scale=self._attention_scale(layer),
        )
        weight = pad_heads(self._weights[a + "c_proj.weight"], self._config, parts=1, axis=0)
        return self._multiply(a + "heads", a + "c_proj", weight, self._weight(a + "c_proj.bias"))

    def _attention_scale(self, layer: int) -> float:
        """What query-key products are multiplied by; from the model's own head size, not the padded one."""
        scale = 1 / math.sqrt(self._config.head_size) if self._config.scale_attn_weights else 1.0
        return scale / (layer + 1) if self._config.scale_attn_by_inverse_layer_idx else scale

    def _activation(self, values: str, bias: str, output: str) -> str:
        """The MLP's activation of values + bias."""
        kind = self._config.activation
        fused = {"gelu_tanh": "FastGelu", "gelu": "BiasGelu"}.get(kind)
        if fused:
            return self._writer.microsoft(fused, [values, bias], [output])
        biased = self._writer.node("Add", [values, bias], [output + ".in"])
        if kind == "silu":
            return self._writer.microsoft("QuickGelu", [biased], [output], alpha=1.0)
        if kind == "quick_gelu":
            return self._writer.microsoft("QuickGelu", [biased], [output], alpha=1.702)
        plain = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid"}.get(kind)
        return self._writer.node(plain, [biased], [output]) if plain else biased

    def _head(self) -> None:
        """Logits of the hidden states at output_positions."""
        axis = self._writer.integers("last_axis", [-1])
        self._writer.node("Unsqueeze", ["output_positions", axis], ["output_indices"])
        states = self._writer.inside("hidden_states")
        self._writer.node("GatherND", [states, "output_indices"], ["output_states"], batch_dims=1)
        name, table = "wte.weight", self._weights["wte.weight"]
        if "lm_head.weight" in self._weights:
            name, table = "lm_head.weight", self._weights["lm_head.weight"]
            self._scheme.table.store(self._writer, name, table)
            self._writer.written(table)
        self._scheme.table.project(self._writer, "output_states", name, table, self._writer.inside("logits"))

    def _multiply(self, x: str, name: str, weight: Floats, bias: str = "") -> str:
        """The product of x and a weight (in, out), plus a bias; returns the output, called `name`."""
        self._scheme.layers.multiply(self._writer, x, name + ".weight", weight, name, bias)
        self._writer.written(weight)
        return name

    def _weight(self, name: str) -> str:
        return self._write(name, self._weights[name])

    def _write(self, name: str, values: Floats) -> str:
        self._writer.written(values)
        return self._writer.floats(name, values)

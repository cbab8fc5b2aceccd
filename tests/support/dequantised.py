"""What a quantised graph computes with: the weights that its integers stand for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ortgpt_export.config import GPT2Config
from ortgpt_export.graph import cache_head_size
from ortgpt_export.matrices import BlockMatrices, DynamicMatrices
from ortgpt_export.quantise import dequantise_blocks, quantise_blocks, quantise_columns
from ortgpt_export.schemes import Scheme

LAYERS = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


def dequantised(
    weights: Mapping[str, np.ndarray], config: GPT2Config, scheme: Scheme
) -> dict[str, np.ndarray]:
    """A checkpoint's weights as a graph of the scheme has them."""
    forms = {"wte.weight": scheme.table, "lm_head.weight": scheme.table, "wpe.weight": scheme.positions}
    result = {}
    for name, values in weights.items():
        if name in forms:
            result[name] = stored(values, forms[name])
        elif name.endswith("attn.c_proj.weight"):
            result[name] = with_padded_heads(values, config, scheme)
        elif name.endswith(LAYERS):
            result[name] = stored(values.T, scheme.layers).T
        else:
            result[name] = values
    return result


def stored(matrix: np.ndarray, form: object) -> np.ndarray:
    """A matrix (out, in) or a table (rows, width)."""
    if isinstance(form, BlockMatrices):
        blocks = quantise_blocks(matrix, bits=form.bits, block_size=form.block_size, method=form.method)
        return dequantise_blocks(blocks, bits=form.bits, width=matrix.shape[1])
    if isinstance(form, DynamicMatrices):
        columns = quantise_columns(matrix.T)
        return (columns.values * columns.scales).T
    return matrix


def with_padded_heads(weight: np.ndarray, config: GPT2Config, scheme: Scheme) -> np.ndarray:
    """c_proj (in, out), whose blocks run over heads with zeros behind each."""
    split = weight.reshape(config.n_head, config.head_size, -1)
    padded = np.zeros((config.n_head, cache_head_size(config), split.shape[2]), np.float32)
    padded[:, : config.head_size] = split
    values = stored(padded.reshape(-1, split.shape[2]).T, scheme.layers).T
    return values.reshape(padded.shape)[:, : config.head_size].reshape(weight.shape)

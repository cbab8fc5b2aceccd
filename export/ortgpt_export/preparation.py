"""What the fused graph's weights go through before they are stored in a precision other than fp32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import ortgpt
from ortgpt.interfaces import Floats
from ortgpt_export.calibrated import WithBiases, calibrate
from ortgpt_export.calibration import largest_activation, observe
from ortgpt_export.config import GPT2Config
from ortgpt_export.half import check_activations
from ortgpt_export.matrices import BlockMatrices
from ortgpt_export.progress import Progress
from ortgpt_export.quality import sample_texts
from ortgpt_export.schemes import Scheme
from ortgpt_export.smoothing import SmoothedWeights

# Other texts than those that the quality is measured on.
CALIBRATION_SEED, CALIBRATION_TEXTS, GPTQ_TEXTS = 1_000_000, 8, 32


class Prepared(NamedTuple):
    """weights as they are to be stored, those of a second graph, and the scheme with what is rounded."""

    weights: Mapping[str, Floats]
    wide: Mapping[str, Floats]
    scheme: Scheme


def prepare(
    weights: Mapping[str, Floats],
    config: GPT2Config,
    scheme: Scheme,
    reference: ortgpt.Model,
    progress: Progress,
) -> Prepared:
    """Outliers are moved into the weights first, then GPTQ rounds them, each where the scheme asks for it."""
    wide = weights
    on_text = partial(progress, "calibrate")
    if scheme.moves_outliers or scheme.wide_layers is not None:
        texts = sample_texts(reference, num_texts=CALIBRATION_TEXTS, seed=CALIBRATION_SEED)
        wide = SmoothedWeights(weights, config, observe(weights, config, texts, on_text))
        weights = wide if scheme.moves_outliers else weights
    layers = scheme.layers
    if isinstance(layers, BlockMatrices) and layers.method == "gptq":
        texts = sample_texts(reference, num_texts=GPTQ_TEXTS, seed=CALIBRATION_SEED)
        found = calibrate(
            weights,
            config,
            texts,
            bits=layers.bits,
            block_size=layers.block_size,
            on_layer=on_text,
        )
        weights = WithBiases(weights, found.biases)
        scheme = replace(scheme, layers=replace(layers, found=found.blocks))
    return Prepared(weights, wide, scheme)


def check_range(
    weights: Mapping[str, Floats], config: GPT2Config, reference: ortgpt.Model, progress: Progress
) -> None:
    """Raise CheckpointError unless float16 holds what goes through the model when it reads its own texts."""
    texts = sample_texts(reference, num_texts=CALIBRATION_TEXTS, seed=CALIBRATION_SEED)
    check_activations(*largest_activation(weights, config, texts, partial(progress, "calibrate")))

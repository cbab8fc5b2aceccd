"""The way to a bundle that is not fp32: by way of an fp32 bundle, which it is calibrated and judged by."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import ortgpt
from ortgpt.interfaces import Floats
from ortgpt.manifest import Manifest, Probe, Quality
from ortgpt_export.bundle_writer import BundleWriter
from ortgpt_export.calibrated import WithBiases, calibrate
from ortgpt_export.calibration import largest_activation, observe
from ortgpt_export.half import check_activations
from ortgpt_export.job import Job
from ortgpt_export.matrices import BlockMatrices
from ortgpt_export.quality import GivenText, measure_perplexity, measure_quality, next_logits, sample_texts
from ortgpt_export.schemes import SCHEMES, Scheme
from ortgpt_export.smoothing import SmoothedWeights

# Other texts than those that the quality is measured on.
CALIBRATION_SEED, CALIBRATION_TEXTS, GPTQ_TEXTS = 1_000_000, 8, 32


def write_quantised(
    job: Job, bundle: BundleWriter, scheme: Scheme, verify: str, text: GivenText | None
) -> Manifest:
    """Write a bundle of the scheme; its manifest has what was measured, unless verify is "none".

    text  whose perplexity is measured too
    """
    if text is not None:
        text.check_length(job.tokenizer.loaded)
    with _no_advice(), _fp32_model(job, bundle) as reference:
        prepared = _prepared(job, scheme, reference)
        manifest = job.write(bundle, prepared.scheme, prepared.weights, wide=prepared.wide)
        if scheme.element_type == "float16":
            _check_range(job, reference)
        with _loaded(bundle) as model:
            manifest = replace(manifest, probe=_own_answer(manifest.probe, model))
        if verify != "none":
            quality = _measured(job, bundle, reference, manifest, text)
            manifest = replace(manifest, quality=quality)
            bundle.write_manifest(manifest)
            manifest = replace(manifest, parity=job.parity(bundle.directory, verify, scheme.precision))
    return manifest


def _loaded(bundle: BundleWriter, *, fast_prefill: bool = False) -> ortgpt.Model:
    # Its digests have just been computed, and its probe is yet to be asked for.
    return ortgpt.load(bundle.directory, provider="cpu", verify=False, fast_prefill=fast_prefill)


def _measured(
    job: Job, bundle: BundleWriter, reference: ortgpt.Model, manifest: Manifest, text: GivenText | None
) -> Quality:
    """What the written bundle has lost; of its two graphs, where it has two, the one that loses more.

    The texts are run in calls of many tokens, which go to the second graph when it is loaded.
    """
    texts = sample_texts(reference)
    found: list[Quality] = []

    def on_text(done: int, total: int) -> None:
        job.progress("compare", len(found) * total + done, len(modes) * total)

    modes = (False, True) if manifest.fast_prefill else (False,)
    for fast_prefill in modes:
        with _loaded(bundle, fast_prefill=fast_prefill) as model:
            quality = measure_quality(model, reference, texts, on_text)
            if text is not None:
                quality = replace(quality, perplexity=measure_perplexity(model, reference, text))
            found.append(quality)
    return max(found, key=lambda quality: quality.kl_divergence)


@contextmanager
def _no_advice() -> Iterator[None]:
    """Keep back that fp16 is slow on the CPU: an export measures it there, whatever it is made for."""

    def is_other(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("running on the CPU")

    logger = logging.getLogger("ortgpt")
    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)


@contextmanager
def _fp32_model(job: Job, bundle: BundleWriter) -> Iterator[ortgpt.Model]:
    """The checkpoint as an fp32 bundle of its own, which is there for the time of the export only."""
    with tempfile.TemporaryDirectory(prefix="fp32-", dir=bundle.directory) as folder:
        with BundleWriter(Path(folder) / "fp32") as writer:
            writer.commit(job.write(writer, SCHEMES["fp32"], stage="prepare"))
        with ortgpt.load(Path(folder) / "fp32", provider="cpu", verify=False) as model:
            yield model


class _Prepared(NamedTuple):
    """weights as they are to be stored, those of a second graph, and the scheme with what is rounded."""

    weights: Mapping[str, Floats]
    wide: Mapping[str, Floats]
    scheme: Scheme


def _prepared(job: Job, scheme: Scheme, reference: ortgpt.Model) -> _Prepared:
    """Outliers are moved into the weights first, then GPTQ rounds them, each where the scheme asks for it."""
    weights: Mapping[str, Floats] = job.weights
    wide = weights
    on_text = partial(job.progress, "calibrate")
    if scheme.moves_outliers or scheme.wide_layers is not None:
        texts = sample_texts(reference, num_texts=CALIBRATION_TEXTS, seed=CALIBRATION_SEED)
        wide = SmoothedWeights(weights, job.config, observe(weights, job.config, texts, on_text))
        weights = wide if scheme.moves_outliers else weights
    layers = scheme.layers
    if isinstance(layers, BlockMatrices) and layers.method == "gptq":
        texts = sample_texts(reference, num_texts=GPTQ_TEXTS, seed=CALIBRATION_SEED)
        found = calibrate(
            weights,
            job.config,
            texts,
            bits=layers.bits,
            block_size=layers.block_size,
            on_layer=on_text,
        )
        weights = WithBiases(weights, found.biases)
        scheme = replace(scheme, layers=replace(layers, found=found.blocks))
    return _Prepared(weights, wide, scheme)


def _check_range(job: Job, reference: ortgpt.Model) -> None:
    """Raise CheckpointError unless float16 holds what goes through the model when it reads its own texts."""
    texts = sample_texts(reference, num_texts=CALIBRATION_TEXTS, seed=CALIBRATION_SEED)
    on_text = partial(job.progress, "calibrate")
    check_activations(*largest_activation(job.weights, job.config, texts, on_text))


def _own_answer(probe: Probe, model: ortgpt.Model) -> Probe:
    """The probe with the answer of the bundle's own weights, which may be another than that of fp32."""
    logits = next_logits(model, probe.token_ids)[-1, : model.manifest.architecture.tokenizer_size]
    return replace(probe, argmax=int(logits.argmax()))

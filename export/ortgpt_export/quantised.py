"""The way to a bundle that is not fp32: by way of an fp32 bundle, which it is calibrated and judged by."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import ortgpt
from ortgpt.interfaces import Floats
from ortgpt.manifest import Manifest, Probe
from ortgpt_export.bundle_writer import BundleWriter
from ortgpt_export.calibration import largest_activation, observe
from ortgpt_export.half import check_activations
from ortgpt_export.job import Job
from ortgpt_export.quality import measure_perplexity, measure_quality, next_logits, sample_texts
from ortgpt_export.schemes import SCHEMES, Scheme
from ortgpt_export.smoothing import SmoothedWeights

# Other texts than those that the quality is measured on.
CALIBRATION_SEED, CALIBRATION_TEXTS = 1_000_000, 8


def write_quantised(
    job: Job, bundle: BundleWriter, scheme: Scheme, verify: str, perplexity_text: Path | None
) -> Manifest:
    """Write a bundle of the scheme; its manifest has what was measured, unless verify is "none"."""
    with _no_advice(), _fp32_model(job, bundle) as reference:
        manifest = job.write(bundle, scheme, _prepared(job, scheme, reference))
        if scheme.element_type == "float16":
            _check_range(job, reference)
        # Its digests have just been computed, and its probe is yet to be asked for.
        with ortgpt.load(bundle.directory, provider="cpu", verify=False) as model:
            manifest = replace(manifest, probe=_own_answer(manifest.probe, model))
            if verify != "none":
                texts = sample_texts(reference)
                quality = measure_quality(model, reference, texts, partial(job.progress, "compare"))
                if perplexity_text is not None:
                    perplexity = measure_perplexity(model, reference, perplexity_text)
                    quality = replace(quality, perplexity=perplexity)
                manifest = replace(manifest, quality=quality)
        if verify != "none":
            bundle.write_manifest(manifest)
            manifest = replace(manifest, parity=job.parity(bundle.directory, verify, scheme.precision))
    return manifest


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
            writer.commit(job.write(writer, SCHEMES["fp32"]))
        with ortgpt.load(Path(folder) / "fp32", provider="cpu", verify=False) as model:
            yield model


def _prepared(job: Job, scheme: Scheme, reference: ortgpt.Model) -> Mapping[str, Floats]:
    """The weights as they are to be stored: with outliers moved into them, where the scheme asks for it."""
    if not scheme.moves_outliers:
        return job.weights
    texts = sample_texts(reference, num_texts=CALIBRATION_TEXTS, seed=CALIBRATION_SEED)
    seen = observe(job.weights, job.config, texts, partial(job.progress, "calibrate"))
    return SmoothedWeights(job.weights, job.config, seen)


def _check_range(job: Job, reference: ortgpt.Model) -> None:
    """Raise CheckpointError unless float16 holds what goes through the model when it reads its own texts."""
    texts = sample_texts(reference, num_texts=CALIBRATION_TEXTS, seed=CALIBRATION_SEED)
    on_text = partial(job.progress, "calibrate")
    check_activations(*largest_activation(job.weights, job.config, texts, on_text))


def _own_answer(probe: Probe, model: ortgpt.Model) -> Probe:
    """The probe with the answer of the bundle's own weights, which may be another than that of fp32."""
    logits = next_logits(model, probe.token_ids)[-1, : model.manifest.architecture.tokenizer_size]
    return replace(probe, argmax=int(logits.argmax()))

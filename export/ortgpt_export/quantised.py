"""The way to a bundle that is not fp32: by way of an fp32 bundle, which it is calibrated and judged by."""

from __future__ import annotations

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
from ortgpt_export.calibration import observe
from ortgpt_export.job import Job
from ortgpt_export.quality import GivenText, measure_perplexity, measure_quality, next_logits, sample_texts
from ortgpt_export.schemes import SCHEMES, Scheme
from ortgpt_export.smoothing import SmoothedWeights

# Other texts than those that the quality is measured on.
CALIBRATION_SEED, CALIBRATION_TEXTS = 1_000_000, 8


def write_quantised(
    job: Job, bundle: BundleWriter, scheme: Scheme, verify: str, text: GivenText | None
) -> Manifest:
    """Write a bundle of the scheme; its manifest has what was measured, unless verify is "none".

    text  whose perplexity is measured too
    """
    if text is not None:
        text.check_length(job.tokenizer.loaded)
    with _fp32_model(job, bundle) as reference:
        manifest = job.write(bundle, scheme, _prepared(job, scheme, reference))
        # Its digests have just been computed, and its probe is yet to be asked for.
        with ortgpt.load(bundle.directory, provider="cpu", verify=False) as model:
            manifest = replace(manifest, probe=_own_answer(manifest.probe, model))
            if verify != "none":
                texts = sample_texts(reference)
                quality = measure_quality(model, reference, texts, partial(job.progress, "compare"))
                if text is not None:
                    quality = replace(quality, perplexity=measure_perplexity(model, reference, text))
                manifest = replace(manifest, quality=quality)
        if verify != "none":
            bundle.write_manifest(manifest)
            manifest = replace(manifest, parity=job.parity(bundle.directory, verify, scheme.precision))
    return manifest


@contextmanager
def _fp32_model(job: Job, bundle: BundleWriter) -> Iterator[ortgpt.Model]:
    """The checkpoint as an fp32 bundle of its own, which is there for the time of the export only."""
    with tempfile.TemporaryDirectory(prefix="fp32-", dir=bundle.directory) as folder:
        with BundleWriter(Path(folder) / "fp32") as writer:
            writer.commit(job.write(writer, SCHEMES["fp32"], stage="prepare"))
        with ortgpt.load(Path(folder) / "fp32", provider="cpu", verify=False) as model:
            yield model


def _prepared(job: Job, scheme: Scheme, reference: ortgpt.Model) -> Mapping[str, Floats]:
    """The weights as they are to be stored: with outliers moved into them, where the scheme asks for it."""
    if not scheme.moves_outliers:
        return job.weights
    texts = sample_texts(reference, num_texts=CALIBRATION_TEXTS, seed=CALIBRATION_SEED)
    seen = observe(job.weights, job.config, texts, partial(job.progress, "calibrate"))
    return SmoothedWeights(job.weights, job.config, seen)


def _own_answer(probe: Probe, model: ortgpt.Model) -> Probe:
    """The probe with the answer of the quantised weights, which may be another than that of fp32."""
    logits = next_logits(model, probe.token_ids)[-1, : model.manifest.architecture.tokenizer_size]
    return replace(probe, argmax=int(logits.argmax()))

"""The way to a bundle that is not fp32: by way of an fp32 bundle, which it is calibrated and judged by."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import ortgpt
from ortgpt.manifest import Manifest, Probe, Quality
from ortgpt_export.bundle_writer import BundleWriter
from ortgpt_export.job import Job
from ortgpt_export.quality import GivenText, measure_perplexity, measure_quality, next_logits, sample_texts
from ortgpt_export.schemes import SCHEMES, Scheme


def write_quantised(
    job: Job, bundle: BundleWriter, scheme: Scheme, verify: str, text: GivenText | None
) -> Manifest:
    """Write a bundle of the scheme; its manifest has what was measured, unless verify is "none".

    text  whose perplexity is measured too
    """
    if text is not None:
        text.check_length(job.tokenizer.loaded)
    with _no_advice(), _fp32_model(job, bundle) as reference:
        manifest = job.write_calibrated(bundle, scheme, reference)
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


def _own_answer(probe: Probe, model: ortgpt.Model) -> Probe:
    """The probe with the answer of the bundle's own weights, which may be another than that of fp32."""
    logits = next_logits(model, probe.token_ids)[-1, : model.manifest.architecture.tokenizer_size]
    return replace(probe, argmax=int(logits.argmax()))

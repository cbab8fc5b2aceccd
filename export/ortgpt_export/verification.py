"""`ortgpt verify`: any bundle, as the runtime runs it, against the checkpoint that it was made of.

Whatever dialect and precision: its numbers against an independent forward pass, its cache against itself,
its greedy text against the reference's choices. Runs bundles through the runtime's public names only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import ortgpt
from ortgpt.checks import shown
from ortgpt.errors import BundleError, CheckpointError, OptionError
from ortgpt.interfaces import Floats
from ortgpt.manifest import Manifest
from ortgpt_export.causal_model import read_causal_config, stage_checkpoint
from ortgpt_export.checkpoint import open_checkpoint
from ortgpt_export.config import CONFIG_NAME, read_config
from ortgpt_export.json_file import read_object
from ortgpt_export.quality import kl_divergence, kl_limit, reference_kl_limit, sample_texts
from ortgpt_export.verify import (
    CACHED_STEPS,
    LIMIT,
    PROMPT_TOKENS,
    Reference,
    check_available,
    numpy_reference,
    run_greedily,
    torch_reference,
)

REFERENCES = ("torch", "numpy")
NUM_TEXTS, TEXT_TOKENS = 4, 64
GREEDY_TOKENS = 32
CHUNK = 7  # tokens of a piece, where a text is read in pieces

OnCheck = Callable[[str], None]
"""Is told the name of the check that begins."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One comparison.

    measured  None: the bundle has nothing to measure, or it is told only by its details
    limit     the largest that passes; None: nothing is demanded
    """

    name: str
    measured: float | None
    unit: str
    limit: float | None = None
    details: str = ""

    @property
    def passed(self) -> bool:
        return self.measured is None or self.limit is None or self.measured <= self.limit  # NaN does not


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was compared with what. text: the greedy one after the prompt."""

    manifest: Manifest
    provider: str
    reference: str
    prompt: str
    text: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)


def verify_bundle(
    bundle: str | Path,
    checkpoint: str | Path,
    *,
    reference: str | None = None,
    provider: str = "cpu",
    prompt: str | None = None,
    on_check: OnCheck = lambda _: None,
) -> Verification:
    """Compare a bundle with a checkpoint directory.

    reference  "numpy" (GPT-2 only) or "torch" (transformers); None: numpy where it can
    provider   what runs the bundle
    prompt     what the greedy text continues; None: the manifest's probe

    Raises BundleError and CheckpointError for what can't be read or does not belong together, OptionError,
    MissingExtraError, ProviderError. What is beyond its limit is in the result.
    """
    if reference is not None and reference not in REFERENCES:
        raise OptionError("reference", f"must be one of {', '.join(REFERENCES)}, got {reference!r}")
    directory = Path(checkpoint)
    name = _choose_reference(directory, reference)
    check_available(name, f"--reference {name}")
    with (
        ortgpt.load(bundle, provider=provider) as model,  # type: ignore[arg-type]
        _open_reference(directory, name, model.manifest) as run,
    ):
        checks = _Checks(model, run, on_check)
        numbers = (*checks.exact(), *checks.divergence(), *checks.cache())
        begin, written, greedy = checks.greedy(prompt)
        return Verification(
            manifest=model.manifest,
            provider=model.provider,
            reference=name,
            prompt=begin,
            text=written,
            checks=(*numbers, greedy),
        )


def _choose_reference(directory: Path, wanted: str | None) -> str:
    """NumPy's needs nothing more than the checkpoint, but knows GPT-2 only."""
    if not directory.is_dir():
        raise CheckpointError(f"{directory} is not a directory with a checkpoint")
    model_type = read_object(directory / CONFIG_NAME).get("model_type")
    if wanted == "numpy" and model_type != "gpt2":
        raise OptionError(
            "reference",
            f"numpy knows GPT-2 only, and config.json says model_type = {shown(model_type)}",
            hint="take --reference torch",
        )
    return wanted or ("numpy" if model_type == "gpt2" else "torch")


@contextmanager
def _open_reference(directory: Path, name: str, manifest: Manifest) -> Iterator[Reference]:
    if name == "numpy":
        config = read_config(directory)
        _check_fits(manifest, config.vocab_size, config.n_positions)
        with open_checkpoint(directory, config) as weights:
            yield numpy_reference(weights, config)
        return
    with TemporaryDirectory(prefix="ortgpt-verify-") as folder:
        staged = Path(folder)
        stage_checkpoint(directory, staged)
        causal = read_causal_config(staged, directory)
        _check_fits(manifest, causal.vocab_size, causal.context)
        yield torch_reference(staged)


def _check_fits(manifest: Manifest, vocab_size: int, context: int) -> None:
    shape = manifest.architecture
    for what, own, other in (
        ("vocabulary", shape.vocab_size, vocab_size),
        ("context", shape.context, context),
    ):
        if own != other:
            raise CheckpointError(
                f"the checkpoint has a {what} of {other}, the bundle one of {own}: it was made of another one"
            )


class _Checks:
    """The comparisons of one loaded bundle."""

    def __init__(self, model: ortgpt.Model, reference: Reference, on_check: OnCheck) -> None:
        self._model, self._reference, self._on_check = model, reference, on_check
        manifest = model.manifest
        self._is_exact = manifest.precision == "fp32"
        self._kl_limit = None if self._is_exact else kl_limit(model)
        self._reference_limit = None if self._is_exact else reference_kl_limit(model)
        decoder = model.decoder()
        self._has_hidden = decoder.capabilities.hidden_states
        decoder.release()
        self._texts = [list(text) for text in sample_texts(model, num_texts=NUM_TEXTS, length=TEXT_TOKENS)]

    def exact(self) -> Iterator[Check]:
        """Prefill and cached steps over random ids, number by number."""
        self._on_check("logits")
        shape = self._model.manifest.architecture
        count = max(1, min(PROMPT_TOKENS, shape.context - CACHED_STEPS))
        steps = min(CACHED_STEPS, shape.context - count)
        prompt = np.random.default_rng(0).integers(0, shape.vocab_size, count)
        run = run_greedily(self._model, prompt, steps)
        logits, hidden = self._reference(run.token_ids)
        if not self._is_exact and not np.isfinite(run.logits).all():
            raise BundleError("the bundle's logits are not finite")
        limit = LIMIT if self._is_exact else None
        details = f"{count} random ids and {steps} steps"
        yield Check(
            name="logits", measured=_most(run.logits, logits), unit="largest difference", limit=limit,
            details=details,
        )  # fmt: skip
        if run.hidden is None:
            yield Check(name="hidden states", measured=None, unit="", details="the graph gives none")
        else:
            yield Check(
                name="hidden states", measured=_most(run.hidden, hidden), unit="largest difference",
                limit=limit, details=details,
            )  # fmt: skip

    def divergence(self) -> Iterator[Check]:
        """Next-token distributions over texts that the bundle itself writes."""
        self._on_check("distributions")
        divergences, agreements = [], []
        for text in self._texts:
            logits, (expected, _) = self._read(text, [len(text)]), self._reference(np.asarray(text))
            divergences.append(kl_divergence(expected, logits))
            agreements.append(expected.argmax(-1) == logits.argmax(-1))
        places = sum(map(len, self._texts))
        yield Check(
            name="distributions",
            measured=float(np.concatenate(divergences).mean()),
            unit="nats per token",
            limit=self._reference_limit,
            details=f"{np.concatenate(agreements).mean():.1%} of the likeliest tokens, {places} places",
        )

    def cache(self) -> Iterator[Check]:
        """The same text in one piece, in several, and token by token; rows beside others and alone."""
        text = self._texts[0]
        whole = self._read(text, [len(text)])
        for name, width in (("cache, in pieces", CHUNK), ("cache, step by step", 1)):
            self._on_check(name)
            pieces = [min(width, len(text) - begin) for begin in range(0, len(text), width)]
            yield self._same(name, whole, self._read(text, pieces), f"{len(pieces)} calls for one")
        self._on_check("rows in a batch")
        lengths = [
            max(1, len(text) * part // 4 - 2) for text, part in zip(self._texts, (4, 1, 3, 2), strict=True)
        ]
        together, alone = self._rows(lengths)
        limit = 0.0 if self._model.manifest.row_invariant and self._model.provider == "cpu" else None
        yield self._same("rows in a batch", alone, together, "prefill and 2 steps of 4 rows", limit)

    def greedy(self, prompt: str | None) -> tuple[str, str, Check]:
        """(prompt, text, by how much the text's tokens fall short of the reference's best)"""
        self._on_check("greedy text")
        shape, probe = self._model.manifest.architecture, self._model.manifest.probe
        if prompt is None:
            ids = list(probe.token_ids[: max(1, shape.context // 2)])
        else:
            ids = self._model.tokenizer.encode(prompt)
        room = shape.context - len(ids)
        if room < 1:
            raise OptionError("prompt", f"has {len(ids)} tokens, the context is {shape.context}")
        result = self._model.generate(
            ids if prompt is None else prompt, max_new_tokens=min(GREEDY_TOKENS, room), stop_token_ids=[]
        )
        whole = np.asarray([*result.prompt_token_ids, *result.token_ids])
        expected = self._reference(whole)[0][len(result.prompt_token_ids) - 1 : -1]  # (generated, vocab)
        # Ids that the tokenizer does not know are never generated.
        expected = expected[:, : shape.tokenizer_size]
        short = expected.max(axis=-1) - expected[np.arange(len(expected)), result.token_ids]
        check = Check(
            name="greedy text",
            measured=float(short.max(initial=0)),
            unit="short of the best logit",
            limit=2 * LIMIT if self._is_exact else None,
            details=f"{int((short == 0).sum())} of {len(short)} tokens are the reference's",
        )
        return self._model.tokenizer.decode(result.prompt_token_ids), result.text, check

    def _same(
        self, name: str, wanted: Floats, found: Floats, details: str, limit: float | None = None
    ) -> Check:
        """Two ways to the same numbers: number by number where these are exact, else by distribution."""
        if self._is_exact or limit is not None:
            measured, unit = _most(found, wanted), "largest difference"
            limit = LIMIT if limit is None else limit
        else:
            measured, unit, limit = (
                float(kl_divergence(wanted, found).mean()),
                "nats per token",
                self._kl_limit,
            )
        return Check(name=name, measured=measured, unit=unit, limit=limit, details=details)

    def _read(self, text: Sequence[int], pieces: Sequence[int]) -> Floats:
        """(tokens, vocab): the logits behind each token of a text that is read in pieces of these lengths."""
        decoder = self._model.decoder()
        logits, begin = [], 0
        for width in pieces:
            outputs = decoder.extend([list(text[begin : begin + width])], outputs="all")
            logits.append(outputs.logits[0].copy())  # the decoder reuses its buffers
            begin += width
        decoder.release()
        return np.concatenate(logits)

    def _rows(self, lengths: Sequence[int]) -> tuple[Floats, Floats]:
        """(together, alone), each (rows * 3, vocab): the last logits of a prefill and of two steps."""
        feeds = [[text[:length], text[length : length + 1], text[length + 1 : length + 2]]
                 for text, length in zip(self._texts, lengths, strict=True)]  # fmt: skip
        decoder = self._model.decoder(len(feeds))
        steps = [decoder.extend(list(new)).logits[:, -1].copy() for new in zip(*feeds, strict=True)]
        decoder.release()
        alone = []
        for feed in feeds:
            decoder = self._model.decoder()
            alone.append([decoder.extend([new]).logits[0, -1].copy() for new in feed])
            decoder.release()
        together = np.stack(steps, axis=1)  # (rows, 3, vocab)
        return together.reshape(-1, together.shape[-1]), np.concatenate([np.stack(row) for row in alone])


def _most(found: Floats, wanted: Floats) -> float:
    return float(np.abs(found - wanted).max())

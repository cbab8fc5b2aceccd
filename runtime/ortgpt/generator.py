"""The engine's public face: load a bundle, generate, stream, score."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

import numpy as np

from ortgpt.batches import Outcomes, Tell, check_progress, collect
from ortgpt.bundle.bundle import Bundle
from ortgpt.checks import check_int, check_sequence, shown
from ortgpt.constraints.binding import ConstraintBinder
from ortgpt.errors import BundleIntegrityError, OptionError, OrtgptError
from ortgpt.generation import AtEnd, Generation
from ortgpt.inference.decoders import make_decoder
from ortgpt.inference.session import Session
from ortgpt.interfaces import Decoder, Tokenizer
from ortgpt.manifest import Manifest
from ortgpt.option_checks import BATCH_ROWS, check_max_rows
from ortgpt.options import OptionFields, Options, make_options
from ortgpt.prompts import Prompt, PromptLike, is_one_prompt, read_prompt, read_token_ids
from ortgpt.request import Request
from ortgpt.request_checks import (
    check_draft,
    check_hidden_states,
    check_streamable,
    choose_seeds,
    choose_strategy,
)
from ortgpt.results import Result, Score
from ortgpt.scoring import ScoredText, Scoring
from ortgpt.search.draft_budget import position_cost
from ortgpt.strategies import Strategy
from ortgpt.streams import Stream
from ortgpt.transcript import Transcript

# The probe's argmax may lose to a near tie on another processor; to more than this it may not.
PROBE_TOLERANCE = 1e-2
QUANTISED_PROBE_TOLERANCE = 0.5  # processors round 8-bit activations differently
WIDE_PROBE_TOLERANCE = 2.0  # the answer is that of the other graph, whose layers are other integers


class Model:
    """A loaded bundle. Several threads may use it at once; `close` or `with` frees it."""

    load_s: float = 0.0

    def __init__(
        self,
        bundle: Bundle,
        tokenizer: Tokenizer,
        session: Session,
        wide: Session | None = None,
        *,
        prefill_chunk: int,
    ) -> None:
        self._session, self._wide, self._chunk = session, wide, prefill_chunk
        self.path: Path = bundle.directory
        self.manifest: Manifest = bundle.manifest
        self.tokenizer: Tokenizer = tokenizer
        self._binder = ConstraintBinder(tokenizer, bundle.manifest.architecture.vocab_size)

    @property
    def provider(self) -> str:
        return self._session.provider

    @property
    def threads(self) -> int:
        """Threads that one run of the model uses."""
        return self._session.threads

    @property
    def fast_prefill(self) -> bool:
        """Whether calls of many tokens run on a second copy of the layers."""
        return self._wide is not None

    def generate(
        self, prompt: PromptLike, strategy: Strategy | None = None, **options: Unpack[OptionFields]
    ) -> Result:
        """Continue a prompt. strategy: Greedy() unless given. options: see `ortgpt.Options`.

        Raises OptionError (ContextLengthError), NonFiniteLogitsError, ConstraintError.
        """
        started = time.perf_counter()
        generation = self._start(self._prompt(prompt, "prompt"), strategy, options, started)
        for _ in generation.events():
            pass
        for error in generation.errors.values():
            raise error
        return generation.results()[0]

    def stream(
        self, prompt: PromptLike, strategy: Strategy | None = None, **options: Unpack[OptionFields]
    ) -> Stream:
        """Continue a prompt, token by token; arguments are checked now, the model runs as you read.

        All options but best_of: which sequences are the best is known only at the end.
        """
        started = time.perf_counter()
        check_streamable(options)
        return Stream(self._start(self._prompt(prompt, "prompt"), strategy, options, started))

    def transcript(self, prompt: PromptLike = "") -> Transcript:
        """A text that grows, call by call, and keeps its cache: only what is new is run."""
        read = self._prompt(prompt, "prompt")
        return Transcript(read, self.decoder(), self.tokenizer, self.manifest.architecture, self._start)

    def generate_batch(
        self,
        prompts: Sequence[PromptLike],
        strategy: Strategy | None = None,
        *,
        max_rows: int = BATCH_ROWS,
        progress: bool | Tell = False,
        **options: Unpack[OptionFields],
    ) -> list[Result]:
        """Continue many prompts of any lengths together; results in the prompts' order.

        max_rows  sequences or beams that run at once, 1 to 1024; a prompt begins as soon as others have left
                  rows enough. One that takes more runs alone
        progress  True: a bar on stderr; or a callable that is told (prompts done, prompts in all)
        seed      one s (prompt i draws from s + i) or one per prompt

        A prompt that fails does not touch the others: the error is raised at the end, with `results` holding
        theirs (None for it).
        """
        check_progress(progress)
        outcomes = self.iterate_batch(prompts, strategy, max_rows=max_rows, **options)
        return collect(outcomes, len(prompts), progress)

    def iterate_batch(
        self,
        prompts: Sequence[PromptLike],
        strategy: Strategy | None = None,
        *,
        max_rows: int = BATCH_ROWS,
        **options: Unpack[OptionFields],
    ) -> Outcomes:
        """As generate_batch, but gives (prompt index, its result or error), each as soon as it is there.

        Arguments are checked now, the model runs as you read. `close` ends it and frees the cache.
        """
        started = time.perf_counter()
        if isinstance(prompts, str | bytes) or not isinstance(prompts, Sequence):
            raise OptionError("prompts", f"must be a list of prompts, got {shown(prompts)}")
        checked = self._options(options)
        request = Request(
            prompts=[self._prompt(prompt, f"prompts[{i}]") for i, prompt in enumerate(prompts)],
            seeds=choose_seeds(checked.seed, len(prompts)),
            strategy=choose_strategy(strategy, checked),
            options=checked,
            started=started,
            draft_cost=self._draft_cost(checked),
            position_cost=position_cost(self.manifest.precision),
            max_rows=check_max_rows(max_rows),
        )
        return self._generation(request).outcomes()

    def score(
        self, text: PromptLike, *, prompt: PromptLike | None = None, stride: int | None = None
    ) -> Score:
        """Log-probabilities of a text's tokens, or of a continuation's given a prompt.

        prompt  encoded on its own and put before the text; "" is the bos token
        stride  texts longer than the context are read in windows that move by this many tokens;
                None: half the context
        """
        given = () if prompt is None else self._prompt(prompt, "prompt").token_ids
        return self._scoring(stride).score(self._scored_text(given, text, "text"))

    def score_batch(
        self,
        texts: Sequence[PromptLike],
        *,
        prompts: PromptLike | Sequence[PromptLike] | None = None,
        stride: int | None = None,
    ) -> list[Score]:
        """The scores of many texts, in order and each exactly as `score` gives it, but faster.

        prompts  one for all texts, or a list with one for each; a list of integers is one prompt
        """
        if isinstance(texts, str | bytes) or not isinstance(texts, Sequence):
            raise OptionError("texts", f"must be a list of texts, got {shown(texts)}")
        given: list[tuple[int, ...]] = [()] * len(texts)
        if prompts is not None and is_one_prompt(prompts):
            given = [self._prompt(prompts, "prompts").token_ids] * len(texts)
        elif prompts is not None:
            if len(each := check_sequence("prompts", prompts)) != len(texts):
                raise OptionError("prompts", f"has {len(each)} entries for {len(texts)} texts")
            given = [self._prompt(prompt, f"prompts[{i}]").token_ids for i, prompt in enumerate(each)]
        pairs = enumerate(zip(given, texts, strict=True))
        return self._scoring(stride).score_all(
            [self._scored_text(ids, text, f"texts[{i}]") for i, (ids, text) in pairs]
        )

    def decoder(self, rows: int = 1) -> Decoder:
        """The low level: rows of tokens with a cache of their own, for search code of yours."""
        check_int("rows", rows, 1)
        return make_decoder(self._session, self.manifest, rows=rows, chunk=self._chunk, wide=self._wide)

    def check_probe(self) -> None:
        """Raise BundleIntegrityError when tokenizer and weights do not give the manifest's known answer."""
        probe = self.manifest.probe
        if tuple(self.tokenizer.encode_prompt(probe.text)) != probe.token_ids:
            raise BundleIntegrityError(
                "the tokenizer is not the one the bundle was exported with: the probe has other ids"
            )
        is_exact = self.manifest.precision == "fp32"
        tolerances = [(self._session, PROBE_TOLERANCE if is_exact else QUANTISED_PROBE_TOLERANCE)]
        if self._wide is not None:
            tolerances.append((self._wide, WIDE_PROBE_TOLERANCE))
        for session, tolerance in tolerances:
            decoder = make_decoder(session, self.manifest)
            logits = decoder.extend([probe.token_ids]).logits[0, -1, : self.tokenizer.size]
            decoder.release()
            # Weights with NaN are reported by generation, with the step; the probe can't judge them.
            if np.isfinite(logits).all() and logits.max() - logits[probe.argmax] > tolerance:
                raise BundleIntegrityError(
                    "the weights are not those the bundle was exported from: the probe differs"
                )

    def close(self) -> None:
        """Free the model. Later calls raise OrtgptError; calls under way end in peace."""
        self._session.close()
        if self._wide is not None:
            self._wide.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ortgpt.Model {self.path.name} {self.manifest.precision} on {self.provider}>"

    def _options(self, fields: OptionFields) -> Options:
        options = make_options(fields)
        options.check_against(self.manifest.architecture.vocab_size)
        return options

    def _draft_cost(self, options: Options) -> float:
        """Of a pass of the draft model, in passes of this one: their time is that of reading the weights."""
        draft = options.draft
        if draft is None:
            return 0.0
        if not isinstance(draft, Model):
            raise OptionError("draft", f"must be a loaded model, got {shown(draft)}")
        if draft._session.is_closed:
            raise OrtgptError("the draft model is closed", hint="load it again with ortgpt.load")
        check_draft(draft, self)
        return draft._weight_bytes / self._weight_bytes

    @property
    def _weight_bytes(self) -> int:
        names = self.manifest.data_names[:1]  # the second one of a fused bundle is for wide steps only
        if self.manifest.portable is not None:  # the graph may hold them itself
            names = (self.manifest.graph_name, *self.manifest.data_names)
        return sum(self.manifest.files[name].size for name in names)

    def _prompt(self, value: object, option: str) -> Prompt:
        return read_prompt(value, self.tokenizer, self.manifest.architecture, option)

    def _scoring(self, stride: int | None) -> Scoring:
        context = self.manifest.architecture.context
        if stride is not None:
            check_int("stride", stride, 1, max(1, context - 1))
        return Scoring(context, stride or max(1, context // 2), self.decoder)

    def _scored_text(self, given: tuple[int, ...], text: PromptLike, option: str) -> ScoredText:
        shape, begins = self.manifest.architecture, not given
        token_ids = read_token_ids(text, self.tokenizer, shape, option, begins=begins)
        if begins and isinstance(text, str):  # what the tokenizer puts before a text is none of it
            return ScoredText(token_ids, len(self.tokenizer.prefix_ids))
        return ScoredText(given + token_ids, len(given))

    def _start(
        self,
        prompt: Prompt,
        strategy: Strategy | None,
        fields: OptionFields,
        started: float,
        decoder: Decoder | None = None,
        at_end: AtEnd | None = None,
    ) -> Generation:
        """What continues one prompt, on a new decoder or one that is lent until `at_end`."""
        options = self._options(fields)
        if isinstance(options.seed, Sequence):
            raise OptionError("seed", "must be one integer for one prompt")
        request = Request(
            prompts=[prompt],
            seeds=choose_seeds(options.seed, 1),
            strategy=choose_strategy(strategy, options),
            options=options,
            started=started,
            draft_cost=self._draft_cost(options),
            position_cost=position_cost(self.manifest.precision),
        )
        return self._generation(request, decoder, at_end)

    def _generation(
        self, request: Request, decoder: Decoder | None = None, at_end: AtEnd | None = None
    ) -> Generation:
        check_hidden_states(request.strategy, self.manifest)
        make = self.decoder if decoder is None else lambda rows: decoder
        shape = self.manifest.architecture
        return Generation(request, make, self.tokenizer, shape, self.load_s, self._binder, at_end=at_end)

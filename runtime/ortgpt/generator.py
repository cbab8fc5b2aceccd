"""The engine's public face: load a bundle, generate, stream, score."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

import numpy as np

from ortgpt.bundle.bundle import Bundle, open_bundle
from ortgpt.bundle.weights import map_initializers
from ortgpt.checks import check_int, check_sequence, shown
from ortgpt.errors import BundleError, BundleIntegrityError, OptionError
from ortgpt.generation import Generation
from ortgpt.inference.fused_decoder import DEFAULT_CHUNK, FusedDecoder
from ortgpt.inference.session import Provider, Session
from ortgpt.interfaces import Decoder, Tokenizer
from ortgpt.manifest import Manifest
from ortgpt.option_checks import MAX_SEED
from ortgpt.options import OptionFields, Options, make_options
from ortgpt.prompts import Prompt, PromptLike, is_one_prompt, read_prompt, read_token_ids
from ortgpt.results import Result, Score
from ortgpt.run import Request
from ortgpt.scoring import ScoredText, Scoring
from ortgpt.strategies import BeamSearch, Greedy, Sampling, Strategy
from ortgpt.streams import Stream
from ortgpt.text.tokenizer import load_tokenizer

# Prompts of one generate_batch call run together up to this many rows, then the next ones.
MAX_BATCH_ROWS = 32
# The probe's argmax may lose to a near tie on another processor; to more than this it may not.
PROBE_TOLERANCE = 1e-2


def load(
    path: str | Path,
    *,
    provider: Provider = "auto",
    threads: int | None = None,
    verify: bool = True,
    prefill_chunk: int = DEFAULT_CHUNK,
) -> Model:
    """Load a bundle that `ortgpt export` wrote.

    provider       "auto" takes the best that can run the bundle; any other must be there
    threads        None: the processors this process may use
    verify         check the files' digests and the manifest's probe; False trusts the disk
    prefill_chunk  prompt tokens per run of the model: less memory when smaller, results are the same

    Raises BundleError, BundleIntegrityError, ProviderError, OptionError, MissingExtraError.
    """
    started = time.perf_counter()
    if threads is not None:
        check_int("threads", threads, 1, 1024)
    check_int("prefill_chunk", prefill_chunk, 1)
    bundle = open_bundle(path, verify=verify)
    tokenizer = load_tokenizer(bundle.tokenizer)
    _check_tokenizer(bundle, tokenizer)
    # A link of the hub's cache leaves the folder, and onnxruntime opens no such file itself.
    is_link = bundle.weights_path.is_symlink()
    session = Session(
        bundle.graph,
        bundle.directory,
        bundle.manifest,
        initializers=map_initializers(bundle, external_only=True) if is_link else None,
        provider=provider,
        threads=threads,
    )
    bundle.check_weights_unchanged()
    model = Model(bundle, tokenizer, session, prefill_chunk=prefill_chunk)
    if verify:
        model.check_probe()
    model.load_s = time.perf_counter() - started
    return model


class Model:
    """A loaded bundle. Several threads may use it at once; `close` or `with` frees it."""

    load_s: float = 0.0

    def __init__(self, bundle: Bundle, tokenizer: Tokenizer, session: Session, *, prefill_chunk: int) -> None:
        self._session, self._chunk = session, prefill_chunk
        self.path: Path = bundle.directory
        self.manifest: Manifest = bundle.manifest
        self.tokenizer: Tokenizer = tokenizer

    @property
    def provider(self) -> str:
        return self._session.provider

    def generate(
        self, prompt: PromptLike, strategy: Strategy | None = None, **options: Unpack[OptionFields]
    ) -> Result:
        """Continue a prompt. strategy: Greedy() unless given. options: see `ortgpt.Options`.

        Raises OptionError (ContextLengthError), NonFiniteLogitsError, ConstraintError.
        """
        stream = self._start(prompt, strategy, self._options(options), time.perf_counter())
        for _ in stream:
            pass
        return stream.result

    def stream(
        self, prompt: PromptLike, strategy: Strategy | None = None, **options: Unpack[OptionFields]
    ) -> Stream:
        """Continue a prompt, token by token; arguments are checked now, the model runs as you read.

        All options but best_of: which sequences are the best is known only at the end.
        """
        started = time.perf_counter()
        checked = self._options(options)
        if checked.best_of is not None:
            raise OptionError(
                "best_of", "can't be streamed: the best are known at the end", hint="use generate"
            )
        return self._start(prompt, strategy, checked, started)

    def generate_batch(
        self, prompts: Sequence[PromptLike], strategy: Strategy | None = None, **options: Unpack[OptionFields]
    ) -> list[Result]:
        """Continue several prompts of any lengths together; results in the prompts' order.

        seed: one s (prompt i draws from s + i) or one per prompt. A prompt that fails does not
        touch the others: the error is raised at the end, with `results` holding theirs (None for it).
        """
        started = time.perf_counter()
        if isinstance(prompts, str | bytes) or not isinstance(prompts, Sequence):
            raise OptionError("prompts", f"must be a list of prompts, got {shown(prompts)}")
        checked = self._options(options)
        seeds = _seeds(checked.seed, len(prompts))
        read = [self._prompt(prompt, f"prompts[{i}]") for i, prompt in enumerate(prompts)]
        results: list[Result | None] = []
        first_error = None
        chosen = _strategy(strategy, checked)
        size = max(1, MAX_BATCH_ROWS // rows_per_prompt(chosen, checked))
        for begin in range(0, len(read), size):
            part = slice(begin, begin + size)
            request = Request(read[part], seeds[part], chosen, checked, started)
            generation = self._generation(request)
            for _ in generation.events():
                pass
            errors = generation.errors
            results += [None if i in errors else r for i, r in enumerate(generation.results())]
            first_error = first_error or next(iter(errors.values()), None)
        if first_error is not None:
            first_error.results = results
            raise first_error
        return [result for result in results if result is not None]

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
        return FusedDecoder(self._session, self.manifest, rows=rows, chunk=self._chunk)

    def check_probe(self) -> None:
        """Raise BundleIntegrityError when tokenizer and weights do not give the manifest's known answer."""
        probe = self.manifest.probe
        if tuple(self.tokenizer.encode(probe.text)) != probe.token_ids:
            raise BundleIntegrityError(
                "the tokenizer is not the one the bundle was exported with: the probe has other ids"
            )
        decoder = self.decoder()
        logits = decoder.extend([probe.token_ids]).logits[0, -1, : self.tokenizer.size]
        decoder.release()
        # Weights with NaN are reported by generation, with the step; the probe can't judge them.
        if np.isfinite(logits).all() and logits.max() - logits[probe.argmax] > PROBE_TOLERANCE:
            raise BundleIntegrityError(
                "the weights are not those the bundle was exported from: the probe differs"
            )

    def close(self) -> None:
        """Free the model. Later calls raise OrtgptError; calls under way end in peace."""
        self._session.close()

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

    def _prompt(self, value: object, option: str) -> Prompt:
        return read_prompt(value, self.tokenizer, self.manifest.architecture, option)

    def _scoring(self, stride: int | None) -> Scoring:
        context = self.manifest.architecture.context
        if stride is not None:
            check_int("stride", stride, 1, max(1, context - 1))
        return Scoring(context, stride or max(1, context // 2), self.decoder)

    def _scored_text(self, given: tuple[int, ...], text: PromptLike, option: str) -> ScoredText:
        token_ids = read_token_ids(text, self.tokenizer, self.manifest.architecture, option)
        return ScoredText(given + token_ids, len(given))

    def _start(
        self, prompt: PromptLike, strategy: Strategy | None, options: Options, started: float
    ) -> Stream:
        if isinstance(options.seed, Sequence):
            raise OptionError("seed", "must be one integer for one prompt")
        request = Request(
            prompts=[self._prompt(prompt, "prompt")],
            seeds=_seeds(options.seed, 1),
            strategy=_strategy(strategy, options),
            options=options,
            started=started,
        )
        return Stream(self._generation(request))

    def _generation(self, request: Request) -> Generation:
        decoder = self.decoder(rows=len(request.prompts))
        return Generation(request, decoder, self.tokenizer, self.manifest.architecture, self.load_s)


def _check_tokenizer(bundle: Bundle, tokenizer: Tokenizer) -> None:
    expected = bundle.manifest.architecture.tokenizer_size
    if tokenizer.size != expected:
        raise BundleError(f"tokenizer.json has {tokenizer.size} ids, the manifest says {expected}")


def rows_per_prompt(strategy: Strategy, options: Options) -> int:
    """Decoder rows that a prompt takes."""
    rows = strategy.num_beams if isinstance(strategy, BeamSearch) else options.num_sequences
    return 2 * rows if options.is_guided else rows


def _strategy(strategy: Strategy | None, options: Options) -> Strategy:
    if isinstance(strategy, BeamSearch) and options.n > 1:
        raise OptionError("n", "is not for beam search", hint="ask for num_return_sequences of its beams")
    if isinstance(strategy, BeamSearch) and options.best_of is not None:
        hint = "it ranks its num_beams texts itself: ask for num_return_sequences of them"
        raise OptionError("best_of", "is not for beam search", hint=hint)
    if strategy is None:
        strategy = Greedy()
    if not isinstance(strategy, Strategy):
        raise OptionError("strategy", f"must be a strategy such as Greedy(), got {shown(strategy)}")
    is_drawn = isinstance(strategy, Sampling) and not strategy.is_greedy
    if options.num_sequences > options.n and not is_drawn:
        hint = "use Sampling with a temperature above 0"
        raise OptionError("best_of", "has no effect where nothing is drawn", hint=hint)
    return strategy


def _seeds(seed: int | Sequence[int] | None, count: int) -> list[int]:
    """One seed per prompt; without any, drawn, small enough for every JSON reader."""
    if isinstance(seed, Sequence):
        if len(seed) != count:
            raise OptionError("seed", f"has {len(seed)} entries for {count} prompts")
        return list(seed)
    first = secrets.randbits(32) if seed is None else seed
    if first + max(0, count - 1) > MAX_SEED:
        raise OptionError("seed", f"must leave room for {count} prompts below {MAX_SEED}")
    return [first + index for index in range(count)]

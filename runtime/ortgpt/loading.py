"""From a bundle's directory to a model: the tokenizer, the sessions, and the known answer."""

from __future__ import annotations

import time
from pathlib import Path

from ortgpt.bundle.bundle import Bundle, open_bundle
from ortgpt.bundle.weights import map_initializers
from ortgpt.bundled import BUNDLED_MODEL
from ortgpt.checks import check_int
from ortgpt.errors import BundleError
from ortgpt.generator import Model
from ortgpt.inference.plan import DEFAULT_CHUNK
from ortgpt.inference.providers import Provider
from ortgpt.inference.room import check_room
from ortgpt.inference.session import OnRun, Session, expect_provider
from ortgpt.interfaces import Tokenizer
from ortgpt.text.tokenizer import load_tokenizer


def load(
    path: str | Path = BUNDLED_MODEL,
    *,
    provider: Provider = "auto",
    threads: int | None = None,
    verify: bool = True,
    prefill_chunk: int = DEFAULT_CHUNK,
    fast_prefill: bool = True,
    on_run: OnRun | None = None,
) -> Model:
    """Load a bundle that `ortgpt export` or `ortgpt adopt` made.

    path           its directory; not given: the small storyteller that comes with the package
    provider       "auto" takes the best that can run the bundle; any other must be there
    threads        None: the processors this process may use
    verify         check the files' digests and the manifest's probe; False trusts the disk
    prefill_chunk  prompt tokens per run of the model: less memory when smaller, results are the same
    fast_prefill   in calls of many tokens use the second copy of the layers that a bundle exported with
                   --fast-prefill has; False leaves it out and saves its memory. Other bundles have none
    on_run         is told the seconds of every run of the graph, in the thread that runs it: what a call
                   takes beyond them is spent outside the graph

    Raises BundleError, BundleIntegrityError, ProviderError, OptionError, MissingExtraError.
    """
    started = time.perf_counter()
    if threads is not None:
        check_int("threads", threads, 1, 1024)
    check_int("prefill_chunk", prefill_chunk, 1)
    bundle = open_bundle(path, verify=verify)
    model = start_model(
        bundle,
        provider=provider,
        threads=threads,
        prefill_chunk=prefill_chunk,
        fast_prefill=fast_prefill,
        on_run=on_run,
    )
    if verify:
        model.check_probe()
    model.load_s = time.perf_counter() - started
    return model


def start_model(
    bundle: Bundle,
    *,
    provider: Provider = "auto",
    threads: int | None = None,
    prefill_chunk: int = DEFAULT_CHUNK,
    fast_prefill: bool = True,
    on_run: OnRun | None = None,
) -> Model:
    """Load an opened bundle; arguments as `load` has them."""
    tokenizer = load_tokenizer(bundle.tokenizer)
    _check_tokenizer(bundle, tokenizer)
    check_room(bundle.manifest, expect_provider(provider, bundle.manifest), fast_prefill=fast_prefill)

    def make_session(graph: bytes | Path, *, takes_turns: bool = False) -> Session:
        # A link of the hub's cache leaves the folder, and onnxruntime opens no such file itself.
        arrays = map_initializers(bundle, graph, external_only=True) if bundle.has_links else None
        return Session(
            graph,
            bundle.directory,
            bundle.manifest,
            initializers=arrays,
            provider=provider,
            threads=threads,
            on_run=on_run,
            takes_turns=takes_turns,
        )

    session = make_session(bundle.graph)
    wide = None
    if fast_prefill and bundle.prefill_graph is not None:
        wide = make_session(bundle.prefill_graph, takes_turns=True)
    bundle.check_weights_unchanged()
    return Model(bundle, tokenizer, session, wide, prefill_chunk=prefill_chunk)


def _check_tokenizer(bundle: Bundle, tokenizer: Tokenizer) -> None:
    expected = bundle.manifest.architecture.tokenizer_size
    if tokenizer.size != expected:
        raise BundleError(f"tokenizer.json has {tokenizer.size} ids, the manifest says {expected}")

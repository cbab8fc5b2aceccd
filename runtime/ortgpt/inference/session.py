"""The onnxruntime session: the only file that imports onnxruntime.

A session is immutable once built and may be shared by threads; every decoder has bindings of its own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from ortgpt.errors import BundleError, MissingExtraError, OptionError, OrtgptError, ProviderError
from ortgpt.inference.memory import check_memory
from ortgpt.manifest import PREFILL_GRAPH_NAME, PREFILL_WEIGHTS_NAME, Manifest, parse_version

logger = logging.getLogger("ortgpt")


@contextlib.contextmanager
def _usage_data_off() -> Iterator[None]:
    """onnxruntime's wheels send usage data unless told not to before they are imported."""
    name = "ORT_DISABLE_TELEMETRY"
    is_undecided = name not in os.environ
    if is_undecided:
        os.environ[name] = "1"
    try:
        yield
    finally:
        if is_undecided:  # the environment stays the caller's
            del os.environ[name]


try:
    with _usage_data_off():
        import onnxruntime
except ModuleNotFoundError as error:
    raise MissingExtraError("ortgpt", "cpu", package="onnxruntime") from error
except ImportError as error:
    raise ProviderError(f"onnxruntime is installed but can't be loaded: {error}") from error

Provider = Literal["auto", "cpu", "cuda"]
PROVIDERS = ("auto", "cpu", "cuda")
OnRun = Callable[[float], None]
"""Is told the seconds that a run of the graph took, in the thread that ran it."""

OLDEST_ONNXRUNTIME = (1, 31)
# Bytes per byte of weights. They are packed for the matrix products one by one, the table stays beside its
# copy; float16 is converted anew by every run, all weights at once.
MEMORY_PER_WEIGHT = {"float32": 1.4, "float16": 5.0}

# onnxruntime does not promise that sessions can be built by several threads at once.
_BUILD_LOCK = threading.Lock()


class Session:
    """A loaded graph. `provider` is the one that runs it: "cpu" or "cuda".

    graph           its bytes, or where it lies
    weights_folder  where onnxruntime finds the data files
    initializers    the same weights as arrays, for files that onnxruntime would not open itself
    on_run          is called after every run, for measurements
    takes_turns     another session runs between this one's runs, and gets the processors at once
    """

    def __init__(
        self,
        graph: bytes | Path,
        weights_folder: Path,
        manifest: Manifest,
        *,
        initializers: Mapping[str, NDArray[Any]] | None = None,
        provider: Provider = "auto",
        threads: int | None = None,
        on_run: OnRun | None = None,
        takes_turns: bool = False,
    ) -> None:
        check_installed_version(max(OLDEST_ONNXRUNTIME, parse_version(manifest.provenance.onnxruntime_floor)))
        self.provider = choose_provider(provider, manifest)
        self.threads = threads or default_threads()
        self._on_run, self._takes_turns = on_run, takes_turns
        with contextlib.ExitStack() as stack:
            if initializers is not None:
                weights_folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ortgpt-")))
                for name in manifest.data_names:
                    (weights_folder / name).touch()  # is looked for even though it is not read
            self._session: Any = self._build(graph, weights_folder, initializers or {})
        self._process = os.getpid()

    def _build(
        self, graph: bytes | Path, weights_folder: Path, initializers: Mapping[str, NDArray[Any]]
    ) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # The graph is written as it is to be run: onnxruntime would fuse sums and norms into slower ones.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(weights_folder)
        )
        if self._takes_turns:  # its threads would spin on for a while, against those of the other
            options.add_session_config_entry("session.force_spinning_stop", "1")
        if os.environ.get("ORT_LOAD_CONFIG_FROM_MODEL") == "1":
            raise ProviderError(
                "ORT_LOAD_CONFIG_FROM_MODEL=1 makes onnxruntime drop the settings that loading needs",
                hint="unset it",
            )
        # onnxruntime reads them where they are: they have to live as long as the session.
        self._initializers = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in initializers.items()
        }
        for name, value in self._initializers.items():
            options.add_initializer(name, value)
        source = str(graph) if isinstance(graph, Path) else graph
        names = ["CPUExecutionProvider"]
        with _BUILD_LOCK:
            try:
                session = onnxruntime.InferenceSession(source, options, providers=names)
            except MemoryError as error:
                raise ProviderError("not enough memory to load the model") from error
            except Exception as error:  # onnxruntime's own family: InvalidGraph, Fail, NotImplemented ...
                raise BundleError(f"onnxruntime can't load the graph: {_first_line(error)}") from error
        if session.get_providers()[0] != names[0]:
            raise ProviderError(f"onnxruntime loaded {session.get_providers()[0]}, not {names[0]}")
        return session

    def binding(self) -> Any:
        """A new IO binding of this session."""
        return self._open().io_binding()

    def run(self, binding: Any) -> None:
        """One forward pass over what is bound. Safe from several threads with bindings of their own."""
        begin = time.perf_counter()
        try:
            self._open().run_with_iobinding(binding)
        except MemoryError as error:
            raise ProviderError("not enough memory to run the model") from error
        except OrtgptError:
            raise
        except Exception as error:
            raise ProviderError(f"onnxruntime failed: {_first_line(error)}") from error
        if self._on_run is not None:
            self._on_run(time.perf_counter() - begin)

    def close(self) -> None:
        """Free the weights. A run in another thread still ends in peace."""
        self._session = None

    @property
    def is_closed(self) -> bool:
        return self._session is None

    def _open(self) -> Any:
        session = self._session
        if session is None:
            raise OrtgptError("the model is closed", hint="load it again with ortgpt.load")
        if os.getpid() != self._process:  # onnxruntime's threads did not come along: it would hang
            raise OrtgptError(
                "the model was loaded before this process was forked", hint="load it in the child process"
            )
        return session


def available_providers() -> list[str]:
    """The providers of the installed onnxruntime, by its own names."""
    return list(onnxruntime.get_available_providers())


def check_installed_version(needed: tuple[int, int] = OLDEST_ONNXRUNTIME) -> None:
    """Raise ProviderError when the installed onnxruntime is older than `needed`."""
    if parse_version(onnxruntime.__version__) < needed:
        raise ProviderError(
            f"onnxruntime {needed[0]}.{needed[1]} or newer is needed, {onnxruntime.__version__} is installed",
            hint=f'pip install -U "onnxruntime>={needed[0]}.{needed[1]}"',
        )


def check_room(manifest: Manifest, *, fast_prefill: bool = False) -> None:
    """Raise ProviderError unless there is memory for the weights, and for the second copy if asked for."""
    takes_both = fast_prefill and manifest.fast_prefill
    left_out = () if takes_both else (PREFILL_GRAPH_NAME, PREFILL_WEIGHTS_NAME)
    weights = sum(entry.size for name, entry in manifest.files.items() if name not in left_out)
    leave_out = "leave out the second copy: fast_prefill=False, --no-fast-prefill"
    remedy = leave_out if takes_both else "use a smaller model"
    check_memory(
        # Weights are packed for the matrix products one by one, the table stays beside its copy.
        int(MEMORY_PER_WEIGHT[manifest.element_type] * weights) + 50_000_000,
        f"loading {weights / 1e6:,.0f} MB of weights",
        f"free some memory, raise the limit, or {remedy}",
    )


def choose_provider(wanted: str, manifest: Manifest) -> str:
    """The provider that will run the bundle. Asked for and not to be had is an error, never a fallback."""
    if wanted not in PROVIDERS:
        raise OptionError("provider", f"must be one of {', '.join(PROVIDERS)}, got {wanted!r}")
    available = available_providers()
    has_cuda = "CUDAExecutionProvider" in available
    if wanted == "cuda":
        if not has_cuda:
            raise ProviderError(
                f"provider cuda is not available; this onnxruntime has: {', '.join(available)}",
                hint="pip uninstall onnxruntime, then: pip install onnxruntime-gpu",
            )
        if manifest.element_type == "float16":
            raise ProviderError("this version of ortgpt runs nothing on CUDA", hint="use provider cpu")
        raise ProviderError(
            f"a {manifest.precision} bundle can't run on CUDA: GroupQueryAttention has no such kernel there",
            hint="use provider cpu",
        )
    if manifest.element_type == "float16":
        logger.warning(
            "running on the CPU, which has to convert fp16: int8 and fp32 bundles are faster there"
        )
    elif wanted == "auto" and has_cuda:
        logger.warning("running on the CPU: %s bundles can't run on CUDA", manifest.precision)
    return "cpu"


def default_threads() -> int:
    """Processors that this process may use: its affinity, cut by the control group's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        count = min(count, max(1, int(quota) // int(period)))  # "max" is a ValueError: no quota
    return count


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0][:300]

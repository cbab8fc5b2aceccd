"""The onnxruntime session: the only file that imports onnxruntime.

A session is immutable once built and may be shared by threads; every decoder has bindings of its own.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ortgpt.errors import MissingExtraError, OrtgptError, ProviderError
from ortgpt.inference import cuda
from ortgpt.inference.cache_memory import HOST, CacheMemory, Device, HostMemory
from ortgpt.inference.device_memory import DeviceMemory
from ortgpt.inference.failures import load_error, memory_error, run_error
from ortgpt.inference.move_graph import move_graph
from ortgpt.inference.providers import Provider, check_cuda_available, choose_provider, cpu_warning
from ortgpt.inference.room import check_device_room, check_room
from ortgpt.inference.threads import default_threads
from ortgpt.inference.wheels import INSTALL_ONE, upgrade_command
from ortgpt.manifest import Manifest, parse_version

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
    missing = MissingExtraError("ortgpt", "cpu", package="onnxruntime")
    missing.hint = f"install it with: {INSTALL_ONE}"
    raise missing from error
except ImportError as error:
    raise ProviderError(f"onnxruntime is installed but can't be loaded: {error}") from error

OnRun = Callable[[float], None]
"""Is told the seconds that a run of the graph took, in the thread that ran it."""

OLDEST_ONNXRUNTIME = (1, 31)
# The first that the process may see: CUDA_VISIBLE_DEVICES chooses.
DEVICES = {"cpu": HOST, "cuda": Device("cuda", 0)}

# Fewest outputs of a fused graph's run: for none CUDA's GatherND launches a kernel of no threads, an error.
FEWEST_OUTPUTS = {"cpu": 0, "cuda": 1}

# onnxruntime does not promise that sessions can be built by several threads at once.
_BUILD_LOCK = threading.Lock()


class Session:
    """A loaded graph. `provider` is the one that runs it: "cpu" or "cuda"; caches lie in its `memory`.

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
        self.threads = threads or default_threads()
        self._on_run, self._takes_turns = on_run, takes_turns
        with contextlib.ExitStack() as stack:
            if initializers is not None:
                weights_folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ortgpt-")))
                for name in manifest.data_names:
                    (weights_folder / name).touch()  # is looked for even though it is not read
            options = self._options(manifest, weights_folder, initializers or {})
            self.provider, self._session, self.memory = self._build(provider, manifest, graph, options)
        self.fewest_outputs = FEWEST_OUTPUTS[self.provider]
        self._process = os.getpid()

    def _options(
        self, manifest: Manifest, weights_folder: Path, initializers: Mapping[str, NDArray[Any]]
    ) -> Any:
        options = _plain_options()
        if manifest.dialect == "portable":  # what exporters trace is written for the optimiser
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
            options.enable_mem_pattern = False  # one for every shape, and every step has another
        options.intra_op_num_threads = self.threads
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
        return options

    def _build(
        self, wanted: Provider, manifest: Manifest, graph: bytes | Path, options: Any
    ) -> tuple[str, Any, CacheMemory]:
        """(provider, onnxruntime's session, where caches lie). "auto" takes CUDA only if it loads."""
        available = available_providers()
        chosen, reason = choose_provider(wanted, manifest, available), None
        if chosen == "cuda":
            try:
                device = DEVICES[chosen]
                _check_cuda_loads()
                check_device_room(manifest, cuda.free_memory())
                return chosen, open_graph(graph, options, device), DeviceMemory(Engine(device))
            except OrtgptError as error:
                if wanted == "cuda":
                    raise
                check_room(manifest, "cpu")
                reason = str(error)
        elif wanted == "auto" and cuda.PROVIDER in available:
            reason = f"{manifest.precision} bundles can't run on CUDA"
        warning = cpu_warning(manifest, reason)
        if warning is not None:
            logger.warning(warning)
        return "cpu", open_graph(graph, options, HOST), HostMemory()

    def binding(self) -> Any:
        """A new IO binding of this session."""
        return self._open().io_binding()

    def run(self, binding: Any) -> None:
        """One forward pass over what is bound. Safe from several threads with bindings of their own."""
        begin = time.perf_counter()
        run_bound(self._open(), binding, self.provider)
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


class Engine:
    """What device_memory.py needs of onnxruntime on a device."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._mover = open_graph(move_graph(), _plain_options(), device)

    def zeros(self, shape: tuple[int, ...], what: str, hint: str) -> Any:
        try:
            return onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32), *self.device)
        except Exception as error:
            purpose = f"hold {what}, {4e-6 * math.prod(shape):,.0f} MB"
            provider = self.device.type
            raise (memory_error(error, purpose, provider, hint) or run_error(error, provider)) from error

    def binding(self) -> Any:
        return self._mover.io_binding()

    def run(self, binding: Any) -> None:
        run_bound(self._mover, binding, self.device.type)


def _plain_options() -> Any:
    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # The graph is written as it is to be run: onnxruntime would fuse sums and norms into slower ones.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def open_graph(graph: bytes | Path, options: Any, device: Device) -> Any:
    """onnxruntime's session on the device, or an error of the family: never one on another device."""
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda":
        providers.insert(0, (cuda.PROVIDER, cuda.provider_options(device.id)))
    source = str(graph) if isinstance(graph, Path) else graph
    with _BUILD_LOCK:
        try:
            with _quiet_engine(device):
                session = onnxruntime.InferenceSession(
                    source, options, providers=providers, enable_fallback=0
                )
        except Exception as error:  # onnxruntime's own family: InvalidGraph, Fail, NotImplemented ...
            raise load_error(error, device.type) from error
    wanted = providers[0][0] if device.type == "cuda" else providers[0]
    if session.get_providers()[0] != wanted:
        raise ProviderError(
            f"onnxruntime loaded {session.get_providers()[0]}, not {wanted}",
            hint="see what ortgpt doctor says",
        )
    return session


def run_bound(session: Any, binding: Any, provider: str) -> None:
    """One run, with onnxruntime's errors as those of the family."""
    try:
        session.run_with_iobinding(binding)
    except Exception as error:
        raise run_error(error, provider) from error


@contextlib.contextmanager
def _quiet_engine(device: Device) -> Iterator[None]:
    """What is wrong with CUDA is in the error; onnxruntime would write it to stderr as well, in colours."""
    if device.type == "cpu":
        yield
        return
    onnxruntime.set_default_logger_severity(4)
    try:
        yield
    finally:
        onnxruntime.set_default_logger_severity(2)  # what it has by itself; it can't be asked


def _check_cuda_loads() -> None:
    with _BUILD_LOCK:
        problem = cuda.find_load_problem(onnxruntime.preload_dlls)
    if problem is not None:
        raise ProviderError(f"CUDA can't be loaded: {problem}", hint=cuda.remedy(problem))


def check_cuda() -> None:
    """Raise ProviderError, with the reason and the remedy, unless graphs can run on CUDA."""
    check_cuda_available(available_providers())
    _check_cuda_loads()
    Engine(DEVICES["cuda"])


def expect_provider(wanted: Provider, manifest: Manifest) -> str:
    """The provider that a session of the bundle will try first."""
    return choose_provider(wanted, manifest, available_providers())


def available_providers() -> list[str]:
    """The providers of the installed onnxruntime, by its own names."""
    return list(onnxruntime.get_available_providers())


def check_installed_version(needed: tuple[int, int] = OLDEST_ONNXRUNTIME) -> None:
    """Raise ProviderError when the installed onnxruntime is older than `needed`."""
    if parse_version(onnxruntime.__version__) < needed:
        raise ProviderError(
            f"onnxruntime {needed[0]}.{needed[1]} or newer is needed, {onnxruntime.__version__} is installed",
            hint=upgrade_command(f"{needed[0]}.{needed[1]}"),
        )

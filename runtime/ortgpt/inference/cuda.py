"""Whether onnxruntime's CUDA provider can be loaded at all: asked before onnxruntime tries, which would write
its own lines to stderr and go on with the CPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

PROVIDER = "CUDAExecutionProvider"
# The shared one has what the other refers to; other names in other versions are left to onnxruntime.
LIBRARIES = ("libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so")
INSTALL_LIBRARIES = 'pip install "onnxruntime-gpu[cuda,cudnn]", or install CUDA and cuDNN'
INSTALL_DRIVER = "the driver of the NVIDIA device is not there: install it, or use provider cpu"


def provider_options(device_id: int) -> dict[str, str]:
    """For a session. Memory grows by what is asked for, and float32 products are float32."""
    return {
        "device_id": str(device_id),
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": "0",
    }


def find_load_problem(preload: Callable[[], None], folder: Path | None = None) -> str | None:
    """Why the provider's library can't be loaded; None: it can.

    preload  onnxruntime's own search for the libraries that NVIDIA's packages bring
    folder   where the provider lies; None: in the installed onnxruntime
    """
    folder = folder or _library_folder()
    problem = _load(folder)
    if problem is not None:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            preload()
        problem = _load(folder)
    return problem


def free_memory(folder: Path | None = None) -> int | None:
    """Bytes that are free on the first device, before this process has taken any; None: it can't be asked.

    The question goes to CUDA's runtime, which the provider's library has loaded with itself.
    """
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    folder = folder or _library_folder()
    if folder is None:
        return None
    try:
        ask = ctypes.CDLL(str(folder / LIBRARIES[1])).cudaMemGetInfo
    except (OSError, AttributeError):
        return None
    status: int = ask(ctypes.byref(free), ctypes.byref(total))
    return free.value if status == 0 else None


def remedy(problem: str) -> str:
    """What to do about it. libcuda comes with the driver, every other library with packages."""
    return INSTALL_DRIVER if "libcuda.so" in problem else INSTALL_LIBRARIES


def _load(folder: Path | None) -> str | None:
    for name in LIBRARIES:
        if folder is not None and (folder / name).exists():
            try:
                ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL)
            except OSError as error:
                return str(error)
    return None


def _library_folder() -> Path | None:
    spec = find_spec("onnxruntime")
    return Path(spec.origin).parent / "capi" if spec is not None and spec.origin else None

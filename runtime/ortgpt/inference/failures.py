"""What onnxruntime raises, as errors of the family: its messages tell memory, device and graph apart."""

from __future__ import annotations

import re

from ortgpt.errors import BundleError, OrtgptError, ProviderError

_NO_MEMORY = re.compile(r"out of memory|failed to allocate memory|_ALLOC_FAILED|bad[_ ]alloc", re.IGNORECASE)
_DEVICE = re.compile(r"\b(CUDA|CUDNN|CUBLAS)(\b|_)|Invalid device ID", re.IGNORECASE)
# onnxruntime's macros: what failed, its number, the runtime's own words; then place and expression.
_CUDA_WORDS = re.compile(
    r"(?:CUDA|CUDNN|CUBLAS)\w* (?:failure|error) ?\S*?: *(.+?) *(?:;|$)|(Invalid device ID[^;\n]*)",
    re.IGNORECASE | re.MULTILINE,
)
CUDA_HINT = "see what nvidia-smi shows, and whether CUDA_VISIBLE_DEVICES names a device that is there"
SMALLER = "use fewer rows (n, or prompts in one batch), fewer tokens, or a smaller prefill_chunk"


def load_error(error: Exception, provider: str) -> OrtgptError:
    """Of a session that could not be built."""
    return (
        memory_error(error, "load the model", provider, "use a smaller model, or free some memory")
        or _device_error(error, provider)
        or BundleError(f"onnxruntime can't load the graph: {first_line(error)}")
    )


def run_error(error: Exception, provider: str) -> OrtgptError:
    """Of a run. The session stays usable: onnxruntime has given back what the run had taken."""
    return (
        memory_error(error, "run the model", provider, SMALLER)
        or _device_error(error, provider)
        or ProviderError(f"onnxruntime failed: {first_line(error)}")
    )


def memory_error(error: Exception, purpose: str, provider: str, hint: str) -> ProviderError | None:
    """None: the error is about something else."""
    if not isinstance(error, MemoryError) and not _NO_MEMORY.search(str(error)):
        return None
    whose = "" if provider == "cpu" else f" on the {provider.upper()} device"
    return ProviderError(f"not enough memory{whose} to {purpose}", hint=hint)


def _device_error(error: Exception, provider: str) -> ProviderError | None:
    if provider == "cpu" or not _DEVICE.search(str(error)):
        return None
    words = _CUDA_WORDS.search(str(error))
    return ProviderError(
        f"CUDA can't be used: {words[1] or words[2] if words else first_line(error)}",
        hint=CUDA_HINT,
    )


def first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0][:300]

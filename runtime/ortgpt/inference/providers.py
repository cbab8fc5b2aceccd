"""Which execution provider runs a bundle: what is wanted, the graph has kernels for, and there is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ortgpt.errors import OptionError, ProviderError
from ortgpt.inference import cuda
from ortgpt.inference.wheels import CHANGE_TO_GPU
from ortgpt.manifest import Manifest

Provider = Literal["auto", "cpu", "cuda"]
PROVIDERS = ("auto", "cpu", "cuda")


def choose_provider(wanted: str, manifest: Manifest, available: Sequence[str]) -> str:
    """The provider that is to run the bundle. Asked for and not to be had is an error, never a fallback.

    available  the providers of the installed onnxruntime, by its own names
    """
    if wanted not in PROVIDERS:
        raise OptionError("provider", f"must be one of {', '.join(PROVIDERS)}, got {wanted!r}")
    if wanted == "cuda":
        check_cuda_available(available)
        if not runs_on_cuda(manifest):
            raise _no_kernels(manifest)
    has_cuda = cuda.PROVIDER in available
    return "cuda" if wanted != "cpu" and has_cuda and runs_on_cuda(manifest) else "cpu"


def check_cuda_available(available: Sequence[str]) -> None:
    """Raise ProviderError where the installed onnxruntime is not the one for CUDA."""
    if cuda.PROVIDER not in available:
        raise ProviderError(
            f"provider cuda is not available; this onnxruntime has: {', '.join(available)}",
            hint=CHANGE_TO_GPU,
        )


def runs_on_cuda(manifest: Manifest) -> bool:
    """Whether CUDA has kernels for the whole graph: our own attention in float16, and plain ONNX in float32.

    Of a quantised graph onnxruntime would run the integers' products on the CPU, and say nothing.
    """
    return manifest.precision == ("fp32" if manifest.dialect == "portable" else "fp16")


def _no_kernels(manifest: Manifest) -> ProviderError:
    missing, remedy = "GroupQueryAttention is for fp16", "export it with --precision fp16"
    if manifest.dialect == "portable":
        missing, remedy = "products of integers have no kernels", "export it in fp32"
    return ProviderError(
        f"a {manifest.precision} bundle can't run on CUDA: {missing} there",
        hint=f"{remedy}, or use provider cpu",
    )


def cpu_warning(manifest: Manifest, reason: str | None) -> str | None:
    """One line about a bundle that was made for something else, or could have been faster.

    reason  why it is not on CUDA, where that was to be expected
    """
    if manifest.element_type == "float16":
        slow = "running on the CPU, which has to convert fp16: int8 and fp32 bundles are faster there"
        return f"{slow} ({reason})" if reason else slow
    return f"running on the CPU: {reason}" if reason else None

"""Whether there is memory for a model's weights."""

from __future__ import annotations

from ortgpt.errors import ProviderError
from ortgpt.inference.memory import check_memory
from ortgpt.manifest import PREFILL_GRAPH_NAME, PREFILL_WEIGHTS_NAME, Manifest

# Bytes per byte of weights. They are packed for the matrix products one by one, the table stays beside its
# copy; float16 is converted anew by every run, all weights at once.
MEMORY_PER_WEIGHT = {"float32": 1.4, "float16": 5.0}
# The optimiser works on copies; measured with the weights in the graph's file.
PORTABLE_MEMORY_PER_WEIGHT = 2.2


def check_room(manifest: Manifest, provider: str, *, fast_prefill: bool = False) -> None:
    """Raise ProviderError unless there is memory for the weights, and for the second copy if asked for.

    provider  that is to run them, "cpu" or "cuda". It is the host's memory that is looked at: CUDA's own
              onnxruntime asks for, and refuses in its error
    """
    takes_both = fast_prefill and manifest.fast_prefill
    left_out = () if takes_both else (PREFILL_GRAPH_NAME, PREFILL_WEIGHTS_NAME)
    weights = sum(entry.size for name, entry in manifest.files.items() if name not in left_out)
    leave_out = "leave out the second copy: fast_prefill=False, --no-fast-prefill"
    remedy = leave_out if takes_both else "use a smaller model"
    factor = MEMORY_PER_WEIGHT[manifest.element_type if provider == "cpu" else "float32"]
    if manifest.portable is not None:
        factor = max(factor, PORTABLE_MEMORY_PER_WEIGHT)
    check_memory(
        int(factor * weights) + 50_000_000,
        f"loading {weights / 1e6:,.0f} MB of weights",
        f"free some memory, raise the limit, or {remedy}",
    )


def check_device_room(manifest: Manifest, free: int | None) -> None:
    """Raise ProviderError unless a device has room for the weights. free: bytes; None: it was not told."""
    weights = sum(entry.size for entry in manifest.files.values())
    if free is not None and weights > free:
        raise ProviderError(
            f"loading needs {weights / 1e6:,.0f} MB on the CUDA device, {free / 1e6:,.0f} MB are free there",
            hint="end what else runs on the device, use a smaller model, or use provider cpu",
        )

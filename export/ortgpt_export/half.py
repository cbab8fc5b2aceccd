"""Weights and activations in float16: what it can't hold is refused, by name."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ortgpt.errors import CheckpointError
from ortgpt.interfaces import Floats

LARGEST = float(np.finfo(np.float16).max)  # 65,504
# Of a tensor's root mean square. Rounding takes 0.0002; more than this means that most of it lies where
# float16 has no digits left, below about 1e-6.
WORST_LOSS = 1e-2
# Other texts may reach higher than those that were looked at.
LARGEST_ACTIVATION = LARGEST / 2

_HINT = "export it as fp32 or int8"


def to_half(name: str, values: Floats) -> NDArray[np.float16]:
    """values rounded to float16. Raises CheckpointError when they are too large or too small for it."""
    peak = float(np.abs(values).max(initial=0))
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16)
    if not np.isfinite(halves).all():
        raise CheckpointError(f"{name} reaches {peak:,.0f}, float16 ends at {LARGEST:,.0f}", hint=_HINT)
    if not peak:
        return halves
    loss = _size((halves - values) / peak) / _size(values / peak)  # by the peak: squares must not underflow
    if loss > WORST_LOSS:
        raise CheckpointError(
            f"{name} is too small for float16: it reaches {peak:.1e}, and {loss:.0%} of it would be lost",
            hint=_HINT,
        )
    return halves


def check_activations(where: str, peak: float) -> None:
    """Raise CheckpointError when the largest number in a forward pass comes near the end of float16.

    Looked at in float32: onnxruntime's CPU kernels keep much of a float16 graph in float32, so that a pass
    there shows nothing of what overflows on a GPU.
    """
    if peak > LARGEST_ACTIVATION:
        raise CheckpointError(
            f"the numbers of {where} reach {peak:,.0f} when the model reads, float16 ends at {LARGEST:,.0f}",
            hint=_HINT,
        )


def _size(values: Floats) -> float:
    return float(np.linalg.norm(values.ravel()))

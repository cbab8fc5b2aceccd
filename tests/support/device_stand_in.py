"""The memory of a device, without a device: the CPU's, reached in the way in which CUDA's is."""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np

from ortgpt.inference.cache_memory import HOST, CacheCells, HostCells
from ortgpt.inference.device_memory import DeviceMemory
from ortgpt.inference.session import FEWEST_OUTPUTS, Engine, Session


def stand_in_memory() -> DeviceMemory:
    """What a session on CUDA has, on the CPU."""
    return DeviceMemory(Engine(HOST))


def put_on_stand_in(session: Session) -> None:
    """Let a session of the CPU do as one on CUDA does: its caches, and its copies of what is bound."""
    session.memory = stand_in_memory()
    session.fewest_outputs = FEWEST_OUTPUTS["cuda"]
    binding = session.binding
    session.binding = lambda: CopyingBinding(binding())  # type: ignore[method-assign]


class CopyingBinding:
    """Copies an input of the host when it is bound, as onnxruntime does where the graph runs elsewhere.

    Empty ones are refused, as CUDA's kernels might. A cache's cells are on the device already: they are
    bound as they are.
    """

    def __init__(self, binding: Any) -> None:
        self._inner, self._copies = binding, {}

    def bind_input(self, name: str, device: str, number: int, kind: Any, shape: Any, address: int) -> None:
        if not name.startswith("past_"):
            size = math.prod(shape) * np.dtype(kind).itemsize
            assert size, f"{name} is empty"
            copy = self._copies[name] = ctypes.create_string_buffer(ctypes.string_at(address, size), size + 1)
            address = ctypes.addressof(copy)
        self._inner.bind_input(name, device, number, kind, shape, address)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def as_array(cells: CacheCells) -> np.ndarray:
    """The cells themselves, (2 * layers, rows, heads, capacity, head_size): what is written is there."""
    if isinstance(cells, HostCells):
        return cells.array
    memory = (ctypes.c_char * cells.nbytes).from_address(cells.address(0, 0))
    return np.frombuffer(memory, cells.dtype).reshape(cells.shape)

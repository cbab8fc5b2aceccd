"""The initializers of a bundle as arrays, without reading them into memory."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ortgpt.bundle.bundle import Bundle
from ortgpt.bundle.tensors_check import ELEMENT_TYPES, external_range
from ortgpt.bundle.wire import Tensor


def map_initializers(
    bundle: Bundle, graph: bytes | Path | None = None, *, external_only: bool = False
) -> dict[str, NDArray[Any]]:
    """Read-only arrays of all initializers, by name, or of those in the data files.

    graph  one of the bundle's; None: the first

    External ones are views of one mapping of each data file, of the very file that was checked:
    raises BundleIntegrityError when another one lies in its place by now.
    """
    tensors = bundle.read_graph(graph).initializers
    files = {external_range(tensor)[0] for tensor in tensors if tensor.external}
    mappings = {name: bundle.map_data(name) for name in sorted(files)}
    return {
        tensor.name: _array(tensor, mappings) for tensor in tensors if tensor.external or not external_only
    }


def _array(tensor: Tensor, mappings: Mapping[str, mmap.mmap | bytes]) -> NDArray[Any]:
    kind = np.dtype(ELEMENT_TYPES[tensor.data_type][0]).newbyteorder("<")
    if tensor.external:
        name, offset, length = external_range(tensor)
        count = length // kind.itemsize
        values = np.frombuffer(mappings[name], kind, count, offset) if length else np.empty(0, kind)
    else:
        values = np.frombuffer(tensor.data or b"", kind)
    return values.reshape(tensor.dims)

"""The initializers of a bundle as arrays, without reading them into memory."""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ortgpt.bundle.bundle import Bundle
from ortgpt.bundle.files import FileIdentity, open_regular, unreadable
from ortgpt.bundle.tensors_check import ELEMENT_TYPES, external_range
from ortgpt.bundle.wire import Tensor, read_model
from ortgpt.errors import BundleIntegrityError


def map_initializers(
    bundle: Bundle, graph: bytes | None = None, *, external_only: bool = False
) -> dict[str, NDArray[Any]]:
    """Read-only arrays of all initializers, by name, or of those in the data files.

    graph  one of the bundle's; None: the first

    External ones are views of one mapping of each data file, of the very file that was checked:
    raises BundleIntegrityError when another one lies in its place by now.
    """
    tensors = read_model(bundle.graph if graph is None else graph).initializers
    files = {external_range(tensor)[0] for tensor in tensors if tensor.external}
    mappings = {name: _map_file(bundle, name) for name in sorted(files)}
    return {
        tensor.name: _array(tensor, mappings) for tensor in tensors if tensor.external or not external_only
    }


def _map_file(bundle: Bundle, name: str) -> mmap.mmap | bytes:
    path, identity = bundle.directory / name, bundle.identities[name]
    descriptor = open_regular(path, bundle.directory)
    try:
        if FileIdentity.of(os.fstat(descriptor)) != identity:
            raise BundleIntegrityError(f"{path} changed since the bundle was opened")
        if identity.size == 0:  # an empty file can't be mapped
            return b""
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise unreadable(name, error) from None
    finally:
        os.close(descriptor)


def _array(tensor: Tensor, mappings: Mapping[str, mmap.mmap | bytes]) -> NDArray[Any]:
    kind = np.dtype(ELEMENT_TYPES[tensor.data_type][0]).newbyteorder("<")
    if tensor.external:
        name, offset, length = external_range(tensor)
        count = length // kind.itemsize
        values = np.frombuffer(mappings[name], kind, count, offset) if length else np.empty(0, kind)
    else:
        values = np.frombuffer(tensor.data or b"", kind)
    return values.reshape(tensor.dims)

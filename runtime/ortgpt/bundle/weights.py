"""The initializers of a bundle as arrays, without reading them into memory."""

from __future__ import annotations

import mmap
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ortgpt.bundle.bundle import Bundle
from ortgpt.bundle.files import FileIdentity, open_regular, unreadable
from ortgpt.bundle.graph_check import ELEMENT_TYPES, external_range
from ortgpt.bundle.wire import Tensor, read_model
from ortgpt.errors import BundleIntegrityError
from ortgpt.manifest import WEIGHTS_NAME


def map_initializers(bundle: Bundle, *, external_only: bool = False) -> dict[str, NDArray[Any]]:
    """Read-only arrays of all initializers, by name, or of those in the weights file.

    External ones are views of one mapping of the weights file, of the very file that was checked:
    raises BundleIntegrityError when another one lies in its place by now.
    """
    mapping = _map_weights(bundle)
    return {
        tensor.name: _array(tensor, mapping)
        for tensor in read_model(bundle.graph).initializers
        if tensor.external or not external_only
    }


def _map_weights(bundle: Bundle) -> mmap.mmap | bytes:
    descriptor = open_regular(bundle.weights_path, bundle.directory)
    try:
        if FileIdentity.of(os.fstat(descriptor)) != bundle.weights_identity:
            raise BundleIntegrityError(f"{bundle.weights_path} changed since the bundle was opened")
        if bundle.weights_identity.size == 0:  # an empty file can't be mapped
            return b""
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise unreadable(WEIGHTS_NAME, error) from None
    finally:
        os.close(descriptor)


def _array(tensor: Tensor, mapping: mmap.mmap | bytes) -> NDArray[Any]:
    kind = np.dtype(ELEMENT_TYPES[tensor.data_type][0]).newbyteorder("<")
    if tensor.external:
        offset, length = external_range(tensor)
        values = (
            np.frombuffer(mapping, kind, length // kind.itemsize, offset) if length else np.empty(0, kind)
        )
    else:
        values = np.frombuffer(tensor.data or b"", kind)
    return values.reshape(tensor.dims)

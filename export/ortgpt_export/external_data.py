"""Streams a graph's weights into one file beside it, so that models over 2 GB can be written."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ortgpt.errors import MissingExtraError

try:
    from onnx import TensorProto
except ImportError as error:
    raise MissingExtraError("export", "export", package=error.name or "onnx") from None

ALIGNMENT = 4096  # whole pages, so that a runtime can map every tensor

_ELEMENT_TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "bool": TensorProto.BOOL,
}


class ExternalData:
    """Appends tensors to an open file; each becomes an initializer that refers to its bytes.

    written  initializers of another graph of the same weights: a tensor that is there already, by name, type
             and dims, is referred to and not written again
    """

    def __init__(self, file: BinaryIO, location: str, written: Iterable[TensorProto] = ()) -> None:
        self._file = file
        self._location = location
        self._written = {tensor.name: tensor for tensor in written}
        self._end = 0
        self.initializers: list[TensorProto] = []

    def add(self, name: str, values: NDArray[Any]) -> str:
        """Write a tensor of a type in _ELEMENT_TYPES; returns its name."""
        twin = self._written.get(name)
        if twin is not None and (twin.data_type, (*twin.dims,)) == (_element_type(values), values.shape):
            self.initializers.append(twin)
            return name
        data = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
        begin = -(-self._end // ALIGNMENT) * ALIGNMENT
        self._file.write(bytes(begin - self._end))
        self._file.write(data.data)
        self._end = begin + data.nbytes
        self.initializers.append(self._reference(name, data, begin))
        return name

    def view(self, name: str, of: str, dims: tuple[int, ...]) -> str:
        """Another initializer over a written tensor's bytes, with other dims; returns its name."""
        twin = TensorProto()
        twin.CopyFrom(next(tensor for tensor in self.initializers if tensor.name == of))
        twin.name = name
        twin.ClearField("dims")
        twin.dims.extend(dims)
        self.initializers.append(twin)
        return name

    def _reference(self, name: str, data: NDArray[Any], offset: int) -> TensorProto:
        tensor = TensorProto(
            name=name,
            data_type=_element_type(data),
            dims=data.shape,
            data_location=TensorProto.EXTERNAL,
        )
        fields = {"location": self._location, "offset": str(offset), "length": str(data.nbytes)}
        for key, value in fields.items():
            tensor.external_data.add(key=key, value=value)
        return tensor


def _element_type(values: NDArray[Any]) -> int:
    return _ELEMENT_TYPES[values.dtype.name]

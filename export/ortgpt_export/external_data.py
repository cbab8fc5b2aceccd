"""Streams a graph's weights into one file beside it, so that models over 2 GB can be written."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np

from ortgpt.errors import MissingExtraError
from ortgpt.interfaces import Floats

try:
    from onnx import TensorProto
except ImportError as error:
    raise MissingExtraError("export", "export", package=error.name or "onnx") from None

ALIGNMENT = 4096  # whole pages, so that a runtime can map every tensor


class ExternalData:
    """Appends float32 tensors to an open file; each becomes an initializer that refers to its bytes."""

    def __init__(self, file: BinaryIO, location: str) -> None:
        self._file = file
        self._location = location
        self._end = 0
        self.initializers: list[TensorProto] = []

    def add(self, name: str, values: Floats) -> str:
        """Write a tensor; returns its name."""
        data = np.ascontiguousarray(values, dtype="<f4")
        begin = -(-self._end // ALIGNMENT) * ALIGNMENT
        self._file.write(bytes(begin - self._end))
        self._file.write(data.data)
        self._end = begin + data.nbytes
        self.initializers.append(self._reference(name, data.shape, begin, data.nbytes))
        return name

    def _reference(self, name: str, shape: tuple[int, ...], offset: int, length: int) -> TensorProto:
        tensor = TensorProto(
            name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL
        )
        fields = {"location": self._location, "offset": str(offset), "length": str(length)}
        for key, value in fields.items():
            tensor.external_data.add(key=key, value=value)
        return tensor

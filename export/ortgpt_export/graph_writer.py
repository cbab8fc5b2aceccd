"""Collects a graph's nodes and initializers; the weights go straight into the data file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

from numpy.typing import NDArray

from ortgpt.errors import MissingExtraError
from ortgpt.graph_contract import FLOAT, INT32, INT64, Port
from ortgpt.interfaces import Floats
from ortgpt.manifest import WEIGHTS_NAME, ElementType
from ortgpt_export.external_data import ExternalData
from ortgpt_export.half import to_half

try:
    from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
except ImportError as error:
    raise MissingExtraError("export", "export", package=error.name or "onnx") from None

MICROSOFT = "com.microsoft"

_ONNX_TYPES = {
    "bool": TensorProto.BOOL,
    "float16": TensorProto.FLOAT16,
    FLOAT: TensorProto.FLOAT,
    INT32: TensorProto.INT32,
    INT64: TensorProto.INT64,
}

OnBytes = Callable[[int], None]
"""Is told the bytes of each weight of the checkpoint that has been written."""


class GraphWriter:
    """nodes: in the order of the forward pass. initializers: weights in the data file, constants inline."""

    def __init__(
        self,
        data_file: BinaryIO,
        on_bytes: OnBytes = lambda _: None,
        element_type: ElementType = "float32",
        *,
        location: str = WEIGHTS_NAME,
        written: Iterable[TensorProto] = (),
    ) -> None:
        """data_file becomes the file named `location` beside the graph, which computes in element_type.

        written: see ExternalData.
        """
        self.element_type = element_type
        self.nodes: list[NodeProto] = []
        self._data = ExternalData(data_file, location, written)
        self._constants: dict[str, TensorProto] = {}
        self._on_bytes = on_bytes

    @property
    def initializers(self) -> list[TensorProto]:
        return [*self._data.initializers, *self._constants.values()]

    def weight(self, name: str, values: NDArray[Any]) -> str:
        """Store an array as it is; returns its name."""
        return self._data.add(name, values)

    def floats(self, name: str, values: Floats) -> str:
        """Store an array in what the graph computes in; returns its name."""
        return self.weight(name, to_half(name, values) if self.element_type == "float16" else values)

    def view(self, name: str, of: str, dims: tuple[int, ...]) -> str:
        """The bytes of a stored array once more, with other dims; returns the view's name."""
        return self._data.view(name, of, dims)

    def written(self, values: NDArray[Any]) -> None:
        """Report a weight of the checkpoint, in whatever form it has been stored."""
        self._on_bytes(values.nbytes)

    def integers(self, name: str, values: list[int]) -> str:
        """A small constant, int64 (len(values),); returns its name."""
        self._constants[name] = helper.make_tensor(name, TensorProto.INT64, [len(values)], values)
        return name

    def constant(self, name: str, values: NDArray[Any]) -> str:
        """A small array inside the graph; returns its name."""
        self._constants[name] = numpy_helper.from_array(values, name)
        return name

    def node(
        self, operator: str, inputs: list[str], outputs: list[str], domain: str = "", **attributes: Any
    ) -> str:
        """Append a node; returns its first output."""
        self.nodes.append(
            helper.make_node(operator, inputs, outputs, name=outputs[0], domain=domain, **attributes)
        )
        return outputs[0]

    def microsoft(self, operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> str:
        """Append a node of onnxruntime's own domain; returns its first output."""
        return self.node(operator, inputs, outputs, MICROSOFT, **attributes)

    def cast(self, value: str, kind: int, output: str) -> str:
        """Append a conversion to a TensorProto type; returns its output."""
        return self.node("Cast", [value], [output], to=kind)

    def give_out(self, output: str) -> None:
        """Make a graph output, which is float32, of the value that `inside(output)` names."""
        if self.inside(output) != output:
            self.cast(self.inside(output), TensorProto.FLOAT, output)

    def inside(self, output: str) -> str:
        """The name of a graph output as the graph computes it."""
        return output if self.element_type == "float32" else output + ".half"


def value_infos(ports: list[Port]) -> list[ValueInfoProto]:
    """A graph's inputs or outputs as ONNX describes them."""
    return [helper.make_tensor_value_info(port.name, _ONNX_TYPES[port.dtype], port.shape) for port in ports]

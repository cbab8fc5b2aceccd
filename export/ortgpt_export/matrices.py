"""The forms in which a graph holds its matrices, each with the nodes that multiply and look up.

A form is asked for three things: the product of activations with a weight (in, out), the rows of a
table (rows, width) at given ids, and the product of activations with that table transposed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from ortgpt.errors import MissingExtraError
from ortgpt.interfaces import Floats
from ortgpt_export.graph_writer import GraphWriter
from ortgpt_export.quantise import Blocks, Method, quantise_blocks, quantise_columns

try:
    import onnx  # noqa: F401
except ImportError as error:
    raise MissingExtraError("export", "export", package=error.name or "onnx") from None

ACCURACY_LEVEL = 4  # activations as int8: without it a product takes 20 to 100 times as long


class Matrices(ABC):
    """One form; frozen, so that a scheme is plain data."""

    @abstractmethod
    def multiply(
        self, graph: GraphWriter, x: str, name: str, weight: Floats, output: str, bias: str = ""
    ) -> str:
        """output = x @ weight + bias; weight (in, out) is stored under `name`."""


class Tables(ABC):
    """A form of the token table, which is looked up and multiplied with."""

    @abstractmethod
    def store(self, graph: GraphWriter, name: str, table: Floats) -> None:
        """Keep a table (rows, width) under `name`."""

    @abstractmethod
    def look_up(self, graph: GraphWriter, name: str, table: Floats, ids: str, output: str) -> str:
        """output (..., width) = the stored table's rows at ids (...)."""

    @abstractmethod
    def project(self, graph: GraphWriter, x: str, name: str, table: Floats, output: str) -> str:
        """output (..., rows) = x @ the stored table, transposed."""


@dataclass(frozen=True)
class FloatMatrices(Matrices, Tables):
    """Floats, in what the graph computes in."""

    def multiply(
        self, graph: GraphWriter, x: str, name: str, weight: Floats, output: str, bias: str = ""
    ) -> str:
        graph.floats(name, weight)
        if not bias:
            return graph.node("MatMul", [x, name], [output])
        graph.node("MatMul", [x, name], [output + ".product"])
        return graph.node("Add", [output + ".product", bias], [output])

    def store(self, graph: GraphWriter, name: str, table: Floats) -> None:
        graph.floats(name, table)

    def look_up(self, graph: GraphWriter, name: str, table: Floats, ids: str, output: str) -> str:
        return graph.node("Gather", [name, ids], [output])

    def project(self, graph: GraphWriter, x: str, name: str, table: Floats, output: str) -> str:
        return graph.microsoft("FusedMatMul", [x, name], [output], transB=1)


@dataclass(frozen=True)
class BlockMatrices(Matrices, Tables):
    """Integers of `bits` with a scale per `block_size` inputs of an output; activations stay float32.

    found: weights that have been quantised already, by name
    """

    bits: int
    block_size: int
    method: Method = "rtn"
    found: Mapping[str, Blocks] = field(default_factory=dict, compare=False, repr=False)

    def multiply(
        self, graph: GraphWriter, x: str, name: str, weight: Floats, output: str, bias: str = ""
    ) -> str:
        blocks = self.found[name] if name in self.found else self._quantise(weight.T)
        stored = [graph.weight(name, blocks.packed), *self._scales(graph, name, blocks)]
        return self._product(graph, x, stored, weight.shape[::-1], output, bias)

    def store(self, graph: GraphWriter, name: str, table: Floats) -> None:
        blocks = self._quantise(table)
        # Two-dimensional, as the lookup wants it.
        graph.weight(name, blocks.packed.reshape(len(table), -1))
        self._scales(graph, name, blocks)

    def look_up(self, graph: GraphWriter, name: str, table: Floats, ids: str, output: str) -> str:
        width = table.shape[1]
        is_padded = width % self.block_size > 0
        rows = output + ".padded" if is_padded else output
        graph.microsoft(
            "GatherBlockQuantized",
            [name, ids, *self._scale_names(name)],
            [rows],
            bits=self.bits,
            block_size=self.block_size,
            gather_axis=0,
            quantize_axis=1,
        )
        if is_padded:
            bounds = [
                graph.integers(f"{output}.{key}", [value]) for key, value in (("begin", 0), ("end", width))
            ]
            graph.node("Slice", [rows, *bounds, graph.integers(output + ".axis", [-1])], [output])
        return output

    def project(self, graph: GraphWriter, x: str, name: str, table: Floats, output: str) -> str:
        count, width = table.shape
        blocks = -(-width // self.block_size)
        # A view and no Reshape, from whose result onnxruntime would make a second table.
        view = graph.view(name + ".blocks", name, (count, blocks, self.block_size * self.bits // 8))
        return self._product(graph, x, [view, *self._scale_names(name)], (count, width), output)

    def _quantise(self, matrix: Floats) -> Blocks:
        return quantise_blocks(matrix, bits=self.bits, block_size=self.block_size, method=self.method)

    def _scale_names(self, name: str) -> list[str]:
        return [name + ".scales"] + ([] if self.method == "rtn" else [name + ".zero_points"])

    def _scales(self, graph: GraphWriter, name: str, blocks: Blocks) -> list[str]:
        graph.weight(name + ".scales", blocks.scales)
        if blocks.zero_points is not None:
            graph.weight(name + ".zero_points", blocks.zero_points)
        return self._scale_names(name)

    def _product(
        self,
        graph: GraphWriter,
        x: str,
        stored: list[str],
        shape: tuple[int, ...],
        output: str,
        bias: str = "",
    ) -> str:
        inputs = [x, *stored]
        if bias:
            inputs += [""] * (5 - len(inputs)) + [bias]
        return graph.microsoft(
            "MatMulNBits",
            inputs,
            [output],
            N=shape[0],
            K=shape[1],
            bits=self.bits,
            block_size=self.block_size,
            accuracy_level=ACCURACY_LEVEL,
        )


@dataclass(frozen=True)
class DynamicMatrices(Matrices):
    """int8 with a scale per output; activations become uint8 with one scale for the whole call."""

    def multiply(
        self, graph: GraphWriter, x: str, name: str, weight: Floats, output: str, bias: str = ""
    ) -> str:
        columns = quantise_columns(weight)
        inputs = [x, graph.weight(name, columns.values), graph.weight(name + ".scales", columns.scales)]
        return graph.microsoft("DynamicQuantizeMatMul", inputs + (["", bias] if bias else []), [output])

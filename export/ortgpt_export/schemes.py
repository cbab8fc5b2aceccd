"""What each --precision makes of the weights. docs/precision.md has the figures behind the choices."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ortgpt.checks import shown
from ortgpt.errors import OptionError
from ortgpt.manifest import PRECISIONS, ElementType, Precision, element_type
from ortgpt_export.matrices import BlockMatrices, DynamicMatrices, FloatMatrices, Matrices, Tables


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """One way to store a model.

    layers          the layers' matrices
    wide_layers     the same in a second graph, which runs calls of many tokens; None: there is none
    table           token embedding and head, which are stored once
    positions       the position table
    block_size      of the layers, for the manifest; None: not in blocks
    row_invariant   whether a row's results are the same bits beside other rows
    moves_outliers  whether large activations are first moved into the weights, by a calibration; the second
                    graph's always are
    """

    precision: Precision
    layers: Matrices
    table: Tables
    positions: Tables
    wide_layers: Matrices | None = None
    block_size: int | None = None
    row_invariant: bool = False
    moves_outliers: bool = False

    def wide(self) -> Scheme | None:
        """The scheme of the second graph, if there is one."""
        return None if self.wide_layers is None else replace(self, layers=self.wide_layers, wide_layers=None)

    @property
    def element_type(self) -> ElementType:
        """What the graph computes in."""
        return element_type(self.precision)


_FLOAT = FloatMatrices()
# Blocks of 128 are faster than smaller ones and hardly worse. What a row computes in blocks of up to 32
# (of 8-bit numbers up to 64) does not depend on how many rows there are; in larger ones it does.
_INT8 = BlockMatrices(8, 128)
_INT8_INVARIANT = BlockMatrices(8, 64)
_INT4 = BlockMatrices(4, 128, "gptq")
_INT4_INVARIANT = BlockMatrices(4, 32, "gptq")

SCHEMES: dict[Precision, Scheme] = {
    "fp32": Scheme(precision="fp32", layers=_FLOAT, table=_FLOAT, positions=_FLOAT, row_invariant=True),
    # The norms and the sums too: docs/precision.md has what that costs.
    "fp16": Scheme(precision="fp16", layers=_FLOAT, table=_FLOAT, positions=_FLOAT),
    "int8": Scheme(
        precision="int8",
        layers=_INT8,
        table=_INT8,
        positions=_INT8,
        block_size=_INT8.block_size,
        moves_outliers=True,
    ),
    "int8-dynamic": Scheme(
        precision="int8-dynamic", layers=DynamicMatrices(), table=_INT8, positions=_INT8, moves_outliers=True
    ),
    # A head of 4 bits would lose more than all layers do: their products add up, the head's are the logits.
    "int4": Scheme(precision="int4", layers=_INT4, table=_INT8, positions=_INT8, block_size=_INT4.block_size),
}
# Precisions to which the layers of int8-dynamic may be added for wide steps.
FAST_PREFILL: tuple[Precision, ...] = ("int8", "int4")
# (layers, table)
_INVARIANT: dict[Precision, tuple[BlockMatrices, BlockMatrices]] = {
    "int8": (_INT8_INVARIANT, _INT8_INVARIANT),
    "int4": (_INT4_INVARIANT, BlockMatrices(4, 32, "k-quant")),
}
_WHY_VARIANT: dict[Precision, str] = {
    "fp16": "a GPU orders its sums by the number of rows",
    "int8-dynamic": "all rows of a call share a scale",
}


def choose_scheme(precision: str, *, row_invariant: bool = False, fast_prefill: bool = False) -> Scheme:
    """The scheme of a precision. Raises OptionError for what is not to be had."""
    scheme = _choose_layers(precision, row_invariant)
    if not fast_prefill:
        return scheme
    if row_invariant:
        raise OptionError("fast_prefill", "does not go with row_invariant: all rows of a call share a scale")
    if scheme.precision not in FAST_PREFILL:
        raise OptionError("fast_prefill", f"goes with {' and '.join(FAST_PREFILL)}, not with {precision}")
    return replace(scheme, wide_layers=SCHEMES["int8-dynamic"].layers)


def _choose_layers(precision: str, row_invariant: bool) -> Scheme:
    if precision not in PRECISIONS:
        raise OptionError("precision", f"must be one of {', '.join(PRECISIONS)}, got {shown(precision)}")
    scheme = SCHEMES[precision]
    if not row_invariant or scheme.row_invariant:
        return scheme
    if precision not in _INVARIANT:
        raise OptionError("row_invariant", f"can't be had with {precision}: {_WHY_VARIANT[precision]}")
    layers, table = _INVARIANT[precision]
    return replace(scheme, layers=layers, table=table, block_size=layers.block_size, row_invariant=True)

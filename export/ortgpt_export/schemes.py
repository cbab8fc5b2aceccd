"""What each --precision makes of the weights."""

from __future__ import annotations

from dataclasses import dataclass

from ortgpt.manifest import Precision
from ortgpt_export.matrices import BlockMatrices, DynamicMatrices, FloatMatrices, Matrices, Tables


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """layers: the layers' matrices. table: token embedding and head, which are stored once.

    row_invariant  whether a row's results are the same bits beside other rows
    """

    precision: Precision
    layers: Matrices
    table: Tables
    block_size: int | None = None
    row_invariant: bool


SCHEMES = {
    "fp32": Scheme(precision="fp32", layers=FloatMatrices(), table=FloatMatrices(), row_invariant=True),

}

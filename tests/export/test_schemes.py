"""Which form each precision gives to which weights, and what is refused."""

from __future__ import annotations

import pytest

from ortgpt.errors import OptionError
from ortgpt_export.matrices import BlockMatrices, DynamicMatrices, FloatMatrices
from ortgpt_export.schemes import SCHEMES, choose_scheme


@pytest.mark.parametrize("precision", SCHEMES)
def test_every_precision_has_the_scheme_of_its_name(precision) -> None:
    assert choose_scheme(precision).precision == precision


@pytest.mark.parametrize(("precision", "bits", "of_tables"), [("int8", 8, (8, 8)), ("int4", 4, (8, 4))])
def test_weights_in_blocks_have_the_bits_of_their_precision(precision, bits, of_tables) -> None:
    """But the head, which bears less: it has 4 bits only where larger blocks would not be row-invariant."""
    for row_invariant, of_table in zip((False, True), of_tables, strict=True):
        scheme = choose_scheme(precision, row_invariant=row_invariant)
        assert isinstance(scheme.layers, BlockMatrices)
        assert isinstance(scheme.table, BlockMatrices)
        assert (scheme.layers.bits, scheme.table.bits) == (bits, of_table)
        assert scheme.block_size == scheme.layers.block_size
        assert scheme.row_invariant is row_invariant


def test_a_row_invariant_scheme_has_no_blocks_whose_sums_depend_on_the_number_of_rows() -> None:
    largest = {8: 64, 4: 32}
    for precision in ("int8", "int4"):
        scheme = choose_scheme(precision, row_invariant=True)
        for form in (scheme.layers, scheme.table):
            assert isinstance(form, BlockMatrices)
            assert form.block_size <= largest[form.bits]


def test_dynamic_layers_have_no_blocks() -> None:
    scheme = choose_scheme("int8-dynamic")
    assert isinstance(scheme.layers, DynamicMatrices)
    assert (scheme.block_size, scheme.row_invariant) == (None, False)


def test_fp32_is_row_invariant_as_it_is() -> None:
    assert choose_scheme("fp32", row_invariant=True) is SCHEMES["fp32"]
    assert isinstance(SCHEMES["fp32"].layers, FloatMatrices)


def test_what_cannot_be_had_is_an_option_error() -> None:
    with pytest.raises(OptionError, match=r"^precision must be one of fp32, .*int4, got 'int2'"):
        choose_scheme("int2")
    with pytest.raises(OptionError, match=r"^row_invariant can't be had with int8-dynamic"):
        choose_scheme("int8-dynamic", row_invariant=True)

"""Which provider a bundle runs on, by what it is and what there is."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ortgpt.bundle.bundle import open_bundle
from ortgpt.errors import OptionError, ProviderError
from ortgpt.inference.providers import choose_provider, cpu_warning
from ortgpt.manifest import Manifest

CPU = ["CPUExecutionProvider"]
CUDA = ["CUDAExecutionProvider", *CPU]


@pytest.fixture(scope="module")
def exact(make_bundle: Any) -> Manifest:
    return open_bundle(make_bundle()).manifest


def with_precision(manifest: Manifest, precision: Any) -> Manifest:
    return dataclasses.replace(manifest, precision=precision)


def test_cuda_takes_float16_and_what_is_plain_onnx(exact: Manifest) -> None:
    portable = dataclasses.replace(exact, dialect="portable")
    for manifest in (with_precision(exact, "fp16"), portable):
        chosen = [choose_provider(wanted, manifest, CUDA) for wanted in ("auto", "cuda", "cpu")]
        assert chosen == ["cuda", "cuda", "cpu"]
        assert choose_provider("auto", manifest, CPU) == "cpu"


@pytest.mark.parametrize("precision", ["fp32", "int8", "int8-dynamic", "int4"])
def test_other_bundles_stay_on_the_cpu_and_cuda_is_refused(precision: str, exact: Manifest) -> None:
    """FAULTS 24"""
    manifest = with_precision(exact, precision)
    assert choose_provider("auto", manifest, CUDA) == "cpu"
    with pytest.raises(ProviderError, match=f"a {precision} bundle can't run on CUDA") as caught:
        choose_provider("cuda", manifest, CUDA)
    assert "--precision fp16" in str(caught.value.hint)


@pytest.mark.parametrize("precision", ["int8", "int8-dynamic", "int4"])
def test_quantised_portable_graphs_do_not_run_on_cuda_in_part(precision: str, exact: Manifest) -> None:
    manifest = with_precision(dataclasses.replace(exact, dialect="portable"), precision)
    assert choose_provider("auto", manifest, CUDA) == "cpu"
    with pytest.raises(ProviderError, match="products of integers have no kernels there") as caught:
        choose_provider("cuda", manifest, CUDA)
    assert "export it in fp32" in str(caught.value.hint)


def test_what_there_is_not_is_refused_by_name(exact: Manifest) -> None:
    """FAULTS 24"""
    with pytest.raises(ProviderError, match=r"not available; this onnxruntime has: CPUExecutionProvider"):
        choose_provider("cuda", with_precision(exact, "fp16"), CPU)
    with pytest.raises(OptionError, match="provider must be one of auto, cpu, cuda, got 'gpu'"):
        choose_provider("gpu", exact, CUDA)


def test_the_cpu_is_worth_a_line_for_float16_and_where_cuda_was_expected(exact: Manifest) -> None:
    half = with_precision(exact, "fp16")
    assert cpu_warning(exact, None) is None
    assert cpu_warning(exact, "no driver") == "running on the CPU: no driver"
    assert str(cpu_warning(half, None)).endswith("are faster there")
    assert str(cpu_warning(half, "no driver")).endswith("are faster there (no driver)")

"""Which graph of a directory is taken."""

from __future__ import annotations

import pytest

from ortgpt.adoption.graph_choice import choose_graph
from ortgpt.errors import BundleError, OptionError

HALVES = ["decoder_model.onnx", "decoder_with_past_model.onnx"]


@pytest.mark.parametrize(
    ("names", "wanted", "chosen"),
    [
        (["model.onnx", "config.json", "model.onnx_data"], None, "model.onnx"),
        (["gpt2.onnx"], None, "gpt2.onnx"),
        ([*HALVES, "decoder_model_merged.onnx"], None, "decoder_model_merged.onnx"),
        (["model.onnx", "model_quantized.onnx"], "model_quantized.onnx", "model_quantized.onnx"),
        (["model.onnx", "decoder_model_merged.onnx"], "model.onnx", "model.onnx"),
    ],
)
def test_the_only_graph_or_the_one_that_is_asked_for_is_taken(
    names: list[str], wanted: str | None, chosen: str
) -> None:
    assert choose_graph(names, wanted) == chosen


def test_several_graphs_are_listed() -> None:
    with pytest.raises(BundleError, match=r"several graphs: model\.onnx, model_int8\.onnx") as caught:
        choose_graph(["model_int8.onnx", "model.onnx", "tokenizer.json"])
    assert "--file" in str(caught.value.hint)


def test_no_graph_is_an_error_with_the_command_that_makes_one() -> None:
    with pytest.raises(BundleError, match=r"no \.onnx file") as caught:
        choose_graph(["config.json", "model.safetensors"])
    assert "--task text-generation-with-past" in str(caught.value.hint)


@pytest.mark.parametrize("wanted", [None, *HALVES])
def test_half_of_a_decoder_is_refused(wanted: str | None) -> None:
    for names in (HALVES, HALVES[1:]) if wanted is None else (HALVES,):
        with pytest.raises(BundleError, match="is one half of a decoder, and decoder_model_merged"):
            choose_graph(names, wanted)


def test_a_file_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(OptionError, match=r"file must be one of model\.onnx, got '\.\./x\.onnx'"):
        choose_graph(["model.onnx"], "../x.onnx")

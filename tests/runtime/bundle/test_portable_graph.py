"""ortgpt.bundle on portable graphs: what Optimum writes is accepted, and nothing that it does not write."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from portable_exports import export_with_optimum
from rewritten import rewrite_manifest

import ortgpt
from ortgpt.bundle import bundle as bundle_module
from ortgpt.bundle.bundle import Bundle, open_bundle
from ortgpt.bundle.portable_operators import PORTABLE_OPERATORS
from ortgpt.bundle.weights import map_initializers
from ortgpt.errors import BundleError, BundleIntegrityError, ProviderError
from ortgpt.manifest_reader import read_manifest

MakeBundle = Callable[..., Path]
PAST = "past_key_values.0.key"
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


@dataclass
class Portable:
    """An adopted directory of one's own. Change `model`, then ask for the refusal."""

    directory: Path
    model: onnx.ModelProto

    @property
    def path(self) -> Path:
        return next(self.directory.glob("*.onnx"))

    def open(self, **changes: Any) -> Bundle:
        self.path.write_bytes(self.model.SerializeToString())
        rewrite_manifest(self.directory, **changes)
        return open_bundle(self.directory)

    def refusal(self, **changes: Any) -> str:
        with pytest.raises(BundleError) as caught:
            self.open(**changes)
        return str(caught.value)

    def nodes(self, operator: str, graph: Any = None) -> list[Any]:
        return [node for node in (graph or self.model.graph).node if node.op_type == operator]

    def branch(self, name: str = "then_branch") -> Any:
        [choice] = self.nodes("If")
        return next(attribute.g for attribute in choice.attribute if attribute.name == name)


@pytest.fixture
def make_adopted(make_portable: MakeBundle, tmp_path: Path) -> Callable[..., Portable]:
    def make(family: str = "gpt2", **options: Any) -> Portable:
        directory = tmp_path / "adopted"
        shutil.copytree(make_portable(family, **options), directory)
        ortgpt.adopt(directory, force=True)
        return Portable(directory, onnx.load(next(directory.glob("*.onnx"))))

    return make


@pytest.fixture
def gpt2(make_adopted: Callable[..., Portable]) -> Portable:
    return make_adopted("gpt2")


@pytest.fixture
def merged(make_adopted: Callable[..., Portable]) -> Portable:
    return make_adopted("gpt2", merged=True)


def test_the_graphs_that_tests_start_from_are_accepted(gpt2: Portable, tmp_path: Path) -> None:
    gpt2.open()


def test_a_merged_graph_is_accepted(merged: Portable) -> None:
    merged.open()


@pytest.mark.parametrize(
    ("domain", "operator"),
    [
        ("", "Loop"),
        ("", "Scan"),
        ("", "GatherND"),
        ("", "QuantizeLinear"),
        ("", "RandomNormal"),
        ("", "SequenceMap"),
        ("", "Optional"),
        ("com.microsoft", "GroupQueryAttention"),
        ("com.microsoft", "EPContext"),
        ("com.microsoft", "BeamSearch"),
        ("com.microsoft", "MatMul"),
        ("pyopmulti", "PyOp"),
        ("ai.onnx.contrib", "PythonOp"),
        ("ai.onnx.ml", "TreeEnsemble"),
    ],
)
def test_operator_outside_the_list_is_refused(gpt2: Portable, domain: str, operator: str) -> None:
    """FAULTS 15"""
    gpt2.model.graph.node.append(helper.make_node(operator, ["logits"], ["extra"], domain=domain))
    full_name = f"{domain}.{operator}" if domain else operator
    assert f"operator '{full_name}' is not allowed (1 nodes)" in gpt2.refusal()


def test_operators_inside_a_branch_are_judged_too(merged: Portable) -> None:
    """FAULTS 15"""
    merged.branch().node.append(helper.make_node("Loop", ["logits"], ["extra"]))
    assert "operator 'Loop' is not allowed (1 nodes)" in merged.refusal()


def make_choice(*inputs: str, **branches: Any) -> Any:
    return helper.make_node("If", inputs or ["use_cache_branch"], ["chosen"], name="choice", **branches)


def empty_branch(*nodes: Any, inputs: Any = (), outputs: int = 1) -> Any:
    value = helper.make_tensor_value_info("chosen", FLOAT, [1])
    return helper.make_graph(list(nodes), "branch", list(inputs), [value] * outputs)


def both(branch: Any) -> dict[str, Any]:
    return {"then_branch": branch, "else_branch": branch}


def test_a_branch_outside_a_merged_decoder_is_refused(gpt2: Portable) -> None:
    """FAULTS 15"""
    gpt2.model.graph.node.append(make_choice(**both(empty_branch())))
    message = gpt2.refusal()
    assert "it must have no node that branches (If), found 1" in message


def test_a_merged_decoder_branches_once(merged: Portable) -> None:
    """FAULTS 15"""
    merged.model.graph.node.append(make_choice(**both(empty_branch())))
    assert "it must have one node that branches (If), found 2" in merged.refusal()


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (make_choice("attention_mask", **both(empty_branch())), "must branch by use_cache_branch"),
        (
            make_choice("use_cache_branch", then_branch=empty_branch()),
            "must have else_branch and then_branch",
        ),
        (
            make_choice(then_branch=empty_branch(), else_branch=helper.make_tensor("x", FLOAT, [1], [0.0])),
            "must have else_branch and then_branch and no other graph",
        ),
        (make_choice(**both(empty_branch()), other=empty_branch()), "and no other graph"),
        (make_choice(**both(empty_branch(outputs=2))), "a branch of node 'choice' has 2 outputs"),
        (
            make_choice(**both(empty_branch(inputs=[helper.make_tensor_value_info("x", FLOAT, [1])]))),
            "a branch of node 'choice' has inputs",
        ),
        (make_choice(**both(empty_branch(make_choice(**both(empty_branch()))))), "branches once more"),
    ],
)
def test_the_choice_of_a_merged_decoder_is_made_as_optimum_makes_it(
    merged: Portable, choice: Any, message: str
) -> None:
    """FAULTS 15"""
    merged.model.graph.node.append(choice)
    assert message in merged.refusal()


def test_a_graph_inside_a_branch_is_refused(merged: Portable) -> None:
    """FAULTS 15: only two levels are ever read."""
    body = helper.make_attribute("body", helper.make_graph([], "inner", [], []))
    merged.branch().node[0].attribute.append(body)
    assert "holds a graph or a tensor in attribute 'body'" in merged.refusal()


@pytest.mark.parametrize("operator", ["Gather", "Reshape", "MatMul"])
def test_a_tensor_in_another_node_than_a_constant_is_refused(gpt2: Portable, operator: str) -> None:
    """FAULTS 15"""
    value = helper.make_tensor("x", FLOAT, [1], [0.0])
    gpt2.nodes(operator)[0].attribute.append(helper.make_attribute("value", value))
    assert "holds a graph or a tensor in attribute 'value'" in gpt2.refusal()


@pytest.mark.parametrize("graph", ["outer", "branch"])
def test_the_tensor_of_a_constant_holds_what_its_dims_ask_for(
    make_adopted: Callable[..., Portable], graph: str
) -> None:
    """FAULTS 13"""
    portable = make_adopted("gpt2", merged=graph == "branch")
    inside = portable.branch() if graph == "branch" else None
    constant = portable.nodes("Constant", inside)[0].attribute[0].t
    for dims, message in (
        ([9, 9], "its dims ask for 648"),
        ([2**40], "impossible dims"),
        ([-1], "impossible"),
    ):
        del constant.dims[:]
        constant.dims.extend(dims)
        assert message in portable.refusal()


def test_a_constant_can_t_refer_to_another_file(gpt2: Portable) -> None:
    """FAULTS 13"""
    constant = gpt2.nodes("Constant")[0].attribute[0].t
    constant.ClearField("raw_data")
    constant.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "/etc/passwd"), ("offset", "0"), ("length", "8")):
        constant.external_data.add(key=key, value=value)
    assert "lies in '/etc/passwd'" in gpt2.refusal()


def port(name: str, kind: int, shape: list[Any] | None) -> Callable[[Any], None]:
    def change(graph: Any) -> None:
        for value in (*graph.input, *graph.output):
            if value.name == name:
                value.CopyFrom(helper.make_tensor_value_info(name, kind, shape))

    return change


def rename(old: str, new: str) -> Callable[[Any], None]:
    def change(graph: Any) -> None:
        for value in (*graph.input, *graph.output):
            if value.name == old:
                value.name = new

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename("input_ids", "tokens"), "input input_ids is missing"),
        (rename("attention_mask", "mask"), "input 'mask' is not expected"),
        (rename("present.1.value", "present.2.value"), "output present.1.value is missing"),
        (rename(PAST, "past_key_values.7.key"), f"input {PAST} is missing"),
        (port("input_ids", TensorProto.INT32, ["a", "b"]), "must be int64 [rows, width], found int32 [a, b]"),
        (
            port("input_ids", INT64, [1, "b"]),
            "input input_ids must be int64 [rows, width], found int64 [1, b]",
        ),
        (port("input_ids", INT64, ["a", 16]), "found int64 [a, 16]"),
        (
            port("logits", FLOAT, ["a", "b", 256]),
            "must be float32 [rows, width, 257], found float32 [a, b, 256]",
        ),
        (port("logits", FLOAT, ["a", "b", "vocab"]), "found float32 [a, b, vocab]"),
        (port("logits", TensorProto.FLOAT16, ["a", "b", 257]), "found float16"),
        (
            port(PAST, FLOAT, ["a", 4, "b", 16]),
            "must be float32 [rows, 2, past, 16], found float32 [a, 4, b, 16]",
        ),
        (port(PAST, FLOAT, ["a", "heads", "b", 8]), "found float32 [a, heads, b, 8]"),
        (port(PAST, FLOAT, ["a", 2, 64, 16]), "found float32 [a, 2, 64, 16]"),
        (port(PAST, FLOAT, ["a", 2, "b"]), "found float32 [a, 2, b]"),
        (port(PAST, FLOAT, None), "found float32 without a shape"),
    ],
)
def test_inputs_and_outputs_are_those_of_the_contract(
    gpt2: Portable, change: Callable[[Any], None], message: str
) -> None:
    """FAULTS 16"""
    change(gpt2.model.graph)
    assert message in gpt2.refusal()


def test_a_cache_may_leave_its_numbers_open(gpt2: Portable) -> None:
    """Some exporters do: nothing wrong can come of it, because a past of other sizes does not run."""
    for value in (*gpt2.model.graph.input, *gpt2.model.graph.output):
        if value.name.startswith(("past", "present")):
            port(value.name, FLOAT, ["a", "heads", "b", "size"])(gpt2.model.graph)
    expected = generate(gpt2.directory)
    gpt2.open()
    assert generate(gpt2.directory) == expected
    for wrong in ({"heads": 4}, {"head_size": 8, "cache_head_size": 8}):
        gpt2.open(architecture={"heads": 2, "cache_head_size": 16} | wrong)
        with pytest.raises(ProviderError), ortgpt.load(gpt2.directory, threads=1, verify=False) as model:
            model.generate("king", max_new_tokens=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 3}, "7 inputs and 5 outputs are too few for the manifest's 3 layers"),
        ({"layers": 1}, "input 'past_key_values.1.key' is not expected"),
        ({"layers": 2**31 - 1}, "too few for the manifest's 2147483647 layers"),
        ({"vocab_size": 258}, "output logits must be float32 [rows, width, 258]"),
        ({"context": 65}, "position_ids must look up a table of at least 65 rows, found a table [64, 32]"),
        ({"heads": 4}, "must be float32 [rows, 4, past, 16]"),
        ({"cache_head_size": 32}, "must be float32 [rows, 2, past, 32]"),
    ],
)
def test_the_graph_computes_the_architecture_that_the_manifest_names(
    gpt2: Portable, changes: dict[str, int], message: str
) -> None:
    """FAULTS 16"""
    assert message in gpt2.refusal(architecture=changes)


def test_the_table_of_tokens_has_a_row_for_every_id(make_adopted: Callable[..., Portable]) -> None:
    """FAULTS 16"""
    message = make_adopted("llama").refusal(architecture={"vocab_size": 258})
    assert "input_ids must look up a table of at least 258 rows, found a table [257, 32]" in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cache": "stacked"}, "input past_0 is missing"),
        ({"ids_type": "int32"}, "input input_ids must be int32"),
        ({"position_ids": False}, "input 'position_ids' is not expected"),
        ({"attention_mask": False}, "input 'attention_mask' is not expected"),
        ({"hidden_states": True}, "output hidden_states is missing"),
        ({"cache_branch": True}, "input use_cache_branch is missing"),
        ({"cache_branch": True}, "it must have one node that branches (If), found 0"),
    ],
)
def test_the_graph_is_of_the_kind_that_the_manifest_names(
    gpt2: Portable, changes: dict[str, Any], message: str
) -> None:
    """FAULTS 16"""
    assert message in gpt2.refusal(portable=changes)


@pytest.mark.parametrize(
    ("domain", "version", "message"),
    [
        ("com.microsoft.nchwc", 1, None),
        ("ai.onnx.ml", 5, None),
        ("com.microsoft", 2, "opset 2 of domain 'com.microsoft' is not known"),
        ("ai.onnx.contrib", 1, "opset 1 of domain 'ai.onnx.contrib' is not known"),
    ],
)
def test_domains_that_onnxruntime_imports_by_habit_may_be_imported(
    gpt2: Portable, domain: str, version: int, message: str | None
) -> None:
    """FAULTS 15: an operator of theirs is refused all the same."""
    gpt2.model.opset_import.append(helper.make_opsetid(domain, version))
    if message is None:
        gpt2.open()
    else:
        assert message in gpt2.refusal()


@pytest.mark.parametrize("version", [10, 31, 99])
def test_another_opset_is_refused(gpt2: Portable, version: int) -> None:
    """FAULTS 15"""
    gpt2.model.opset_import[0].version = version
    assert f"opset {version} of domain 'ai.onnx' is not known" in gpt2.refusal()


def test_every_operator_of_optimums_families_is_in_the_list(make_portable: MakeBundle) -> None:
    cases: list[tuple[str, dict[str, bool]]] = [
        *(
            (name, {})
            for name in ("gpt2", "gpt_neo", "opt", "llama", "qwen2", "qwen3", "mistral", "gemma", "phi")
        ),
        *((name, {"int8": True}) for name in ("gpt2", "gpt_neo", "opt", "llama")),
        ("opt", {"position_ids": False}),
        ("gpt2", {"stacked": True}),
    ]
    found = {
        (node.domain, node.op_type)
        for family, options in cases
        for node in onnx.load(next(make_portable(family, **options).glob("*.onnx"))).graph.node
    }
    assert len(found) >= 45
    assert {name for domain, name in found} <= PORTABLE_OPERATORS[""]
    assert {domain for domain, name in found} == {""}


@pytest.mark.parametrize("level", ["O1", "O2"])
def test_a_graph_that_onnxruntime_has_optimised_runs_too(
    make_portable: MakeBundle, tmp_path: Path, level: str
) -> None:
    plain = make_portable("llama")
    export_with_optimum(plain.with_name("checkpoint"), tmp_path / "optimised", optimize=level)
    shutil.copytree(plain, tmp_path / "plain")
    for name in ("optimised", "plain"):
        ortgpt.adopt(tmp_path / name, force=True)
    assert generate(tmp_path / "optimised") == generate(tmp_path / "plain")


def store_outside(portable: Portable, *, name: str = "model.onnx_data") -> None:
    onnx.save_model(
        portable.model,
        portable.path,
        save_as_external_data=True,
        location=name,
        size_threshold=64,
        convert_attribute=True,
    )
    portable.model = onnx.load(portable.path, load_external_data=False)


def test_weights_beside_the_graph_are_found_and_checked(gpt2: Portable) -> None:
    """FAULTS 13"""
    expected = generate(gpt2.directory)
    store_outside(gpt2)
    ortgpt.adopt(gpt2.directory, force=True)
    manifest = read_manifest((gpt2.directory / "manifest.json").read_bytes())
    assert manifest.data_names == ("model.onnx_data",)
    assert generate(gpt2.directory) == expected
    assert any(tensor.external for tensor in open_bundle(gpt2.directory).read_graph().initializers)
    data = gpt2.directory / "model.onnx_data"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(BundleIntegrityError, match=r"model\.onnx_data has"):
        open_bundle(gpt2.directory)
    rewrite_manifest(gpt2.directory)
    with pytest.raises(BundleError, match=r"of model\.onnx_data, which has"):
        open_bundle(gpt2.directory)


def generate(directory: Path) -> tuple[int, ...]:
    with ortgpt.load(directory, threads=1) as model:
        return model.generate("king", max_new_tokens=8, min_new_tokens=8).choices[0].token_ids


def test_a_graph_too_large_to_hold_is_mapped_and_loaded_by_its_path(
    gpt2: Portable, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = generate(gpt2.directory)
    held = open_bundle(gpt2.directory)
    assert isinstance(held.graph, bytes)
    monkeypatch.setattr(bundle_module, "MAX_HELD_BYTES", gpt2.path.stat().st_size - 1)
    bundle = open_bundle(gpt2.directory)
    assert bundle.graph == gpt2.path
    assert generate(gpt2.directory) == expected
    arrays, others = map_initializers(bundle), map_initializers(held)
    assert arrays.keys() == others.keys()
    assert all(np.array_equal(arrays[name], others[name]) for name in arrays)


def test_a_mapped_graph_that_is_exchanged_is_noticed(
    gpt2: Portable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """FAULTS 11"""
    monkeypatch.setattr(bundle_module, "MAX_HELD_BYTES", gpt2.path.stat().st_size - 1)
    bundle = open_bundle(gpt2.directory)
    bundle.check_weights_unchanged()
    shutil.copy(gpt2.path, tmp_path / "other")
    (tmp_path / "other").replace(gpt2.path)
    with pytest.raises(BundleIntegrityError, match=r"model\.onnx changed while the model was loaded"):
        bundle.check_weights_unchanged()
    with pytest.raises(BundleIntegrityError, match="changed since the bundle was opened"):
        bundle.read_graph()


def test_a_mapped_graph_with_another_digest_is_refused(
    gpt2: Portable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 8"""
    monkeypatch.setattr(bundle_module, "MAX_HELD_BYTES", gpt2.path.stat().st_size - 1)
    table = max(gpt2.model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = numpy_helper.to_array(table).copy()
    values.flat[0] += 1
    table.raw_data = values.tobytes()
    gpt2.path.write_bytes(gpt2.model.SerializeToString())
    with pytest.raises(BundleIntegrityError, match=r"model\.onnx has SHA-256"):
        open_bundle(gpt2.directory)


@pytest.mark.parametrize(("family", "options"), [("gpt_neo", {}), ("llama", {"int8": True})])
def test_random_edits_are_a_typed_error_or_a_graph_that_runs(
    make_adopted: Callable[..., Portable], tmp_path: Path, family: str, options: dict[str, bool]
) -> None:
    """FAULTS 15: in a process of its own, which must not crash."""
    portable = make_adopted(family, **options)
    program = Path(__file__).with_name("spoil_graph.py")
    shutil.copy(portable.path, tmp_path / "whole.onnx")
    shown = subprocess.run(
        [sys.executable, program, portable.directory, tmp_path / "whole.onnx", "0", "150"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr[-2000:]
    outcomes = ast.literal_eval(shown.stdout.splitlines()[-1])
    assert sum(outcomes.values()) == 150
    assert set(outcomes) >= {"ran", "BundleError"}

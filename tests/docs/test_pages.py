"""The pages agree with the code: names, defaults, orders, floors, links and paths."""

from __future__ import annotations

import dataclasses
import inspect
import re
import tomllib
from pathlib import Path

import pytest

import ortgpt
from ortgpt import errors, graph_contract, interfaces, manifest
from ortgpt.cli.main import EXIT_CODES
from ortgpt.logits.pipeline import make_processors, make_warpers
from ortgpt_export.config import ACTIVATIONS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [*ROOT.glob("*.md"), *DOCS.glob("*.md"), ROOT / "models" / "storyteller" / "README.md"]
# A path in backticks is meant from one of these.
SOURCE_ROOTS = (
    ROOT,
    ROOT / "runtime" / "ortgpt",
    ROOT / "runtime",
    ROOT / "export",
    ROOT / "export/ortgpt_export",
)

by_name = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def read(name: str) -> str:
    return (ROOT / name).read_text()


def anchors(page: Path) -> set[str]:
    """The anchors that a Markdown viewer makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def rows(text: str) -> dict[str, list[str]]:
    """Table rows by the name in backticks that they begin with; the cells behind it."""
    found = re.findall(r"^\| `([^`]+)` \| (.*) \|$", text, re.MULTILINE)
    return {name: [cell.strip() for cell in cells.split(" | ")] for name, cells in found}


@by_name
def test_relative_links_lead_to_files_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith(("https://", "http://")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@by_name
def test_code_files_that_are_named_exist(page: Path) -> None:
    for name in re.findall(r"`([\w./-]+\.(?:py|toml))`", page.read_text()):
        assert any((root / name).exists() for root in (*SOURCE_ROOTS, page.parent)), name


@by_name
def test_make_targets_that_are_named_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))
    assert {"demo", "test"} <= targets
    named = set(re.findall(r"(?:`|^|\s)make ([a-z]+)(?=`| +#| [A-Z]+=)", page.read_text()))
    assert named <= targets


def test_the_makefile_targets_are_all_told() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", read("Makefile"), re.MULTILINE)[1].split()
    for target in phony:
        assert f"`make {target}`" in read("CONTRIBUTING.md")


@pytest.mark.parametrize("owner", [ortgpt.Options, ortgpt.Sampling, ortgpt.BeamSearch])
def test_every_field_has_a_row_with_its_default(owner) -> None:
    table = rows(read("docs/decoding.md"))
    for entry in dataclasses.fields(owner):
        default = entry.default_factory() if entry.default is dataclasses.MISSING else entry.default
        assert table[entry.name][0] == str(default), entry.name


@pytest.mark.parametrize("factory", [make_processors, make_warpers])
def test_the_order_is_that_of_the_pipeline(factory) -> None:
    order = re.findall(r"^\d+\. ([^,:;\n]+)", inspect.getdoc(factory), re.MULTILINE)
    page = read("docs/decoding.md").partition("## The order")[2].partition("\n## ")[0]
    shown = re.findall(r"^\d+\. \*\*([^*]+)\*\*", page, re.MULTILINE)
    begin = shown.index(order[0])
    assert shown[begin : begin + len(order)] == order


def test_the_readmes_table_names_every_strategy_and_option() -> None:
    table = "\n".join(line for line in read("README.md").split("\n") if line.startswith("|"))
    for name in ortgpt._HOMES["ortgpt.strategies"]:
        assert f"ortgpt.{name}(" in table
        for entry in dataclasses.fields(getattr(ortgpt, name)):
            assert f"{entry.name}=" in table
    for entry in dataclasses.fields(ortgpt.Options):
        assert f"{entry.name}=" in table or f"`{entry.name}`" in table or entry.name == "echo"


def test_the_readme_lists_every_extra_and_what_it_brings() -> None:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    table = rows(read("README.md"))
    for extra in ("cpu", "export"):
        for requirement in project["optional-dependencies"][extra]:
            assert re.match(r"[\w-]+", requirement)[0] in table[extra][0]
    assert set(project["optional-dependencies"]) <= set(table)
    assert all(re.match(r"[\w-]+", package)[0] in read("README.md") for package in project["dependencies"])


def test_the_readme_names_the_activation_functions() -> None:
    text = read("README.md")
    assert all(
        any(name in text for name in ACTIVATIONS if ACTIVATIONS[name] == kind)
        for kind in ACTIVATIONS.values()
    )


def test_the_readme_is_short() -> None:
    assert read("README.md").count("\n") < 220


def test_the_floors_are_those_of_import_linter() -> None:
    contracts = tomllib.loads(read("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    assert "\n".join(["```text", *layers, "```"]) in read("docs/architecture.md")


def test_the_architecture_names_every_port_of_the_graph() -> None:
    shape = manifest.Architecture(
        model_type="gpt2",
        layers=1,
        heads=1,
        head_size=8,
        cache_head_size=8,
        width=8,
        context=8,
        vocab_size=8,
        tokenizer_size=8,
        bos_token_id=None,
        eos_token_ids=(),
    )
    section = read("docs/architecture.md").partition("## The graph")[2].partition("\n## ")[0]
    fused, _, portable = section.partition("\n**portable**")
    ports = graph_contract.fused_inputs(shape, ragged_widths=True) + graph_contract.fused_outputs(shape)
    assert named_in(fused) == {port.name.replace(".0.", ".{i}.") for port in ports}
    ports = []
    for cache in manifest.CACHE_LAYOUTS:
        graph = manifest.PortableGraph(
            file="model.onnx",
            data_files=(),
            cache=cache,
            ids_type="int64",
            attention_mask=True,
            position_ids=True,
            cache_branch=True,
            hidden_states=True,
        )
        ports += graph_contract.portable_inputs(shape, graph) + graph_contract.portable_outputs(shape, graph)
    assert named_in(portable) == {re.sub(r"_0$", "_{i}", port.name.replace(".0.", ".{i}.")) for port in ports}


def named_in(tables: str) -> set[str]:
    """The names in the first column."""
    rows = re.findall(r"^\| (`.*?) \|", tables, re.MULTILINE)
    return set(re.findall(r"`(.*?)`", " ".join(rows)))


@pytest.mark.parametrize(
    "owner",
    [
        manifest.Manifest,
        manifest.Architecture,
        manifest.FileEntry,
        manifest.Provenance,
        manifest.Probe,
        manifest.Parity,
        manifest.Quality,
        manifest.Perplexity,
        manifest.PortableGraph,
    ],
)
def test_the_architecture_names_every_field_of_the_manifest(owner) -> None:
    table = read("docs/architecture.md").partition("| manifest field |")[2].partition("\n\n")[0]
    for entry in dataclasses.fields(owner):
        assert f"`{entry.name}`" in table


def test_the_architecture_names_every_verb_and_capability_of_a_decoder() -> None:
    text = read("docs/architecture.md")
    members = {name for name in vars(interfaces.Decoder) if not name.startswith("_")}
    assert {"extend", "trim", "num_rows"} <= members
    assert all(f"`{name}`" in text for name in members)
    assert all(entry.name in text for entry in dataclasses.fields(interfaces.Capabilities))


def test_the_faults_page_has_every_error_with_its_exit_code() -> None:
    page = read("docs/faults.md")
    table = dict(re.findall(r"^\| (\w+Error)\b.* \| (\d) \|$", page, re.MULTILINE))
    family = {name: kind for name, kind in vars(errors).items() if name.endswith("Error")}
    assert set(table) == set(family)
    for name, kind in family.items():
        code = next((code for base, code in EXIT_CODES if issubclass(kind, base)), 1)
        assert table[name] == str(code), name


def test_the_commands_of_the_faults_page_end_with_the_code_it_says(clone_with_bundle, run) -> None:
    page = read("docs/faults.md")
    commands = re.findall(r"^\| `(ortgpt .*)` \| (\d+) \|$", page, re.MULTILINE)
    assert len(commands) >= 10
    for command, code in commands:
        line = command.replace("\\|", "|")
        shown = run("bash", "-c", f"set -o pipefail; {line}", cwd=clone_with_bundle)
        assert (line, shown.returncode) == (line, int(code))
        assert "Traceback" not in shown.stderr
    assert not (clone_with_bundle / "out").exists()


def test_the_changelog_has_the_version() -> None:
    text = read("CHANGELOG.md")
    assert "## [Unreleased]" in text
    assert ortgpt.__version__ in text

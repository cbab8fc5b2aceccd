"""--fast-prefill and --no-fast-prefill on the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ortgpt import loading
from ortgpt.errors import OrtgptError


@pytest.fixture
def bundle(make_bundle: Callable[..., Path]) -> Path:
    return make_bundle(precision="int8", fast_prefill=True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", "abc", "-m"),
        ("generate", "abc", "--draft", "elsewhere", "-m"),
        ("score", "abc", "-m"),
        ("bench",),
    ],
)
@pytest.mark.parametrize("flag", [(), ("--no-fast-prefill",)])
def test_the_flag_reaches_every_load(
    invoke: Any, monkeypatch: pytest.MonkeyPatch, bundle: Path, arguments: tuple[str, ...], flag: tuple[str]
) -> None:
    seen: list[bool] = []
    really_load = loading.load

    def load(path: Path, **options: Any) -> Any:
        seen.append(options["fast_prefill"])
        if len(seen) == 1 + ("--draft" in arguments):
            raise OrtgptError("seen enough")
        return really_load(path, **options)

    monkeypatch.setattr(loading, "load", load)
    shown = invoke(*arguments, bundle, *flag)
    assert "seen enough" in shown.err
    assert seen == [not flag] * (1 + ("--draft" in arguments))


def test_both_ways_write_a_text(invoke: Any, bundle: Path) -> None:
    for flag in ((), ("--no-fast-prefill",)):
        shown = invoke("generate", "abcdefghijkl", "-m", bundle, "--max-new-tokens", "5", *flag)
        assert shown.code == 0


def test_inspect_names_it_and_verifies_both_graphs(invoke: Any, bundle: Path) -> None:
    shown = invoke("inspect", bundle, "--verify")
    assert shown.code == 0
    assert "int8, fast prefill\n" in shown.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "fp32"], "error: --fast-prefill goes with int8 and int4, not with fp32"),
        (["--precision", "int8", "--row-invariant"], "error: --fast-prefill does not go with "),
    ],
)
def test_an_export_that_can_not_have_it_is_a_usage_error(
    invoke: Any, tmp_path: Path, arguments: list[str], message: str
) -> None:
    shown = invoke("export", "nowhere", "-o", tmp_path / "bundle", "--fast-prefill", *arguments)
    assert shown.code == 2
    assert message in shown.err

"""`ortgpt bench`."""

from __future__ import annotations

import dataclasses
import json
from signal import SIGINT, SIGTERM

import pytest

from ortgpt.benchmark.plan import GROWTH_CONTEXTS, GROWTH_ROWS, Plan
from ortgpt.benchmark.results import Bandwidth, Figure, HostShare, Memory, Report, Resident, RowsSpeed
from ortgpt.cli import bench

SMALL = ("--rounds", "1", "--prompt-tokens", "5", "--new-tokens", "3", "--prefill-tokens", "9", "--rows", "2")


def keys(owner: type) -> set[str]:
    return {entry.name for entry in dataclasses.fields(owner)}


@pytest.fixture
def planned(invoke, storyteller_bundle, monkeypatch):
    """planned(*flags) -> the plan that they make, without measuring."""

    taken: list[tuple[object, ...]] = []
    monkeypatch.setattr(bench, "_measure", lambda *arguments: taken.append(arguments) or 1 / 0)

    def plan(*flags: str) -> tuple[object, ...]:
        invoke("bench", storyteller_bundle, *flags)
        return taken.pop()

    return plan


def test_json_holds_the_whole_report(invoke, storyteller_bundle) -> None:
    shown = invoke("bench", storyteller_bundle, *SMALL, "--json", "--quiet")
    assert (shown.code, shown.err) == (0, "")
    document = json.loads(shown.out)
    assert shown.out.count("\n") == 1
    assert document["model"] == str(storyteller_bundle)
    assert set(document) == {"model"} | keys(Report)
    assert set(document["plan"]) == keys(Plan)
    for name, owner in (("host_share", HostShare), ("bandwidth", Bandwidth), ("memory", Memory)):
        assert set(document[name]) == keys(owner)
    assert set(document["memory"]["peak"]) == keys(Resident)
    assert [set(speed) for speed in document["decode"]] == [keys(RowsSpeed)] * 2
    assert set(document["ttft_s"]) == keys(Figure)
    assert [speed["rows"] for speed in document["decode"]] == [1, 2]
    assert (document["threads"], document["provider"]) == (1, "cpu")


def test_the_table_goes_to_stdout_and_the_progress_to_stderr(run, storyteller_bundle) -> None:
    shown = run("bench", storyteller_bundle, *SMALL, "--rounds", "2")
    assert shown.code == 0
    assert shown.err.split("\n") == ["loading", "memory", "warming up", "round 1/2", "round 2/2", ""]
    first, second, *rest = shown.out.split("\n")
    assert first == str(storyteller_bundle)
    assert second == "fp32, cpu, 1 thread; median [lowest .. highest] of 2 rounds"
    assert any(line.startswith("first token, prompt of 9 ") for line in rest)
    assert any(line.startswith("decode, 2 rows ") for line in rest)
    assert max(map(len, rest)) <= 80


def test_without_options_the_plan_is_the_default_one(planned) -> None:
    *_, plan, quiet = planned()
    assert (plan, quiet) == (Plan(), False)
    assert planned("--quiet")[-1] is True


@pytest.mark.parametrize(
    ("flags", "changed"),
    [
        (("--rows", "8"), {"rows": (8,)}),
        (("--rows", "1", "--rows", "8"), {"rows": (1, 8)}),
        (("--rows", "1,8", "--rows", "3"), {"rows": (1, 8, 3)}),
        (("--prompt-tokens", "7"), {"prompt_tokens": 7}),
        (("--new-tokens", "9"), {"new_tokens": 9}),
        (("--prefill-tokens", "100"), {"prefill_tokens": 100}),
        (("--rounds", "3"), {"rounds": 3}),
        (("--growth",), {"rows": Plan.rows + GROWTH_ROWS, "contexts": GROWTH_CONTEXTS}),
        (("--growth", "--rows", "3"), {"rows": (3, *GROWTH_ROWS), "contexts": GROWTH_CONTEXTS}),
    ],
)
def test_every_option_changes_the_plan(flags, changed, planned) -> None:
    assert planned(*flags)[-2] == dataclasses.replace(Plan(), **changed)


def test_threads_are_the_models(invoke, storyteller_bundle) -> None:
    shown = invoke("bench", storyteller_bundle, *SMALL, "--json", "--threads", "2")
    assert json.loads(shown.out)["threads"] == 2


def test_growth_is_measured_as_far_as_the_context_goes(invoke, make_bundle) -> None:
    shown = invoke("bench", make_bundle(), *SMALL, "--growth", "--json")
    document = json.loads(shown.out)
    assert [speed["context"] for speed in document["contexts"]] == [64]
    assert [speed["rows"] for speed in document["decode"]] == list(GROWTH_ROWS)
    assert document["notes"] == [
        f"contexts {tokens} cut to 64: the model's context has 64 tokens" for tokens in (256, 512, 1000)
    ]


def test_what_the_context_cuts_is_told_below_the_table(invoke, make_bundle) -> None:
    shown = invoke("bench", make_bundle(), *SMALL[:-2], "--rows", "1", "--prefill-tokens", "512")
    assert "\n\nprefill_tokens 512 cut to 64: the model's context has 64 tokens\n" in shown.out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--rows", "0"), "--rows[0] must be between 1 and 128, got 0"),
        (("--rows", "1", "--rows", "200"), "--rows[1] must be between 1 and 128, got 200"),
        (("--rows", "1,x"), "--rows must be numbers like 1,8, got '1,x'"),
        (("--rows", ""), "--rows must be numbers like 1,8, got ''"),
        (("--new-tokens", "1"), "--new-tokens must be at least 2, got 1"),
        (("--prompt-tokens", "0"), "--prompt-tokens must be at least 1, got 0"),
        (("--prefill-tokens", "0"), "--prefill-tokens must be at least 1, got 0"),
        (("--rounds", "0"), "--rounds must be between 1 and 10000, got 0"),
        (("--threads", "0"), "--threads must be between 1 and 1024, got 0"),
    ],
)
def test_what_can_not_be_measured_is_2_and_named_by_its_flag(
    flags, message, invoke, storyteller_bundle
) -> None:
    shown = invoke("bench", storyteller_bundle, *flags, "--quiet")
    assert (shown.code, shown.out, shown.err) == (2, "", f"error: {message}\n")


def test_options_are_checked_before_anything_is_loaded(invoke, tmp_path) -> None:
    assert invoke("bench", tmp_path / "none", "--rounds", "0").code == 2


def test_what_is_no_bundle_is_3(invoke, tmp_path, storyteller) -> None:
    """FAULTS 1"""
    shown = invoke("bench", tmp_path / "none", "--quiet")
    assert (shown.code, shown.out, shown.err) == (
        3,
        "",
        f"error: there is no bundle at '{tmp_path / 'none'}'\n",
    )
    shown = invoke("bench", storyteller, "--quiet")
    assert shown.code == 3
    assert f"hint: a checkpoint is turned into a bundle by: ortgpt export {storyteller} -o OUT" in shown.err


def test_a_provider_that_is_not_there_is_4(invoke, storyteller_bundle) -> None:
    """FAULTS 24"""
    shown = invoke("bench", storyteller_bundle, "--provider", "cuda", "--quiet")
    assert (shown.code, shown.out) == (4, "")
    assert shown.err.startswith("error: provider cuda is not available")


def test_weights_that_are_not_numbers_are_1(invoke, nan_bundle) -> None:
    shown = invoke("bench", nan_bundle, *SMALL[:-2], "--prefill-tokens", "80", "--quiet", "--json")
    assert (shown.code, shown.out) == (1, "")
    assert shown.err.startswith("error: the model produced non-finite logits at step ")


@pytest.mark.parametrize(("signals", "code"), [([SIGINT], 130), ([SIGINT, SIGINT], 130), ([SIGTERM], 143)])
def test_a_signal_ends_the_measuring_without_a_word(signals, code, start, storyteller_bundle) -> None:
    """FAULTS 67"""
    paced = start("slow steps", "bench", storyteller_bundle, "--quiet", "--json")
    paced.wait_until_there(4)
    shown = paced.end(*signals)
    assert (shown.code, shown.out, shown.err) == (code, "", "")

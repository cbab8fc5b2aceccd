"""models/storyteller/train.py, run as its users run it: as a program, on a folder of small texts."""

from __future__ import annotations

import importlib.util
import json
import math
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer

SCRIPT = Path(__file__).parents[2] / "models" / "storyteller" / "train.py"
FILES = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
SIZES = "--context=32 --vocab-size=300 --layers=1 --heads=2 --width=32"
SCHEDULE = "--steps=40 --warmup=4 --batch-size=4 --learning-rate=1e-2 --held-out=0.2"
TINY = [*SIZES.split(), *SCHEDULE.split(), "--no-compile", "--threads=1"]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten documents of 30 sentences, in a folder and a folder within it."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "more").mkdir()
    draw = random.Random(1)
    for number in range(10):
        sentences = [
            f"The {draw.choice(['fox', 'bear', 'hen'])} saw the {draw.choice(['moon', 'river'])}"
            " and said \u201cgood night\u201d."
            for _ in range(30)
        ]
        place = folder / "more" if number % 2 else folder
        (place / f"{number}.txt").write_text("\n\n".join(sentences), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def trained(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """(checkpoint folder, stdout, stderr) of one good run."""
    out = tmp_path_factory.mktemp("models") / "new" / "tiny"
    result = run(texts, "-o", out, *TINY)
    assert result.returncode == 0, result.stderr
    return out, result.stdout, result.stderr


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("storyteller_train", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_a_run_leaves_the_four_files_and_nothing_beside_them(trained: tuple[Path, str, str]) -> None:
    out, _, _ = trained
    assert {path.name for path in out.iterdir()} == FILES
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    assert len({path.stat().st_mode for path in out.iterdir()}) == 1


def test_training_takes_the_loss_far_below_that_of_guessing(trained: tuple[Path, str, str]) -> None:
    out, stdout, stderr = trained
    guessing = math.log(json.loads((out / "config.json").read_text())["vocab_size"])
    losses = [float(loss) for loss in re.findall(r"^step .*loss (\S+)", stderr, re.MULTILINE)]
    assert losses[0] == pytest.approx(guessing, abs=0.2)
    assert losses[-1] < guessing / 2

    report = re.fullmatch(r"held-out loss (\S+) nats per token, perplexity (\S+)\n", stdout)
    assert report is not None, stdout
    held_out, perplexity = map(float, report.groups())
    assert held_out < guessing / 2
    assert perplexity == pytest.approx(math.exp(held_out), rel=0.01)


def test_the_tokenizer_returns_any_text_as_it_was(trained: tuple[Path, str, str]) -> None:
    tokenizer = Tokenizer.from_file(str(trained[0] / "tokenizer.json"))
    for text in ("The fox saw the moon.", "  two\n\nlines\t", "na\u00efve \U0001f98a \u201cquoted\u201d"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_end_of_text_is_token_0_and_special(trained: tuple[Path, str, str]) -> None:
    tokenizer = Tokenizer.from_file(str(trained[0] / "tokenizer.json"))
    assert tokenizer.encode("<|endoftext|>").ids == [0]
    assert tokenizer.decode([0]) == ""
    for name in ("config.json", "generation_config.json"):
        config = json.loads((trained[0] / name).read_text())
        assert (config["bos_token_id"], config["eos_token_id"]) == (0, 0)


def test_the_checkpoint_loads_in_transformers_with_a_tied_head(trained: tuple[Path, str, str]) -> None:
    from transformers import GPT2LMHeadModel

    model, report = GPT2LMHeadModel.from_pretrained(trained[0], output_loading_info=True)
    assert report["missing_keys"] == report["unexpected_keys"] == report["mismatched_keys"] == []
    assert model.lm_head.weight is model.transformer.wte.weight
    tokenizer = Tokenizer.from_file(str(trained[0] / "tokenizer.json"))
    assert model.config.vocab_size == tokenizer.get_vocab_size()
    assert model.config.activation_function == "gelu_new"
    assert (model.config.resid_pdrop, model.config.embd_pdrop, model.config.attn_pdrop) == (0, 0, 0)


def test_the_same_seed_gives_the_same_files(trained: tuple[Path, str, str], texts: Path) -> None:
    again = trained[0].parents[1] / "again"
    assert run(texts, "-o", again, *TINY).returncode == 0
    for name in FILES:
        assert (again / name).read_bytes() == (trained[0] / name).read_bytes(), name


def test_another_seed_gives_other_weights_over_the_same_tokens(
    trained: tuple[Path, str, str], texts: Path
) -> None:
    other = trained[0].parents[1] / "other"
    assert run(texts, "-o", other, *TINY, "--seed", "1").returncode == 0
    assert (other / "tokenizer.json").read_bytes() == (trained[0] / "tokenizer.json").read_bytes()
    name = "transformer.wte.weight"
    ours, theirs = (load_file(folder / "model.safetensors")[name] for folder in (trained[0], other))
    assert (ours != theirs).any()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("--width 30 --heads 4", "--width 30: must be divisible by --heads 4"),
        ("--steps 0", "--steps 0: must be at least 1"),
        ("--steps many", "--steps: invalid int value: 'many'"),
        ("--batch-size -1", "--batch-size -1: must be at least 1"),
        ("--vocab-size 256", "--vocab-size 256: must be at least 257"),
        ("--warmup 40", "--warmup 40: must be less than --steps 40"),
        ("--min-lr-ratio 1.5", "--min-lr-ratio 1.5: must be from 0 to 1"),
        ("--learning-rate nan", "--learning-rate nan: must be at least 0"),
        ("--held-out 1", "--held-out 1.0: must be from 0 to 0.9"),
        ("--context 100000", "too little text"),
        ("--frobnicate", "--frobnicate"),
    ],
)
def test_a_bad_option_is_one_line_and_exit_code_2(
    texts: Path, tmp_path: Path, options: str, named: str
) -> None:
    result = run(texts, "-o", tmp_path / "out", *TINY, *options.split())
    assert_refused(result, named)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({}, "no *.txt files"),
        ({"a.md": b"text"}, "no *.txt files"),
        ({"a.txt": b" \n\n<|endoftext|>\n"}, "hold no text"),
        ({"a.txt": b"one document"}, "--held-out 0"),
        ({"a.txt": b"twice the same", "b.txt": b"twice  the same\n"}, "--held-out 0"),
        ({"a.txt": b"one<|endoftext|>two"}, "too little text"),
        ({"a.txt": b"caf\xe9"}, "a.txt: not UTF-8 text (byte 3)"),
    ],
)
def test_unusable_texts_are_one_line_and_exit_code_2(
    tmp_path: Path, files: dict[str, bytes], named: str
) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    assert_refused(run(folder, "-o", tmp_path / "out", *TINY), named)
    assert list(tmp_path.iterdir()) == [folder]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert_refused(run(tmp_path / "nowhere", "-o", tmp_path / "out", *TINY), "nowhere: no such folder")


def test_a_folder_with_files_is_refused_and_left_alone(texts: Path, tmp_path: Path) -> None:
    (tmp_path / "keep").write_text("mine")
    assert_refused(run(texts, "-o", tmp_path, *TINY), "exists and is not an empty folder")
    assert [path.name for path in tmp_path.iterdir()] == ["keep"]


def test_a_loss_that_diverges_saves_nothing(texts: Path, tmp_path: Path) -> None:
    result = run(texts, "-o", tmp_path / "out", *TINY, "--learning-rate", "1e30", "--warmup", "0")
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].endswith("lower --learning-rate")
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def assert_refused(result: subprocess.CompletedProcess[str], named: str) -> None:
    """Exit code 2, nothing on stdout, one error line; only a run that got under way logs before it."""
    *progress, last = result.stderr.splitlines()
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert last.startswith("error: ")
    assert named in last
    assert all("documents" in line or "tokens to train on" in line for line in progress), progress


def test_cleaning_folds_punctuation_and_unwraps_prose_but_not_verse(script: ModuleType) -> None:
    wrapped = (
        "It was a long evening by the fire, and nobody\u00a0in the old house\n"
        "said\u2014or  thought\u2014a word\u2026"
    )
    verse = "  Twinkle, twinkle,\r\n  \u2018little\u2019 star"
    assert script.clean(f"{wrapped}\n \n\n{verse}\n") == (
        "It was a long evening by the fire, and nobody in the old house said--or thought--a word...\n\n"
        "Twinkle, twinkle,\n'little' star"
    )


def test_the_rate_warms_up_to_the_peak_and_ends_at_its_floor(script: ModuleType) -> None:
    recipe = script.Recipe(steps=110, warmup=10, learning_rate=1.0, min_lr_ratio=0.05)
    rates = [script.learning_rate(step, recipe) for step in range(110)]
    assert rates[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert rates[9] == rates[10] == max(rates) == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.05)


def test_held_out_documents_do_not_depend_on_their_order(script: ModuleType) -> None:
    documents = [f"document {number}" for number in range(20)]
    training, held_out = script.split_documents(documents, 0.1)
    assert len(held_out) == 2
    assert [text for text in documents if text not in held_out] == training
    assert set(script.split_documents(documents[::-1], 0.1)[1]) == set(held_out)

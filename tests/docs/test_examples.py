"""The programs in examples/ run and write what the library gives for the same calls."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

import ortgpt

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

Example = Callable[..., str]


@pytest.fixture
def example(run, storyteller_bundle, tmp_path) -> Example:
    """example(name, *arguments) -> what it wrote to stdout; nothing may be on stderr."""

    def start(name: str, *arguments: str) -> str:
        shown = run("python", "-W", "error", EXAMPLES / name, storyteller_bundle, *arguments, cwd=tmp_path)
        assert (shown.returncode, shown.stderr) == (0, "")
        return shown.stdout

    return start


def story(model: ortgpt.Model, prompt: str) -> str:
    """What the threads and the tasks of the examples write, alone."""
    return prompt + model.generate(prompt, ortgpt.Sampling(top_p=0.9), max_new_tokens=30, seed=7).text


def test_every_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {
        "asyncio_stream.py",
        "compare.py",
        "embed.py",
        "threads.py",
        "transcript.py",
    }


def test_embed_generates_streams_batches_and_scores(example, storyteller_model) -> None:
    text = example("embed.py")
    strategy = ortgpt.Sampling(temperature=0.8, top_p=0.95)
    generated = storyteller_model.generate("Once upon a time", strategy, max_new_tokens=40, seed=7)
    assert text.startswith(f"{generated.text} [{generated.finish_reason}]\n")
    *_, streamed, fox, boat, score = text.strip().split("\n")
    sentence = storyteller_model.generate("The old king", strategy, max_new_tokens=40, stop=["."], seed=7)
    assert streamed == sentence.text
    assert fox.startswith("The fox ")
    assert boat.startswith("A small boat ")
    assert min(len(fox), len(boat)) > 40
    assert score == f"perplexity {storyteller_model.score(' was glad.', prompt='The king').perplexity:.1f}"


def test_threads_write_what_each_would_write_alone(example, storyteller_model) -> None:
    prompts = runpy.run_path(str(EXAMPLES / "threads.py"))["PROMPTS"]
    assert len(prompts) == 4
    assert example("threads.py") == "".join(story(storyteller_model, prompt) + "\n\n" for prompt in prompts)


def test_asyncio_tasks_write_what_each_would_write_alone(example, storyteller_model) -> None:
    prompts = ("The old king", "A little mouse")
    expected = "".join(story(storyteller_model, prompt) + "\n\n" for prompt in prompts)
    assert example("asyncio_stream.py") == expected


def test_a_story_keeps_the_most_probable_sentences(example, storyteller_model) -> None:
    text, other = example("transcript.py").removesuffix("\n").split("\n---\n")
    sampling = ortgpt.Sampling(temperature=0.9, top_p=0.95)
    ids = storyteller_model.tokenizer.encode("Once upon a time")
    for number in range(4):
        tries = [
            storyteller_model.generate(ids, sampling, max_new_tokens=40, stop=".", seed=5 * number + i)
            for i in range(5)
        ]
        best = max(tries, key=lambda result: result.choices[0].score)
        ids += storyteller_model.tokenizer.encode(best.text + ".")
    assert text == storyteller_model.tokenizer.decode(ids)
    ids += storyteller_model.tokenizer.encode(" But the king")
    assert other == storyteller_model.generate(ids, max_new_tokens=20, echo=True).text


def test_compare_shows_a_text_for_every_recipe(example, storyteller_model) -> None:
    recipes = runpy.run_path(str(EXAMPLES / "compare.py"))["RECIPES"]
    headed = re.split(r"^--- (.+)  \(\d+ tokens/s\)\n", example("compare.py", "The fox"), flags=re.MULTILINE)
    texts = dict(zip(headed[1::2], headed[2::2], strict=True))
    assert list(texts) == list(recipes)
    assert all(text.startswith("The fox") for text in texts.values())
    free = [name for name, (_, options) in recipes.items() if "constraints" not in options]
    assert all(len(texts[name]) > 60 for name in free)
    greedy = storyteller_model.generate("The fox", max_new_tokens=80).text
    assert texts["greedy"] == f"The fox{greedy}\n\n"
    assert len(set(texts.values())) > len(recipes) // 2  # the recipes differ in what they do


def test_compare_has_every_strategy() -> None:
    recipes = runpy.run_path(str(EXAMPLES / "compare.py"))["RECIPES"]
    assert {type(strategy).__name__ for strategy, _ in recipes.values()} == set(
        ortgpt._HOMES["ortgpt.strategies"]
    )

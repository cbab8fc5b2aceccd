"""Keywords and forbidden words through the engine: a thousand runs, every strategy, streams and batches."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

import ortgpt

WORDS = [
    *(
        "dragon",
        "golden key",
        "key",
        "king",
        "the old man",
        "old",
        "Old",
        "a b",
        "b",
        "dragons",
        "fish and chips",
    ),
    *("naïve", "æther", "die Straße", "日本", "é", "C++", "x", "aaaa", "n't", "it's"),
]
FORBIDDEN = ["cat", "e f", "the", "and", "qu", "Tz", "l", "老", "é"]
PROMPTS = ["a", "The king", "x ", "\n", "Once upon a time", "it is é", "golden", "a\u0301", "The (", "dra"]
STRATEGIES: list[ortgpt.strategies.Strategy] = [
    ortgpt.Greedy(),
    ortgpt.Sampling(),
    ortgpt.Sampling(temperature=1.5, min_p=0.02),
    ortgpt.BeamSearch(num_beams=3),
    ortgpt.BeamSearch(num_beams=4, num_return_sequences=3, early_stopping=False),
    ortgpt.BeamSearch(num_beams=4, num_beam_groups=2, diversity_penalty=1.0),
    ortgpt.BeamSearch(num_beams=2, sample=True),
    ortgpt.ContrastiveSearch(top_k=3),
]


def is_there(word: str, text: str, before: str) -> bool:
    """Whether the output holds it as a whole word, judged with the prompt's last character before it."""
    pattern = rf"(?<!\w)(?={re.escape(word)}(?!\w))"
    return any(match.start() >= len(before) for match in re.finditer(pattern, before + text, re.I))


def is_forbidden_there(constraint: ortgpt.Forbidden, text: str, before: str) -> bool:
    words = [re.escape(word) for word in constraint.words]
    pattern = rf"(?<!\w)({'|'.join(words)})(?!\w)" if constraint.whole_words else f"({'|'.join(words)})"
    return any(m.end(1) > len(before) for m in re.finditer(f"(?={pattern})", before + text, re.I))


def make_case(rng: random.Random) -> tuple[list[str], dict[str, Any]]:
    """Random words, and options that get in their way."""
    words = rng.sample(WORDS, rng.randint(1, 4))
    options: dict[str, Any] = {"seed": rng.randrange(1000), "max_new_tokens": rng.choice([3, 8, 20, 40])}
    for name, choices in (
        ("stop", [["e", "\n"], [" k", "n"], ["key", "."], ["ol", "d"]]),
        ("no_repeat_ngram_size", [1, 2, 3]),
        ("repetition_penalty", [1.3]),
        ("stop_token_ids", [rng.sample(range(250), 3), []]),
        ("min_new_tokens", [5]),
        ("forced_eos_token_id", [0]),
        ("bad_words", [["went", "said"], [[32, 100]]]),
    ):
        if rng.random() < 0.2:
            options[name] = rng.choice(choices)
    if rng.random() < 0.15:
        options["guidance_scale"] = 1.5
    if rng.random() < 0.15:
        options["token_healing"] = True
    if "stop_token_ids" not in options and rng.random() < 0.1:
        options["forced_bos_token_id"] = rng.choice([40, 97])  # "(" or "a", in both models near it
    options["constraints"] = [ortgpt.Keywords(words, boost=rng.choice([0.0, 5.0]))]
    free = [word for word in FORBIDDEN if not any(word.lower() in other.lower() for other in words)]
    if free and "forced_bos_token_id" not in options and rng.random() < 0.3:
        words_out = rng.sample(free, min(2, len(free)))
        options["constraints"].append(ortgpt.Forbidden(words_out, whole_words=rng.random() < 0.5))
    return words, options


def check(result: ortgpt.Result, words: list[str], constraints: list[Any], before: str) -> None:
    assert result.choices
    for choice in result.choices:
        missing = [word for word in words if not is_there(word, choice.text, before)]
        assert not missing, (missing, choice.text)
        for constraint in constraints[1:]:
            assert not is_forbidden_there(constraint, choice.text, before), choice.text


def run(
    model: ortgpt.Model, prompt: str, strategy: ortgpt.strategies.Strategy, options: dict[str, Any]
) -> tuple[ortgpt.Result, str] | None:
    """The result and its streamed text, with the budget that the error asks for where it is too small.

    None where a word can't be written: with ids that end the text, or in what is left of the context.
    """
    for _ in range(2):
        try:
            stream = model.stream(prompt, strategy, **options)
        except ortgpt.OptionError as error:
            needed = re.search(r"need (\d+) tokens", str(error))
            if needed is None or options["max_new_tokens"] >= int(needed[1]):
                return None
            options["max_new_tokens"] = int(needed[1])
        else:
            text = "".join(event.text for event in stream if event.index == 0)
            return stream.result, text
    return None


@pytest.mark.parametrize("part", range(8))
def test_all_words_are_there_every_time(
    tiny_model: ortgpt.Model, storyteller_model: ortgpt.Model, part: int
) -> None:
    rng = random.Random(part)
    num_run = 0
    while num_run < 125:
        model = tiny_model if rng.random() < 0.6 else storyteller_model
        prompt, strategy = rng.choice(PROMPTS), rng.choice(STRATEGIES)
        words, options = make_case(rng)
        done = run(model, prompt, strategy, options)
        if done is None:
            continue
        result, streamed = done
        check(result, words, options["constraints"], prompt[-1])
        assert streamed == result.text
        num_run += 1


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: repr(strategy)[:60])
def test_all_words_are_there_in_batches_as_alone(
    storyteller_model: ortgpt.Model, strategy: ortgpt.strategies.Strategy
) -> None:
    prompts = ["The king", "Once upon a time", "x "]
    constraints = [ortgpt.Keywords(["dragon", "golden key"]), ortgpt.Forbidden(["said", "castle"])]
    for budget in (12, 40):
        batch = storyteller_model.generate_batch(
            prompts, strategy, max_new_tokens=budget, seed=4, constraints=constraints, stop=["."]
        )
        for index, (prompt, result) in enumerate(zip(prompts, batch, strict=True)):
            check(result, ["dragon", "golden key"], constraints, prompt[-1])
            alone = storyteller_model.generate(
                prompt, strategy, max_new_tokens=budget, seed=4 + index, constraints=constraints, stop=["."]
            )
            assert alone.choices == result.choices


@pytest.mark.parametrize("part", range(8))
def test_forbidden_words_are_never_there(
    tiny_model: ortgpt.Model, storyteller_model: ortgpt.Model, part: int
) -> None:
    """A thousand runs. The words are those that the models write most."""
    rng = random.Random(part)
    letters = ["e", "th", "ee", "\x00", "ab", "É"]
    common = ["the", "and", "he", "was", "e", ", and", "said the", "\n", "was a little", "t"]
    for _ in range(125):
        model, words = (tiny_model, letters) if rng.random() < 0.6 else (storyteller_model, common)
        words = rng.sample([word for word in words if word.strip()], 2)
        constraint = ortgpt.Forbidden(words, whole_words=rng.random() < 0.5)
        prompt = rng.choice(PROMPTS)
        stream = model.stream(
            prompt,
            rng.choice(STRATEGIES),
            max_new_tokens=24,
            seed=rng.randrange(1000),
            constraints=[constraint],
            stop=rng.choice([[], ["w", "a"]]),
        )
        streamed = "".join(event.text for event in stream if event.index == 0)
        assert streamed == stream.result.text
        for choice in stream.result.choices:
            assert not is_forbidden_there(constraint, choice.text, prompt), (constraint, choice.text)


def test_a_text_with_keywords_still_ends_by_its_stop(storyteller_model: ortgpt.Model) -> None:
    result = storyteller_model.generate(
        "The king", max_new_tokens=60, stop=["."], constraints=[ortgpt.Keywords(["dragon"])]
    )
    assert (result.finish_reason, result.choices[0].stop_reason) == ("stop", ".")
    assert is_there("dragon", result.text, "g")


def test_time_up_may_break_the_promise_and_says_so(
    storyteller_model: ortgpt.Model, caplog: pytest.LogCaptureFixture
) -> None:
    result = storyteller_model.generate(
        "The king", max_time=0.0, constraints=[ortgpt.Keywords(["dragon"], boost=0)]
    )
    assert result.choices[0].stop_reason == "max_time"
    assert "max_time has ended a text before it held to its constraints" in caplog.text


def test_beams_without_the_words_come_last(storyteller_model: ortgpt.Model) -> None:
    strategy = ortgpt.BeamSearch(num_beams=6, num_return_sequences=6)
    asked: Any = {"max_time": 0.0, "max_new_tokens": 9}
    free = [choice.text for choice in storyteller_model.generate("The old", strategy, **asked).choices]
    last = free[-1].strip()  # the least probable of six
    result = storyteller_model.generate("The old", strategy, constraints=[ortgpt.Keywords([last])], **asked)
    assert [choice.text for choice in result.choices] == [free[-1], *free[:-1]]


def test_nothing_runs_where_the_budget_can_not_hold_the_words(storyteller_model: ortgpt.Model) -> None:
    with pytest.raises(ortgpt.OptionError, match=r"keywords need \d tokens, 0 can be generated"):
        storyteller_model.stream("The", max_new_tokens=0, constraints=[ortgpt.Keywords(["dragon"])])
    with pytest.raises(
        ortgpt.OptionError, match=r"keywords\[0\] 'the Dragon' holds 'dragon', which is among bad_words"
    ):
        storyteller_model.stream("x", bad_words=["dragon"], constraints=[ortgpt.Keywords(["the Dragon"])])
    ids = [
        [token_id] for token_id in range(1, 4096) if "r" in storyteller_model.tokenizer.token_text(token_id)
    ]
    with pytest.raises(ortgpt.OptionError, match="can't be written without"):
        storyteller_model.stream("The", bad_words=ids, constraints=[ortgpt.Keywords(["dragon"])])

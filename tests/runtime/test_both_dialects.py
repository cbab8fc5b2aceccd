"""What the engine does on a fused graph it does on a portable one: the same cases over two of storyteller."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from portable_bundles import load_portable

import ortgpt
from ortgpt.inference.portable_decoder import PortableDecoder
from ortgpt.inference.session import Session
from ortgpt.strategies import Strategy

MakeBundle = Callable[..., Path]

PROMPTS = [
    "Once upon a time",
    'The king said to his daughter, "',
    "The fox ran, the fox ran, the fox",
    "In the dark wood there lived an old wom",
]
SAMPLING = ortgpt.Sampling(temperature=0.9, top_p=0.95)
STRATEGIES: dict[str, Strategy] = {
    "greedy": ortgpt.Greedy(),
    "sampling": SAMPLING,
    "beams": ortgpt.BeamSearch(num_beams=4, num_return_sequences=2),
    "drawn beams": ortgpt.BeamSearch(num_beams=3, sample=True, temperature=0.9, top_p=0.95),
    "diverse beams": ortgpt.BeamSearch(
        num_beams=4, num_beam_groups=2, diversity_penalty=0.7, num_return_sequences=4
    ),
    "contrastive": ortgpt.ContrastiveSearch(),
}
CARD = {
    "type": "object",
    "properties": {"kind": {"enum": ["fox", "king"]}, "name": {"type": "string", "maxLength": 12}},
    "required": ["kind", "name"],
    "additionalProperties": False,
}
VERSE = 'start: " the " animal ("," " and the " animal){1,3} "."\nanimal: "fox" | "crow" | "bear"\n'
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "stops": {"stop": [" said", '."'], "min_new_tokens": 3},
    "keywords": {"constraints": ortgpt.Keywords(words=["golden", "bird"])},
    "forbidden": {"constraints": ortgpt.Forbidden(words=["the", "was", "he"])},
    "choice": {"constraints": ortgpt.Choice([" went home.", " was a king.", " said nothing at all."])},
    "regex": {"constraints": ortgpt.Regex(r" [a-z]{2,8} (the|an) [a-z]+( [a-z]+){1,3}\.")},
    "schema": {"constraints": ortgpt.JSONSchema(CARD), "max_new_tokens": 32},
    "grammar": {"constraints": ortgpt.Grammar(VERSE), "max_new_tokens": 24},
    "healing": {"token_healing": True, "echo": True},
    "n-grams": {"no_repeat_ngram_size": 2, "min_new_tokens": 12, "stop_token_ids": [0, 12, 14]},
    "logprobs": {"logprobs": 3},
    "guidance": {"guidance_scale": 1.5, "negative_prompt": "A wolf ran into the dark wood, and"},
}
WITH: dict[str, list[str]] = {
    "plain": [*STRATEGIES],
    "stops": ["greedy", "sampling", "beams", "contrastive"],
    "keywords": ["greedy", "sampling", "beams", "diverse beams", "contrastive"],
    "forbidden": ["greedy", "drawn beams", "contrastive"],
    "choice": ["sampling", "beams"],
    "regex": ["beams", "contrastive"],
    "schema": ["sampling", "diverse beams"],
    "grammar": ["greedy", "drawn beams"],
    "healing": ["sampling", "beams", "contrastive"],
    "n-grams": ["greedy", "beams", "diverse beams"],
    "logprobs": ["sampling", "drawn beams", "contrastive"],
    "guidance": ["greedy", "sampling", "beams", "contrastive"],
}
SEVERAL: dict[str, dict[str, Any]] = {
    "n": {"n": 3, "logprobs": 2},
    "best of": {"n": 2, "best_of": 4},
    "best of a form": {"best_of": 3, "constraints": ortgpt.Grammar(VERSE)},
    "guessed": {"n": 3, "prompt_lookup": True, "max_new_tokens": 40},
    "best of guessed": {"n": 2, "best_of": 3, "prompt_lookup": True, "max_new_tokens": 40},
}


@pytest.fixture(scope="module")
def fused(storyteller_model: ortgpt.Model) -> ortgpt.Model:
    return storyteller_model


@pytest.fixture(scope="module")
def portable(storyteller_via_optimum: Path) -> Iterator[ortgpt.Model]:
    with ortgpt.load(storyteller_via_optimum, threads=1) as model:
        assert isinstance(model.decoder(), PortableDecoder)
        yield model


@pytest.fixture(params=["fused", "portable"])
def model(request: pytest.FixtureRequest) -> ortgpt.Model:
    found: ortgpt.Model = request.getfixturevalue(request.param)
    return found


def assert_same(own: ortgpt.Result, other: ortgpt.Result) -> None:
    assert own.prompt_token_ids == other.prompt_token_ids
    for found, expected in zip(own.choices, other.choices, strict=True):
        assert found.token_ids == expected.token_ids
        assert found.text == expected.text
        assert (found.finish_reason, found.stop_reason) == (expected.finish_reason, expected.stop_reason)
        np.testing.assert_allclose(numbers(found), numbers(expected), atol=2e-4)


def numbers(choice: ortgpt.ResultChoice) -> list[float | None]:
    tokens = choice.logprobs or ()
    return [choice.score, *(entry.logprob for token in tokens for entry in (token, *token.top))]


@pytest.mark.parametrize(("option", "strategy"), [(key, name) for key in WITH for name in WITH[key]])
def test_a_strategy_writes_the_same_streamed_in_a_batch_and_on_the_other_graph(
    option: str, strategy: str, fused: ortgpt.Model, portable: ortgpt.Model
) -> None:
    asked = {"max_new_tokens": 12, **OPTIONS[option]}
    chosen = STRATEGIES[strategy]
    batch = portable.generate_batch(PROMPTS[1:], chosen, seed=5, max_rows=8, **asked)
    for index, (prompt, result) in enumerate(zip(PROMPTS[1:], batch, strict=True)):
        own = {"seed": 5 + index, **asked}
        expected = fused.generate(prompt, chosen, **own)
        stream = portable.stream(prompt, chosen, **own)
        assert "".join(event.text for event in stream if event.index == 0) == stream.result.text != ""
        for found in (result, stream.result):
            assert_same(found, expected)


@pytest.mark.parametrize("options", SEVERAL.values(), ids=SEVERAL.keys())
def test_several_sequences_of_a_prompt_guessed_or_not_are_those_of_the_other_graph_unguessed(
    options: dict[str, Any], fused: ortgpt.Model, portable: ortgpt.Model
) -> None:
    asked = {"max_new_tokens": 16, **options}
    batch = portable.generate_batch(PROMPTS[:3], SAMPLING, seed=5, max_rows=7, **asked)
    for index, (prompt, result) in enumerate(zip(PROMPTS[:3], batch, strict=True)):
        expected = fused.generate(prompt, SAMPLING, seed=5 + index, **{**asked, "prompt_lookup": False})
        assert_same(result, expected)
        assert_same(portable.generate(prompt, SAMPLING, seed=5 + index, **asked), expected)


def test_guessed_tokens_change_nothing(portable: ortgpt.Model, fused: ortgpt.Model) -> None:
    asked: dict[str, Any] = {"max_new_tokens": 40, "stop_token_ids": []}
    plain = [fused.generate(prompt, **asked).token_ids for prompt in PROMPTS]
    for guesses in ({"prompt_lookup": True}, {"draft": fused}, {"draft": portable, "num_draft_tokens": 3}):
        alone = [portable.generate(prompt, **asked, **guesses).token_ids for prompt in PROMPTS]
        batch = portable.generate_batch(PROMPTS, **asked, **guesses)
        assert alone == [result.token_ids for result in batch] == plain
    assert fused.generate(PROMPTS[0], **asked, draft=portable).token_ids == plain[0]


def test_a_transcript_goes_on_from_its_cache_as_from_all_its_text(model: ortgpt.Model) -> None:
    with model.transcript(PROMPTS[0]) as transcript:
        transcript.generate(max_new_tokens=12)
        transcript.append(" The fox said,")
        result = transcript.generate(max_new_tokens=12)
    assert result.token_ids == model.generate(list(result.prompt_token_ids), max_new_tokens=12).token_ids


def test_scores_are_the_same_alone_and_together(portable: ortgpt.Model, fused: ortgpt.Model) -> None:
    texts = [" was glad.", " went into the wood and sat down by the well.", " ran"]
    scores = portable.score_batch(texts, prompts="The king")
    for text, score in zip(texts, scores, strict=True):
        for other in (portable.score(text, prompt="The king"), fused.score(text, prompt="The king")):
            assert score.token_ids == other.token_ids
            np.testing.assert_allclose(
                np.array(score.logprobs, float), np.array(other.logprobs, float), atol=1e-4
            )


def test_a_text_longer_than_the_context_is_scored_in_windows(
    portable: ortgpt.Model, fused: ortgpt.Model
) -> None:
    ids = np.random.default_rng(0).integers(1, 4096, 700).tolist()
    own, other = (model.score(ids, stride=200).logprobs for model in (portable, fused))
    assert own[0] is other[0] is None
    np.testing.assert_allclose(np.array(own[1:], float), np.array(other[1:], float), atol=2e-4)


def test_a_stream_that_is_closed_frees_its_cache(portable: ortgpt.Model, monkeypatch: Any) -> None:
    held: list[PortableDecoder] = []
    extend = PortableDecoder.extend

    def noted(decoder: PortableDecoder, *arguments: Any, **options: Any) -> Any:
        held.append(decoder)
        return extend(decoder, *arguments, **options)

    monkeypatch.setattr(PortableDecoder, "extend", noted)
    stream = portable.stream(PROMPTS[0], max_new_tokens=50)
    for _, _ in zip(range(3), stream, strict=False):
        pass
    assert held[-1].nbytes > 0
    stream.close()
    assert stream.result.finish_reason == "cancelled"
    assert {(decoder.nbytes, decoder.num_rows) for decoder in held} == {(0, 0)}


def test_a_run_without_memory_is_an_error_and_the_next_one_is_sound(
    portable: ortgpt.Model, monkeypatch: Any
) -> None:
    expected = portable.generate(PROMPTS[0], max_new_tokens=8).token_ids
    run, calls = Session.run, []

    def failing(session: Session, binding: Any) -> None:
        calls.append(session)
        if len(calls) == 4:
            raise ortgpt.ProviderError("not enough memory to run the model")
        run(session, binding)

    with monkeypatch.context() as patched:
        patched.setattr(Session, "run", failing)
        with pytest.raises(ortgpt.ProviderError, match="not enough memory"):
            portable.generate(PROMPTS[0], max_new_tokens=8)
    assert portable.generate(PROMPTS[0], max_new_tokens=8).token_ids == expected


def test_a_cache_that_has_no_room_is_refused_before_it_is_allocated(
    portable: ortgpt.Model, monkeypatch: Any
) -> None:
    monkeypatch.setattr("ortgpt.inference.memory.available_bytes", lambda: 1_000_000)
    with pytest.raises(ortgpt.ProviderError, match="the cache of 1 rows"):
        portable.generate(PROMPTS[0])


def test_loading_asks_for_the_memory_that_the_optimiser_takes(
    storyteller_via_optimum: Path, portable: ortgpt.Model, monkeypatch: Any
) -> None:
    weights = sum(entry.size for entry in portable.manifest.files.values())
    room = int(2.1 * weights) + 50_000_000
    monkeypatch.setattr("ortgpt.inference.memory.available_bytes", lambda: room)
    with pytest.raises(ortgpt.ProviderError, match="of weights needs"):
        ortgpt.load(storyteller_via_optimum)


def test_contrastive_search_on_a_graph_without_hidden_states_is_refused_before_it_runs(
    make_portable: MakeBundle, monkeypatch: Any
) -> None:
    with load_portable(make_portable("gpt2", position_ids=False)) as model:
        monkeypatch.setattr(Session, "run", lambda *_: pytest.fail("it ran"))
        for ask in (model.generate, model.stream, lambda *args: model.generate_batch([args[0]], args[1])):
            with pytest.raises(ortgpt.OptionError, match=r"hidden states, which model\.onnx does not give"):
                ask("ab", ortgpt.ContrastiveSearch())


@pytest.mark.parametrize(("family", "options"), [("gpt2", ""), ("llama", " --via optimum")])
def test_the_hint_for_missing_hidden_states_names_the_export_that_gives_them(
    family: str, options: str, make_portable: MakeBundle
) -> None:
    with (
        load_portable(make_portable(family)) as model,
        pytest.raises(ortgpt.OptionError, match="hidden states") as caught,
    ):
        model.generate("ab", ortgpt.ContrastiveSearch())
    assert caught.value.hint == f"they are given by the graphs of: ortgpt export CHECKPOINT -o OUT{options}"

"""Constraints on form through the engine: every strategy, streams, batches, keywords inside them."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import numpy as np
import pytest
from grammar_samples import SCHEMAS

import ortgpt

STRATEGIES = {
    "greedy": ortgpt.Greedy(),
    "sampled": ortgpt.Sampling(temperature=0.9, top_p=0.95),
    "hot": ortgpt.Sampling(temperature=1.5),
    "beams": ortgpt.BeamSearch(num_beams=3),
    "diverse": ortgpt.BeamSearch(num_beams=4, num_beam_groups=2, diversity_penalty=1.0),
    "sampled beams": ortgpt.BeamSearch(num_beams=2, sample=True),
    "contrastive": ortgpt.ContrastiveSearch(top_k=4),
}
CARD = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 30},
        "kind": {"enum": ["fox", "king"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "kind", "age"],
    "additionalProperties": False,
}
SENTENCE = r" The [a-z]+ (was|is) [a-z]+\."
VERSE = 'start: " the " animal ("," " and the " animal){1,3} "."\nanimal: "fox" | "crow" | "bear"\n'
FORMS: dict[str, tuple[Any, Any]] = {
    "schema": (ortgpt.JSONSchema(CARD), lambda text: jsonschema.validate(json.loads(text), CARD) is None),
    "regex": (ortgpt.Regex(SENTENCE), lambda text: re.fullmatch(SENTENCE, text)),
    "grammar": (
        ortgpt.Grammar(VERSE),
        lambda text: re.fullmatch(r" the (fox|crow|bear)(, and the (fox|crow|bear)){1,3}\.", text),
    ),
    "choice": (
        ortgpt.Choice([" yes", " yes, please", " no"]),
        lambda text: text in (" yes", " yes, please", " no"),
    ),
}


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:50])
def test_ten_texts_of_every_schema_validate(storyteller_model: ortgpt.Model, schema: Any) -> None:
    """More than 300 in all. Those that the length cuts say so and are not counted."""
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    ended = 0
    for strategy in STRATEGIES.values():
        results = storyteller_model.generate_batch(
            ['The king wrote: "', "It was", "She had a box of", "The end."],
            strategy,
            max_new_tokens=60,
            seed=1,
            constraints=[ortgpt.JSONSchema(schema)],
            # Strings, numbers and lists have no end of their own: what closes them gets likelier.
            logit_bias=end_biases(storyteller_model),
            exponential_decay_length_penalty=(4, 1.3),
        )
        for result in results:
            assert result.finish_reason in ("stop", "length")
            if result.finish_reason == "stop":
                validator.validate(json.loads(result.text))
                ended += 1
    assert ended >= 10


def end_biases(model: ortgpt.Model) -> dict[int, float]:
    biases = {b'"': 6.0, b"}": 9.0, b"]": 9.0, b'"}': 9.0, b'"]': 9.0}
    token_bytes = {
        token_id: model.tokenizer.token_bytes(token_id) for token_id in range(model.tokenizer.size)
    }
    digits = {token_id: -4.0 for token_id, data in token_bytes.items() if data.isdigit()}
    return digits | {token_id: biases[data] for token_id, data in token_bytes.items() if data in biases}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_keeps_the_form_streamed_and_in_batches(
    storyteller_model: ortgpt.Model, name: str, form: str
) -> None:
    constraint, is_right = FORMS[form]
    prompts = ["The fox", "Once upon a time there was"]
    options: Any = {"max_new_tokens": 80, "constraints": [constraint]}
    batch = storyteller_model.generate_batch(prompts, STRATEGIES[name], seed=5, **options)
    for index, (prompt, result) in enumerate(zip(prompts, batch, strict=True)):
        stream = storyteller_model.stream(prompt, STRATEGIES[name], seed=5 + index, **options)
        assert "".join(event.text for event in stream) == result.text
        assert stream.result.choices == result.choices
        assert result.finish_reason == "stop"
        assert is_right(result.text), result.text


def test_a_text_ends_where_nothing_may_follow_without_a_stop_id(storyteller_model: ortgpt.Model) -> None:
    """FAULTS 41"""
    for stop_token_ids in (None, []):
        result = storyteller_model.generate(
            "The fox", constraints=[ortgpt.Choice([" ran", " slept"])], stop_token_ids=stop_token_ids
        )
        assert (result.finish_reason, result.choices[0].stop_reason) == ("stop", None)
        assert result.text in (" ran", " slept")
        assert not set(result.token_ids) & storyteller_model.tokenizer.special_ids


def test_where_more_may_follow_a_stop_id_decides(storyteller_model: ortgpt.Model) -> None:
    result = storyteller_model.generate(
        "The fox",
        constraints=[ortgpt.Regex("( [a-z]+)+")],
        exponential_decay_length_penalty=(5, 1.5),
        max_new_tokens=60,
    )
    assert (result.finish_reason, result.choices[0].stop_reason) == ("stop", 0)
    assert re.fullmatch("( [a-z]+)+", result.text)


def test_a_stop_string_counts_only_where_what_it_leaves_matches(storyteller_model: ortgpt.Model) -> None:
    result = storyteller_model.generate(
        "The fox", constraints=[ortgpt.JSONSchema(CARD)], stop=["a", "e", '"', '"}', "}"], max_new_tokens=80
    )
    jsonschema.validate(json.loads(result.text), CARD)
    cut = storyteller_model.generate(
        "The fox", constraints=[ortgpt.Regex("( [a-z]+)+,? said")], stop=["said", ", "], max_new_tokens=60
    )
    assert re.fullmatch("( [a-z]+)+,? said", cut.text) or cut.finish_reason == "length"
    free = storyteller_model.generate("The fox", constraints=[ortgpt.Regex("(?s:.*)")], stop=[" said"])
    assert free.choices[0].stop_reason == " said"


def test_two_forms_that_share_no_text_are_a_dead_end_and_no_nonsense(storyteller_model: ortgpt.Model) -> None:
    """FAULTS 41"""
    constraints = [ortgpt.Regex("[ab]{2}c"), ortgpt.Regex("[ab]{2}d")]
    for strategy in STRATEGIES.values():
        with pytest.raises(ortgpt.ConstraintError, match="no token is left at step"):
            storyteller_model.generate("x", strategy, constraints=constraints)


def test_a_row_that_has_no_token_left_does_not_touch_the_others(storyteller_model: ortgpt.Model) -> None:
    def refuse_after_dragon(token_ids: Any, scores: Any) -> Any:
        return scores - np.float32(np.inf) if token_ids[0] == first else scores

    first, *_ = storyteller_model.tokenizer.encode("Dragon")
    with pytest.raises(ortgpt.ConstraintError) as caught:
        storyteller_model.generate_batch(
            ["The fox", "Dragon"], constraints=[ortgpt.Choice([" ran"])], processors=[refuse_after_dragon]
        )
    assert caught.value.results is not None
    done, failed = caught.value.results
    assert failed is None
    assert done is not None
    assert done.text == " ran"


@pytest.mark.parametrize("name", STRATEGIES)
def test_keywords_come_inside_a_form(storyteller_model: ortgpt.Model, name: str) -> None:
    words = ortgpt.Keywords(["dragon", "golden key"])
    forms = {
        "pattern": ortgpt.Regex("( [A-Za-z]+){4,30}"),
        "short": ortgpt.Regex("[A-Za-z ]{20,40}"),
        "object": ortgpt.JSONSchema(
            {
                "type": "object",
                "properties": {
                    "age": {"type": "integer", "minimum": 0, "maximum": 99},
                    "text": {"type": "string", "maxLength": 60},
                },
                "required": ["age", "text"],
                "additionalProperties": False,
            }
        ),
    }
    for form, constraint in forms.items():
        for seed in range(3):
            result = storyteller_model.generate(
                "Once upon a time",
                STRATEGIES[name],
                max_new_tokens=80,
                seed=seed,
                constraints=[constraint, words, ortgpt.Forbidden(["the"])],
            )
            for word in words.words:
                assert re.search(rf"(?<!\w){word}(?!\w)", result.text, re.I), (form, result.text)
            assert "the" not in result.text.lower()


@pytest.mark.parametrize("name", STRATEGIES)
def test_keywords_come_within_a_tight_budget_under_a_form_that_admits_all(
    storyteller_model: ortgpt.Model, tiny_model: ortgpt.Model, name: str
) -> None:
    words = ["dragon", "golden key", "I", "b"]
    for case in range(12):
        model = (storyteller_model, tiny_model)[case % 2]
        chosen = words[case % 3 : case % 3 + 2]
        constraints = [ortgpt.Regex("(?s:.*)"), ortgpt.Keywords(chosen, boost=(0.0, 5.0)[case % 4 // 2])]
        options: Any = {"constraints": constraints, "seed": case}
        with pytest.raises(ortgpt.OptionError, match="need") as caught:
            model.generate("a", STRATEGIES[name], max_new_tokens=1, **options)
        needed = int(re.search(r"need (\d+) tokens", str(caught.value))[1])  # type: ignore[index]
        result = model.generate("a", STRATEGIES[name], max_new_tokens=needed + case % 5, **options)
        for word in chosen:
            assert re.search(rf"(?<!\w){word}(?!\w)", "a" + result.text, re.I), (chosen, result.text)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_form_that_has_no_place_for_a_keyword_is_a_constraint_error(
    storyteller_model: ortgpt.Model, name: str
) -> None:
    for form in (ortgpt.Choice([" ran", " slept"]), ortgpt.Regex("(a|b){1,7}"), ortgpt.Regex("(a|b)+")):
        with pytest.raises(ortgpt.ConstraintError):
            storyteller_model.generate(
                "The fox", STRATEGIES[name], constraints=[form, ortgpt.Keywords(["dragon"])], max_new_tokens=9
            )


def test_beams_that_the_length_cuts_open_come_behind_those_that_match(
    storyteller_model: ortgpt.Model,
) -> None:
    strategy = ortgpt.BeamSearch(num_beams=6, num_return_sequences=6, early_stopping=False)
    pattern = " (was|were a|is not)"
    result = storyteller_model.generate(
        "The fox", strategy, constraints=[ortgpt.Regex(pattern)], max_time=0.0, stop_token_ids=[]
    )
    is_match = [re.fullmatch(pattern, choice.text) is not None for choice in result.choices]
    assert is_match == sorted(is_match, reverse=True)
    assert {True, False} == set(is_match)

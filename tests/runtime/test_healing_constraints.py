"""Token healing among the other options: the healed token holds to them, and nothing is lost by it."""

from __future__ import annotations

import pytest

import ortgpt


@pytest.mark.parametrize(
    ("prompt", "options"),
    [
        ("She came to the cast", {"constraints": [ortgpt.Forbidden(["castle"])]}),
        ("The gold", {"constraints": [ortgpt.Forbidden(["golden"], whole_words=True)]}),
        ("The gold", {"bad_words": ["golden"]}),
        ("The gold", {"suppress_tokens": True}),
        ("The gold", {"logit_bias": True}),
        ("The gold", {"stop_token_ids": True}),
        ("The gold", {"sequence_bias": {" golden": -float("inf")}}),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_the_healed_token_is_none_that_another_option_keeps_out(
    storyteller_model: ortgpt.Model, prompt: str, options: dict[str, object]
) -> None:
    free = storyteller_model.generate(prompt, token_healing=True, max_new_tokens=4)
    healed_id = free.prompt_token_ids[-1]
    assert healed_id != storyteller_model.tokenizer.encode(prompt)[-1]
    fill = {"logit_bias": {healed_id: -float("inf")}}
    options = {
        name: fill.get(name, [healed_id]) if value is True else value for name, value in options.items()
    }
    for strategy in (ortgpt.Greedy(), ortgpt.BeamSearch(num_beams=3), ortgpt.ContrastiveSearch()):
        kept = storyteller_model.generate(prompt, strategy, token_healing=True, max_new_tokens=4, **options)
        assert kept.prompt_token_ids[-1] != healed_id
        assert "castle" not in prompt + kept.text
        assert "golden " not in prompt + kept.text + " "


def test_a_prompt_stays_where_behind_the_healed_one_keywords_have_no_room(
    storyteller_model: ortgpt.Model,
) -> None:
    words = [ortgpt.Keywords(["Œuvre"])]
    alone = storyteller_model.generate("The ", max_new_tokens=5, constraints=words)
    healed = storyteller_model.generate("The ", max_new_tokens=5, constraints=words, token_healing=True)
    assert healed.prompt_token_ids == alone.prompt_token_ids
    assert "œuvre" in healed.text.lower()
    batch = storyteller_model.generate_batch(
        ["The king", "The "], max_new_tokens=8, constraints=words, token_healing=True
    )
    assert all("œuvre" in result.text.lower() for result in batch)


@pytest.mark.parametrize("echo", [False, True])
def test_a_transcript_keeps_nothing_from_a_stop_string_on_in_healed_text(
    storyteller_model: ortgpt.Model, echo: bool
) -> None:
    with storyteller_model.transcript("She came to the cast") as transcript:
        result = transcript.generate(token_healing=True, max_new_tokens=5, stop=["e"], echo=echo)
        assert result.text == ("She came to the castl" if echo else "l")
        assert transcript.text == "She came to the castl"
        transcript.append("e")
        more = transcript.generate(max_new_tokens=3)
        assert transcript.text == "She came to the castle" + more.text

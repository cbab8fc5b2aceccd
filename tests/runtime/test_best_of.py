"""best_of: many are drawn, the n most probable come back."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from fake_engine import CONTEXT, VOCAB, run_fake

import ortgpt
from ortgpt.options import Options
from ortgpt.request_checks import rows_per_prompt
from ortgpt.testing import FakeDecoder

SAMPLED = ortgpt.Sampling(temperature=1.2)
PROMPT = "The fox"


def ranked(choices: tuple[ortgpt.ResultChoice, ...], n: int) -> list[ortgpt.ResultChoice]:
    """The best n of them, of equal ones the first, numbered anew."""
    best = sorted(enumerate(choices), key=lambda pair: (-(pair[1].score or 0), pair[0]))[:n]
    return [dataclasses.replace(choice, index=rank) for rank, (_, choice) in enumerate(best)]


@pytest.mark.parametrize("n", [1, 3, 7])
def test_the_best_of_the_sequences_that_n_would_give_are_returned(
    storyteller_model: ortgpt.Model, n: int
) -> None:
    options: dict[str, Any] = {"seed": 4, "max_new_tokens": 20, "stop": ["."], "logprobs": 1, "echo": True}
    drawn = storyteller_model.generate(PROMPT, SAMPLED, n=7, **options)
    result = storyteller_model.generate(PROMPT, SAMPLED, n=n, best_of=7, **options)
    assert list(result.choices) == ranked(drawn.choices, n)
    scores = [choice.score for choice in drawn.choices]
    assert scores != sorted(scores, reverse=True)  # otherwise nothing had to be done


def test_batch_rows_equal_solo_runs(storyteller_model: ortgpt.Model) -> None:
    prompts = [PROMPT, "Once upon a time there was", "A"]
    options: dict[str, Any] = {"n": 2, "best_of": 5, "max_new_tokens": 15}
    batch = storyteller_model.generate_batch(prompts, SAMPLED, seed=3, **options)
    for index, (prompt, result) in enumerate(zip(prompts, batch, strict=True)):
        alone = storyteller_model.generate(prompt, SAMPLED, seed=3 + index, **options)
        assert result.choices == alone.choices


def test_of_equally_good_sequences_the_first_come_first() -> None:
    """Flat logits: every token of every sequence has the same log-probability."""
    one, other = (
        FakeDecoder(VOCAB, CONTEXT, logits_of=lambda history: np.zeros(VOCAB, np.float32)) for _ in range(2)
    )
    options: dict[str, Any] = {"max_new_tokens": 5, "stop_token_ids": []}
    (drawn,), _ = run_fake([(1,)], SAMPLED, n=6, decoder=one, **options)
    (result,), _ = run_fake([(1,)], SAMPLED, n=4, best_of=6, decoder=other, **options)
    assert len({choice.score for choice in drawn.choices}) == 1
    assert result.choices == drawn.choices[:4]


def test_without_a_token_there_is_nothing_to_choose_by(storyteller_model: ortgpt.Model) -> None:
    result = storyteller_model.generate(PROMPT, SAMPLED, n=2, best_of=5, max_new_tokens=0)
    assert [(choice.index, choice.text, choice.score) for choice in result.choices] == [
        (0, "", None),
        (1, "", None),
    ]


def test_a_stream_refuses_it(storyteller_model: ortgpt.Model) -> None:
    """FAULTS 33"""
    for best_of in (1, 3):
        with pytest.raises(ortgpt.OptionError, match="streamed") as caught:
            storyteller_model.stream(PROMPT, SAMPLED, best_of=best_of)
        assert caught.value.option == "best_of"


@pytest.mark.parametrize(
    "strategy", [None, ortgpt.Greedy(), ortgpt.ContrastiveSearch(), ortgpt.Sampling(temperature=0)]
)
def test_it_has_no_effect_where_nothing_is_drawn(
    storyteller_model: ortgpt.Model, strategy: ortgpt.strategies.Strategy | None
) -> None:
    for call, prompt in ((storyteller_model.generate, PROMPT), (storyteller_model.generate_batch, [PROMPT])):
        with pytest.raises(ortgpt.OptionError, match="no effect") as caught:
            call(prompt, strategy, n=2, best_of=3)  # type: ignore[arg-type]
        assert caught.value.option == "best_of"
    result = storyteller_model.generate(PROMPT, strategy, n=2, best_of=2, max_new_tokens=3)
    assert [choice.index for choice in result.choices] == [0, 1]


def test_beam_search_ranks_by_itself(storyteller_model: ortgpt.Model) -> None:
    for beams in (ortgpt.BeamSearch(), ortgpt.BeamSearch(num_beams=1, sample=True)):
        with pytest.raises(ortgpt.OptionError, match="beam search") as caught:
            storyteller_model.generate(PROMPT, beams, best_of=3)
        assert caught.value.option == "best_of"
        assert "num_return_sequences" in (caught.value.hint or "")


def test_every_sequence_that_is_drawn_is_a_row() -> None:
    assert rows_per_prompt(SAMPLED, Options(n=2, best_of=9)) == 9
    assert rows_per_prompt(SAMPLED, Options(n=2, best_of=9, guidance_scale=2.0)) == 18

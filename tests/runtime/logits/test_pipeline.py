"""Which processors are built, and in which order they work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from ortgpt.errors import ConstraintError, OptionError
from ortgpt.interfaces import Floats, Ids
from ortgpt.logits.pipeline import Pipeline, make_processors, make_warpers
from ortgpt.options import Options
from ortgpt.strategies import Sampling

INF = np.inf
VOCAB = 8


def make(
    *,
    stops: Sequence[int] = (7,),
    words: Sequence[tuple[int, ...]] = (),
    tokenizer_size: int = VOCAB,
    **fields: Any,
) -> Pipeline:
    return make_processors(
        Options(**fields),
        prompt_length=2,
        stop_token_ids=stops,
        bad_word_ids=words,
        vocab_size=VOCAB,
        tokenizer_size=tokenizer_size,
    )


def names(pipeline: Pipeline) -> list[str]:
    return [type(processor).__name__ for processor in pipeline.processors]


def ids(*values: int) -> Ids:
    return np.array(values, np.int64)


def floats(*values: float) -> Floats:
    return np.array(values, np.float32)


def double(token_ids: Ids, logits: Floats) -> Floats:
    return 2 * logits


ONES = np.ones(VOCAB, np.float32)


def test_what_is_off_is_left_out_and_an_empty_pipeline_returns_its_input() -> None:
    assert make() == Pipeline()
    assert make_warpers(Sampling()) == Pipeline()
    assert make()(ids(0, 1), ONES) is ONES


def test_the_processors_come_in_the_documented_order() -> None:
    pipeline = make(
        tokenizer_size=VOCAB - 1,
        words=[(3,)],
        min_new_tokens=1,
        logit_bias={1: 1.0},
        repetition_penalty=2.0,
        presence_penalty=1.0,
        no_repeat_ngram_size=2,
        processors=[double, double],
    )
    assert names(pipeline) == [
        "VocabularySize",
        "LogitBias",
        "RepetitionPenalty",
        "PresenceFrequency",
        "NoRepeatNgram",
        "BadWords",
        "MinNewTokens",
        "Checked",
        "Checked",
        "TokenLeft",
    ]


def test_the_warpers_come_in_the_documented_order() -> None:
    strategy = Sampling(temperature=0.5, top_k=3, top_p=0.9, min_p=0.1, typical_p=0.9)
    assert names(make_warpers(strategy)) == ["Temperature", "TopK", "TopP", "MinP", "TypicalP"]


def test_bias_comes_before_the_repetition_penalty() -> None:
    scores = make(logit_bias={1: 2.0}, repetition_penalty=2.0)(ids(1, 1), ONES)
    assert scores[1] == 1.5  # (1 + 2) / 2, and not 1 / 2 + 2


def test_the_repetition_penalty_comes_before_presence_and_frequency() -> None:
    scores = make(repetition_penalty=2.0, presence_penalty=1.0)(ids(0, 0, 1), ONES)
    assert scores[1] == -0.5  # 1 / 2 - 1, and not (1 - 1) / 2


def test_the_callers_processors_come_last_and_in_their_order() -> None:
    def add_one(token_ids: Ids, logits: Floats) -> Floats:
        return logits + 1

    scores = make(presence_penalty=3.0, processors=[add_one, double])(ids(0, 0, 1), ONES)
    assert scores[1] == -2  # ((1 - 3) + 1) * 2


def test_temperature_comes_before_top_p() -> None:
    row = np.log(floats(0.4, 0.3, 0.2, 0.1))
    scores = make_warpers(Sampling(temperature=0.5, top_p=0.5))(ids(0), row)
    # Squared and normalised: 0.53, 0.30, ...: the first alone reaches 0.5, before it did not.
    assert np.flatnonzero(scores > -INF).tolist() == [0]


def test_top_k_comes_before_top_p() -> None:
    row = np.log(floats(0.4, 0.3, 0.2, 0.1))
    scores = make_warpers(Sampling(top_k=2, top_p=0.55))(ids(0), row)
    # Of two tokens 0.57 belongs to the first.
    assert np.flatnonzero(scores > -INF).tolist() == [0]


@pytest.mark.parametrize("name", ["top_k", "top_p", "min_p", "typical_p"])
def test_temperature_zero_is_greedy_and_needs_no_warper(name: str) -> None:
    """FAULTS 34"""
    assert make_warpers(Sampling(temperature=0, **{name: 1})) == Pipeline()  # type: ignore[arg-type]


def test_top_k_of_zero_is_off() -> None:
    assert make_warpers(Sampling(top_k=0)) == Pipeline()


def test_presence_and_frequency_count_the_output_alone() -> None:
    scores = make(presence_penalty=1.0, frequency_penalty=0.5)(ids(0, 1, 1, 2, 2), ONES)
    np.testing.assert_array_equal(scores[:4], floats(1, -0.5, -1, 1))


def test_repetition_penalty_and_ngrams_count_the_prompt_too() -> None:
    scores = make(repetition_penalty=2.0)(ids(0, 1), ONES)
    assert scores[:3].tolist() == [0.5, 0.5, 1]
    scores = make(no_repeat_ngram_size=2)(ids(4, 5, 4), ONES)
    assert scores[5] == -INF


def test_a_stop_id_is_no_bad_word_on_its_own() -> None:
    scores = make(stops=(7, 6), words=[(7,), (6,), (5,), (0, 7)])(ids(0, 1), ONES)
    assert np.flatnonzero(scores == -INF).tolist() == [5]
    assert make(words=[(7,)]) == Pipeline()


def test_no_stop_id_comes_before_min_new_tokens() -> None:
    pipeline = make(stops=(7, 6), min_new_tokens=2)
    assert np.flatnonzero(pipeline(ids(0, 1, 1), ONES) == -INF).tolist() == [6, 7]
    assert np.isfinite(pipeline(ids(0, 1, 1, 1), ONES)).all()
    assert make(stops=(), min_new_tokens=2) == Pipeline()


def test_ids_that_the_tokenizer_does_not_have_are_never_generated() -> None:
    scores = make(tokenizer_size=6, logit_bias={7: 1000.0})(ids(0, 1), ONES)
    assert np.flatnonzero(scores == -INF).tolist() == [6, 7]


def test_excluding_every_token_is_an_error_at_the_step() -> None:
    """FAULTS 36, 41"""
    pipeline = make(logit_bias=dict.fromkeys(range(VOCAB), -INF))
    with pytest.raises(ConstraintError, match="step 1"):
        pipeline(ids(0, 1, 2), ONES)


def test_a_callers_processor_is_named_by_its_place() -> None:
    def broken(token_ids: Ids, logits: Floats) -> Floats:
        return logits[:-1]

    with pytest.raises(OptionError) as caught:
        make(processors=[double, broken])(ids(0, 1), ONES)
    assert caught.value.option == "processors[1]"

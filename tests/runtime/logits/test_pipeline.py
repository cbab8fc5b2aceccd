"""Which processors are built, and in which order they work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from ortgpt.errors import ConstraintError, OptionError
from ortgpt.interfaces import Floats, Ids
from ortgpt.logits.filter_chain import FilterChain
from ortgpt.logits.pipeline import Pipeline, make_processors, make_warpers
from ortgpt.logits.processors import Dry
from ortgpt.logits.sampling_filters import DynamicTemperature, TopK, Xtc
from ortgpt.options import Options
from ortgpt.strategies import FILTER_ORDER, Sampling

INF = np.inf
VOCAB = 8
RNG = np.random.default_rng(0)
EVERY_FILTER: dict[str, Any] = {
    "temperature": 0.5,
    "top_n_sigma": 2.0,
    "top_k": 3,
    "top_p": 0.9,
    "min_p": 0.1,
    "typical_p": 0.9,
    "epsilon_cutoff": 0.01,
    "eta_cutoff": 0.01,
    "xtc_probability": 0.5,
}


def make(
    *,
    stops: Sequence[int] = (7,),
    words: Sequence[tuple[int, ...]] = (),
    biases: Mapping[tuple[int, ...], float] | None = None,
    breakers: Sequence[tuple[int, ...]] = (),
    tokenizer_size: int = VOCAB,
    max_tokens: int = 5,
    **fields: Any,
) -> Pipeline:
    return make_processors(
        Options(**fields),
        prompt_length=2,
        max_tokens=max_tokens,
        stop_token_ids=stops,
        bad_word_ids=words,
        sequence_biases=biases or {},
        breakers=breakers,
        vocab_size=VOCAB,
        tokenizer_size=tokenizer_size,
    )


def names(chain: Pipeline | FilterChain) -> list[str]:
    steps = chain.processors if isinstance(chain, Pipeline) else chain.filters
    return [type(step).__name__ for step in steps]


def ids(*values: int) -> Ids:
    return np.array(values, np.int64)


def floats(*values: float) -> Floats:
    return np.array(values, np.float32)


def double(token_ids: Ids, logits: Floats) -> Floats:
    return 2 * logits


ONES = np.ones(VOCAB, np.float32)


def test_what_is_off_is_left_out_and_an_empty_pipeline_returns_its_input() -> None:
    assert make() == Pipeline()
    assert make_warpers(Sampling(), RNG) == FilterChain()
    assert make()(ids(0, 1), ONES) is ONES


def test_a_pipeline_equals_its_processors_one_after_the_other() -> None:
    def keeps(token_ids: Ids, logits: Floats) -> Floats:
        return logits

    pipeline = make(
        tokenizer_size=VOCAB - 1,
        words=[(3,)],
        repetition_penalty=1.3,
        presence_penalty=0.5,
        frequency_penalty=0.25,
        no_repeat_ngram_size=2,
        min_new_tokens=3,
        processors=[double, keeps],
    )
    again = Pipeline((*pipeline.processors, *pipeline.processors))  # rules behind a processor of the caller
    rng = np.random.default_rng(0)
    for length in range(3, 9):
        history, row = rng.integers(0, VOCAB - 1, length), rng.normal(0, 2, VOCAB).astype(np.float32)
        row.flags.writeable = False
        for one in (pipeline, again):
            expected = row
            for processor in one.processors:
                expected = processor(history, expected)
            np.testing.assert_array_equal(one(history, row), expected)


def test_two_pipelines_of_the_same_rules_write_into_rows_of_their_own() -> None:
    one, other = (make(repetition_penalty=2.0) for _ in range(2))
    first = one(ids(0, 1), ONES)
    assert not np.shares_memory(first, other(ids(2, 3), ONES))
    assert not np.shares_memory(first, ONES)
    assert first[:3].tolist() == [0.5, 0.5, 1]


def test_the_processors_come_in_the_documented_order() -> None:
    pipeline = make(
        tokenizer_size=VOCAB - 1,
        words=[(3,)],
        biases={(1,): 1.0},
        min_new_tokens=1,
        logit_bias={1: 1.0},
        repetition_penalty=2.0,
        presence_penalty=1.0,
        dry_multiplier=1.0,
        no_repeat_ngram_size=2,
        exponential_decay_length_penalty=(1, 1.5),
        forced_bos_token_id=1,
        forced_eos_token_id=2,
        suppress_tokens=[3],
        begin_suppress_tokens=[4],
        processors=[double, double],
    )
    assert names(pipeline) == [
        "VocabularySize",
        "SequenceBias",
        "LogitBias",
        "RepetitionPenalty",
        "PresenceFrequency",
        "Dry",
        "NoRepeatNgram",
        "BadWords",
        "LengthDecay",
        "MinNewTokens",
        "Forced",
        "Forced",
        "Suppressed",
        "Suppressed",
        "Checked",
        "Checked",
        "TokenLeft",
    ]


def test_the_warpers_come_in_the_documented_order() -> None:
    assert names(make_warpers(Sampling(**EVERY_FILTER), RNG)) == [
        "Temperature",
        "TopNSigma",
        "TopK",
        "TopP",
        "MinP",
        "TypicalP",
        "Epsilon",
        "Eta",
        "Xtc",
    ]


def test_the_warpers_come_in_the_callers_order() -> None:
    order = tuple(reversed(FILTER_ORDER))
    assert names(make_warpers(Sampling(**EVERY_FILTER, order=order), RNG)) == [
        "Xtc",
        "Eta",
        "Epsilon",
        "TypicalP",
        "MinP",
        "TopP",
        "TopK",
        "TopNSigma",
        "Temperature",
    ]
    few = Sampling(top_p=0.5, temperature=0.5, order=["top_p", "xtc", "temperature"])
    assert names(make_warpers(few, RNG)) == ["TopP", "Temperature"]
    row = np.log(floats(0.4, 0.3, 0.2, 0.1))
    # Squared and normalised, the first alone would reach 0.5; as they are, two are needed.
    assert np.flatnonzero(make_warpers(few, RNG)(ids(0), row) > -INF).tolist() == [0, 1]


def test_the_dynamic_temperature_takes_the_place_of_the_fixed_one() -> None:
    assert make_warpers(Sampling(dynatemp_range=0.5), RNG).filters == (DynamicTemperature(1.0, 0.5, 1.0),)
    strategy = Sampling(temperature=0, dynatemp_range=0.5, dynatemp_exponent=2.0, top_k=2)
    assert make_warpers(strategy, RNG).filters == (DynamicTemperature(0, 0.5, 2.0), TopK(2))


def test_mirostat_is_warped_by_the_temperature_alone() -> None:
    assert names(make_warpers(Sampling(mirostat_tau=3.0, temperature=0.7), RNG)) == ["Temperature"]


def test_xtc_has_a_threshold_of_its_own_and_draws_from_the_rows_generator() -> None:
    assert make_warpers(Sampling(xtc_probability=0.5), RNG).filters == (Xtc(0.5, 0.1, RNG),)
    strategy = Sampling(xtc_probability=0.5, xtc_threshold=0.2)
    assert make_warpers(strategy, RNG).filters == (Xtc(0.5, 0.2, RNG),)


def test_dry_has_defaults_of_its_own_and_breakers_by_their_first_id() -> None:
    pipeline = make(dry_multiplier=0.5, breakers=[(1,), (2, 3), (1, 4)])
    assert pipeline.processors[0] == Dry(0.5, 1.75, 2, {1: [(), (4,)], 2: [(3,)]})
    pipeline = make(dry_multiplier=0.5, dry_base=2.0, dry_allowed_length=0)
    assert pipeline.processors[0] == Dry(0.5, 2.0, 0, {})


def test_the_first_and_the_last_token_of_the_output_are_forced() -> None:
    pipeline = make(forced_bos_token_id=1, forced_eos_token_id=7, max_tokens=3, logit_bias={1: -INF})
    left = [np.flatnonzero(pipeline(ids(*range(length)), ONES) > -INF).tolist() for length in range(2, 6)]
    assert left == [[1], [0, 2, 3, 4, 5, 6, 7], [7], [0, 2, 3, 4, 5, 6, 7]]


def test_a_forced_end_comes_even_before_min_new_tokens_and_as_the_only_token() -> None:
    scores = make(forced_eos_token_id=7, max_tokens=1, min_new_tokens=4)(ids(0, 1), ONES)
    assert np.flatnonzero(scores > -INF).tolist() == [7]


@pytest.mark.parametrize("name", ["forced_bos_token_id", "forced_eos_token_id"])
def test_a_forced_id_that_the_tokenizer_does_not_have_is_refused(name: str) -> None:
    with pytest.raises(OptionError, match="the tokenizer has 6 ids") as caught:
        make(tokenizer_size=6, **{name: 6})
    assert caught.value.option == name


def test_ids_are_suppressed_always_and_at_the_beginning() -> None:
    pipeline = make(suppress_tokens=[3], begin_suppress_tokens=[4, 7])
    excluded = [np.flatnonzero(pipeline(ids(*range(length)), ONES) == -INF).tolist() for length in (2, 3)]
    assert excluded == [[3, 4, 7], [3]]


def test_the_beginning_comes_after_a_forced_first_token() -> None:
    pipeline = make(forced_bos_token_id=4, begin_suppress_tokens=[4])
    assert np.flatnonzero(pipeline(ids(0, 1), ONES) > -INF).tolist() == [4]
    assert np.flatnonzero(pipeline(ids(0, 1, 4), ONES) == -INF).tolist() == [4]


def test_length_decay_counts_the_output_and_raises_stop_ids() -> None:
    pipeline = make(stops=(7, 6), exponential_decay_length_penalty=(1, 3.0))
    assert pipeline(ids(0, 1, 2), ONES).tolist() == ONES.tolist()
    assert pipeline(ids(0, 1, 2, 3), ONES).tolist() == [1, 1, 1, 1, 1, 1, 3, 3]
    assert make(stops=(), exponential_decay_length_penalty=(1, 3.0)) == Pipeline()


def test_the_length_decay_comes_before_min_new_tokens() -> None:
    scores = make(min_new_tokens=9, exponential_decay_length_penalty=(0, 3.0))(ids(0, 1, 2), ONES)
    assert scores[7] == -INF
    assert not np.isnan(scores).any()


def test_dry_comes_before_the_callers_processors_and_after_the_penalties() -> None:
    pipeline = make(repetition_penalty=2.0, dry_multiplier=3.0, dry_allowed_length=1, processors=[double])
    scores = pipeline(ids(0, 1, 0), ONES)
    assert scores[1] == (1 / 2 - 3) * 2


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
    scores = make_warpers(Sampling(temperature=0.5, top_p=0.5), RNG)(ids(0), row)
    # Squared and normalised: 0.53, 0.30, ...: the first alone reaches 0.5, before it did not.
    assert np.flatnonzero(scores > -INF).tolist() == [0]


def test_top_k_comes_before_top_p() -> None:
    row = np.log(floats(0.4, 0.3, 0.2, 0.1))
    scores = make_warpers(Sampling(top_k=2, top_p=0.55), RNG)(ids(0), row)
    # Of two tokens 0.57 belongs to the first.
    assert np.flatnonzero(scores > -INF).tolist() == [0]


@pytest.mark.parametrize("name", ["top_k", "top_p", "min_p", "typical_p"])
def test_temperature_zero_is_greedy_and_needs_no_warper(name: str) -> None:
    """FAULTS 34"""
    assert make_warpers(Sampling(temperature=0, **{name: 1}), RNG) == FilterChain()  # type: ignore[arg-type]


def test_top_k_of_zero_is_off() -> None:
    assert make_warpers(Sampling(top_k=0), RNG) == FilterChain()


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

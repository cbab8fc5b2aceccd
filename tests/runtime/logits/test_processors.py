"""What holds for every processor, and what belongs to a single one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ortgpt.errors import ConstraintError, OptionError
from ortgpt.interfaces import Floats, Ids, Processor
from ortgpt.logits import processors, sampling_filters
from ortgpt.logits.pipeline import Pipeline
from ortgpt.logits.processors import (
    BadWords,
    Checked,
    Constrained,
    Dry,
    Forced,
    LengthDecay,
    LogitBias,
    MinNewTokens,
    NoRepeatNgram,
    PresenceFrequency,
    RepetitionPenalty,
    SequenceBias,
    Suppressed,
    TokenLeft,
    VocabularySize,
)
from ortgpt.logits.sampling_filters import (
    DynamicTemperature,
    Epsilon,
    Eta,
    MinP,
    Temperature,
    TopK,
    TopNSigma,
    TopP,
    TypicalP,
    Xtc,
)

INF = np.inf


def double(token_ids: Ids, logits: Floats) -> Floats:
    return 2 * logits


# Every one of them changes the row below, except TokenLeft, which never changes anything.
class NotAgain:
    """A constraint as far as a processor needs it: no id of the output comes twice."""

    def apply(self, generated: Ids, scores: Floats) -> Floats:
        assert not set(generated.tolist()) & {1}  # the prompt is none of its business
        result = scores.copy()
        result[generated] = -INF
        return result


ACTIVE = [
    VocabularySize(15),
    SequenceBias({(9, 2, 4): 1.0, (3,): -INF}),
    LogitBias(np.array([2, 5]), np.array([1.5, -INF])),
    RepetitionPenalty(1.3),
    PresenceFrequency(0.5, 0.25, prompt_length=3),
    Dry(0.8, 1.75, 1, {1: [()]}),
    NoRepeatNgram(2),
    BadWords(((4,), (2, 6))),
    LengthDecay(1, 1.5, (7, 11), prompt_length=3),
    MinNewTokens(9, (7,), prompt_length=3),
    Forced(4, length=6),
    Suppressed((4, 5)),
    Suppressed((4, 5), length=6),
    Constrained(NotAgain(), prompt_length=3),
    Checked(double, "processors[0]"),
    Temperature(0.7),
    DynamicTemperature(0.7, 0.5, 1.0),
    TopNSigma(1.0),
    TopK(4),
    TopP(0.6),
    MinP(0.2),
    TypicalP(0.5),
    Epsilon(0.05),
    Eta(0.05),
    Xtc(1.0, 0.05, np.random.default_rng(0)),
]
EVERY = [*ACTIVE, TokenLeft(prompt_length=3), Pipeline(tuple(ACTIVE[:3]))]


def name_of(processor: object) -> str:
    return type(processor).__name__


@pytest.fixture
def token_ids() -> Ids:
    return np.array([1, 2, 3, 2, 9, 2])


@pytest.fixture
def logits() -> Floats:
    row = np.random.default_rng(1).normal(0, 2, 20).astype(np.float32)
    row[11] = -INF
    return row


def test_every_processor_of_the_room_is_tested_here() -> None:
    rooms = {**vars(processors), **vars(sampling_filters)}
    made = {name for name, value in rooms.items() if dataclasses.is_dataclass(value)}
    assert made == {name_of(processor) for processor in EVERY} - {"Pipeline"}


@pytest.mark.parametrize("processor", EVERY, ids=name_of)
def test_a_processor_never_writes_into_its_input(
    processor: Processor, token_ids: Ids, logits: Floats
) -> None:
    before = token_ids.copy(), logits.copy()
    for array in (token_ids, logits):
        array.flags.writeable = False
    scores = processor(token_ids, logits)
    assert scores.dtype == np.float32
    assert scores.shape == logits.shape
    np.testing.assert_array_equal(token_ids, before[0])
    np.testing.assert_array_equal(logits, before[1])


@pytest.mark.parametrize("processor", ACTIVE, ids=name_of)
def test_a_processor_gives_new_scores_in_an_array_of_their_own(
    processor: Processor, token_ids: Ids, logits: Floats
) -> None:
    scores = processor(token_ids, logits)
    assert not np.shares_memory(scores, logits)
    assert not np.array_equal(scores, logits)


@pytest.mark.parametrize("rule", [one for one in EVERY if isinstance(one, processors.Rule)], ids=name_of)
def test_a_rule_gives_the_same_scores_wherever_they_are_written(
    rule: processors.Rule, token_ids: Ids, logits: Floats
) -> None:
    before, expected = logits.copy(), rule(token_ids, logits)
    place = np.full_like(logits, 7)
    assert rule(token_ids, logits, place) is place
    np.testing.assert_array_equal(place, expected)
    np.testing.assert_array_equal(logits, before)
    np.testing.assert_array_equal(rule(token_ids, logits, logits), expected)


@pytest.mark.parametrize("processor", EVERY, ids=name_of)
def test_a_processor_keeps_no_state_between_calls(
    processor: Processor, token_ids: Ids, logits: Floats
) -> None:
    first = processor(token_ids, logits).copy()
    processor(token_ids[:4], logits[::-1])
    np.testing.assert_array_equal(processor(token_ids, logits), first)


@pytest.mark.parametrize("processor", EVERY, ids=name_of)
def test_a_processor_can_not_be_changed(processor: Processor) -> None:
    for field in dataclasses.fields(processor):  # type: ignore[arg-type]
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(processor, field.name, None)


@pytest.mark.parametrize(
    ("result", "problem"),
    [
        (None, "NoneType"),
        ([0.0] * 20, "list"),
        (np.zeros(20), "float64"),
        (np.zeros(19, np.float32), r"\(19,\)"),
        (np.zeros((1, 20), np.float32), r"\(1, 20\)"),
        (np.full(20, np.nan, np.float32), "NaN"),
        (np.full(20, INF, np.float32), "inf"),
    ],
)
def test_what_a_callers_processor_returns_is_checked(
    token_ids: Ids, logits: Floats, result: Floats, problem: str
) -> None:
    with pytest.raises(OptionError, match=problem) as caught:
        Checked(lambda ids, row: result, "processors[3]")(token_ids, logits)
    assert caught.value.option == "processors[3]"


def test_a_callers_processor_can_not_write_into_the_model_s_logits(token_ids: Ids, logits: Floats) -> None:
    def spoil_logits(ids: Ids, row: Floats) -> Floats:
        row[0] = 0
        return row

    def spoil_ids(ids: Ids, row: Floats) -> Floats:
        ids[0] = 0
        return row

    for spoil in (spoil_logits, spoil_ids):
        with pytest.raises(ValueError, match="read-only"):
            Checked(spoil, "processors[0]")(token_ids, logits)
    assert token_ids.flags.writeable
    assert logits.flags.writeable


def test_no_token_left_is_an_error_with_the_number_of_the_step(token_ids: Ids) -> None:
    """FAULTS 36, 41"""
    with pytest.raises(ConstraintError, match="step 4"):
        TokenLeft(prompt_length=2)(token_ids, np.full(20, -INF, np.float32))
    almost = np.full(20, -INF, np.float32)
    almost[7] = -3e38
    assert TokenLeft(prompt_length=2)(token_ids, almost) is almost


@pytest.mark.parametrize(
    "processor", [Forced(4, length=5), Suppressed((4,), length=7), LengthDecay(3, 2.0, (7,), 3)]
)
def test_a_rule_of_one_place_is_silent_elsewhere(
    processor: Processor, token_ids: Ids, logits: Floats
) -> None:
    np.testing.assert_array_equal(processor(token_ids, logits), logits)

"""Token healing: transformers, a slow version, texts, stops, streams, batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from fake_engine import CONTEXT, VOCAB, run_fake
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

import ortgpt
from ortgpt.constraint_specs import Forbidden
from ortgpt.errors import OptionError
from ortgpt.grammar_specs import Choice, Grammar, JSONSchema, Regex
from ortgpt.options import Options
from ortgpt.prompts import Prompt
from ortgpt.strategies import Strategy
from ortgpt.testing import ByteTokenizer, FakeDecoder, fake_logits
from ortgpt.token_healing import find_extensions, heal

CUT = [
    "Once upon a ti",
    "The king and the que",
    "The princess was so beau",
    "He went into the for",
    "There was once a lit",
    "The wolf ate the grand",
    "She was very unhap",
    "The old wom",
    "In the middle of the nig",
    "Then the fox said to the cr",
    "They lived happily ever af",
    "The prince got on his ho",
    "And the kin",
    "The giant fell down d",
    "Early in the mor",
]
STAYS = ["A", "End.<|endoftext|>", "\n\n", ""]
STRATEGIES: dict[str, Strategy] = {
    "greedy": ortgpt.Greedy(),
    "sampling": ortgpt.Sampling(temperature=0.9, top_p=0.95),
    "beams": ortgpt.BeamSearch(num_beams=3),
    "diverse beams": ortgpt.BeamSearch(num_beams=4, num_beam_groups=2, diversity_penalty=0.5),
    "contrastive": ortgpt.ContrastiveSearch(),
}


@pytest.fixture(params=STRATEGIES)
def strategy(request: pytest.FixtureRequest) -> Strategy:
    return STRATEGIES[request.param]


def bytes_of(model: ortgpt.Model, ids: Sequence[int]) -> bytes:
    return b"".join(map(model.tokenizer.token_bytes, ids))


class SpacedTokenizer(PreTrainedTokenizerFast):
    """Says how GPT-2 spells a space. transformers asks by " ", which no token of GPT-2 is called, and then
    does not find the extensions of tokens that begin with a space.
    """

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        return super().convert_tokens_to_ids("Ġ" if tokens == " " else tokens)


def test_healed_ids_are_those_of_transformers(storyteller: Path, storyteller_model: ortgpt.Model) -> None:
    reference = GPT2LMHeadModel.from_pretrained(storyteller).eval()
    end = "<|endoftext|>"
    tokenizer = SpacedTokenizer(
        tokenizer_file=str(storyteller / "tokenizer.json"), bos_token=end, eos_token=end, pad_token=end
    )
    num_healed = 0
    for prompt in CUT:
        before = storyteller_model.tokenizer.encode(prompt)
        expected = reference.heal_tokens(torch.tensor([before]), tokenizer)[0].tolist()
        result = storyteller_model.generate(prompt, token_healing=True, max_new_tokens=1)
        assert bytes_of(storyteller_model, result.prompt_token_ids).startswith(prompt.encode())
        if bytes_of(storyteller_model, expected).startswith(prompt.encode()):  # else no extension was chosen
            assert list(result.prompt_token_ids) == expected
            num_healed += expected != before
    assert num_healed >= 9


@pytest.mark.parametrize("prompt", CUT)
def test_the_output_is_what_the_ids_say_beyond_the_prompt(
    storyteller_model: ortgpt.Model, strategy: Strategy, prompt: str
) -> None:
    options: dict[str, Any] = {"max_new_tokens": 12, "stop_token_ids": [], "seed": 3}
    result = storyteller_model.generate(prompt, strategy, token_healing=True, **options)
    said = bytes_of(storyteller_model, result.prompt_token_ids + result.token_ids).decode("utf-8", "replace")
    assert prompt + result.text == said
    # The healed ids are a prompt like any other.
    plain = storyteller_model.generate(list(result.prompt_token_ids), strategy, **options)
    assert result.token_ids == plain.token_ids
    assert result.text.endswith(plain.text)
    for echoed in (prompt, storyteller_model.tokenizer.encode(prompt)):
        whole = storyteller_model.generate(echoed, strategy, token_healing=True, echo=True, **options)
        assert whole.text == said


@pytest.mark.parametrize("prompt", [*STAYS, [5, 0], [0]])
def test_a_prompt_that_can_not_be_healed_stays_as_it_is(
    storyteller_model: ortgpt.Model, strategy: Strategy, prompt: Any
) -> None:
    healed, plain = (
        storyteller_model.generate(prompt, strategy, token_healing=on, max_new_tokens=8, seed=3)
        for on in (True, False)
    )
    assert healed.prompt_token_ids == plain.prompt_token_ids
    assert healed.choices == plain.choices


def test_it_is_off_unless_asked_for(storyteller_model: ortgpt.Model) -> None:
    ids = tuple(storyteller_model.tokenizer.encode(CUT[0]))
    assert storyteller_model.generate(CUT[0], max_new_tokens=2).prompt_token_ids == ids
    healed = storyteller_model.generate(CUT[0], max_new_tokens=2, token_healing=True)
    assert healed.prompt == CUT[0]
    assert healed.prompt_token_ids != ids


def test_no_tokens_asked_for_heal_nothing(storyteller_model: ortgpt.Model) -> None:
    result = storyteller_model.generate(CUT[0], max_new_tokens=0, token_healing=True)
    assert (result.text, result.prompt_token_ids) == ("", tuple(storyteller_model.tokenizer.encode(CUT[0])))


@pytest.mark.parametrize("options", [{}, {"guidance_scale": 1.5}, {"stop": ["e", " the"]}], ids=str)
def test_batch_rows_equal_solo_runs(
    storyteller_model: ortgpt.Model, strategy: Strategy, options: dict[str, Any]
) -> None:
    prompts = [*CUT[:4], *STAYS, *CUT[4:6]]
    options = {"max_new_tokens": 10, "token_healing": True, **options}
    batch = storyteller_model.generate_batch(prompts, strategy, seed=5, **options)
    for index, (prompt, result) in enumerate(zip(prompts, batch, strict=True)):
        alone = storyteller_model.generate(prompt, strategy, seed=5 + index, **options)
        assert result.prompt_token_ids == alone.prompt_token_ids
        assert result.choices == alone.choices


@pytest.mark.parametrize("prompt", [*CUT[:6], *STAYS])
@pytest.mark.parametrize("options", [{}, {"stop": ["m", "n"], "echo": True}], ids=str)
def test_streamed_equals_collected(
    storyteller_model: ortgpt.Model, strategy: Strategy, prompt: str, options: dict[str, Any]
) -> None:
    options = {"max_new_tokens": 15, "token_healing": True, "seed": 3, **options}
    stream = storyteller_model.stream(prompt, strategy, **options)
    events = list(stream)
    collected = storyteller_model.generate(prompt, strategy, **options)
    assert stream.result.choices == collected.choices
    assert stream.result.prompt_token_ids == collected.prompt_token_ids
    assert "".join(event.text for event in events) == collected.text
    assert sum((event.token_ids for event in events), ()) == collected.token_ids


def test_all_sequences_of_a_prompt_share_the_healed_token(storyteller_model: ortgpt.Model) -> None:
    result = storyteller_model.generate(
        CUT[0], STRATEGIES["sampling"], n=4, token_healing=True, max_new_tokens=5, seed=1
    )
    added = bytes_of(storyteller_model, result.prompt_token_ids)[len(CUT[0]) :].decode()
    assert added
    assert all(choice.text.startswith(added) for choice in result.choices)


def test_guidance_avoids_the_healed_token_and_heals_without_it(storyteller_model: ortgpt.Model) -> None:
    for prompt in CUT:
        plain = storyteller_model.generate(prompt, token_healing=True, max_new_tokens=1)
        guided = storyteller_model.generate(prompt, token_healing=True, max_new_tokens=8, guidance_scale=3.0)
        ids = list(plain.prompt_token_ids)
        assert list(guided.prompt_token_ids) == ids
        expected = storyteller_model.generate(ids, max_new_tokens=8, guidance_scale=3.0)
        assert guided.token_ids == expected.token_ids


def test_a_closed_stream_has_what_was_healed(storyteller_model: ortgpt.Model) -> None:
    for taken in (0, 1):
        stream = storyteller_model.stream(CUT[0], token_healing=True, max_new_tokens=9)
        shown = "".join(next(stream).text for _ in range(taken))
        assert stream.result.text == shown
        assert stream.result.finish_reason == "cancelled"


@pytest.mark.parametrize("constraint", [JSONSchema("{}"), Regex("a"), Grammar("start: x"), Choice(["a"])])
def test_a_grammar_does_not_see_what_was_healed(constraint: Any) -> None:
    with pytest.raises(OptionError, match=type(constraint).__name__) as caught:
        Options(token_healing=True, constraints=[Forbidden(["x"]), constraint])
    assert caught.value.option == "token_healing"
    assert Options(token_healing=True, constraints=[Forbidden(["x"])]).token_healing


# Without a model.


class Words(ByteTokenizer):
    """Bytes, and these words in place of some of them."""

    words: ClassVar = {200: b"th", 201: b"the", 202: b"then.x", 203: b"the\xc3", 204: b"t", 205: b"then"}

    def token_bytes(self, token_id: int) -> bytes:
        return self.words.get(token_id) or super().token_bytes(token_id)


T = ord("t")
EXTENSIONS = [T, 200, 201, 202, 203, 204, 205]
STOP_IDS: dict[str, Any] = {"stop_token_ids": [], "max_new_tokens": 5, "token_healing": True}


def favouring(*wanted: int) -> Any:
    """Logits that put these ids on top, the first one first."""

    def logits_of(history: tuple[int, ...]) -> np.ndarray:
        logits = fake_logits(history, VOCAB)
        for rank, token_id in enumerate(wanted):
            logits[token_id] = 50 - 0.5 * rank
        return logits

    return logits_of


def test_extensions_begin_with_the_tokens_bytes() -> None:
    assert find_extensions(T, Words()).tolist() == EXTENSIONS
    assert find_extensions(201, Words()).tolist() == [201, 202, 203, 205]
    assert find_extensions(202, Words()).tolist() == [202]
    assert find_extensions(256, Words()).tolist() == []  # special
    assert find_extensions(300, Words()).tolist() == []  # the padded vocabulary


def test_the_old_token_has_an_advantage_of_one() -> None:
    logits = np.full(VOCAB, -20, np.float32)
    logits[0] = 90  # no extension
    logits[200], logits[201], logits[T] = 5.0, 7.0, 5.9
    prompt = Prompt(None, (5, T))
    extensions = find_extensions(T, Words())
    assert heal(prompt, extensions, logits, Words()).token_ids == (5, 201)
    logits[T] = 6.1
    assert heal(prompt, extensions, logits, Words()) == prompt
    logits[T] = -5
    logits[200] = 7.0
    healed = heal(prompt, extensions, logits, Words())  # of equal ones the first
    assert (healed.token_ids, healed.healed_bytes, healed.healed_text) == ((5, 200), b"h", "h")


def test_the_healed_text_holds_whole_characters_and_the_own_text_none_of_it() -> None:
    prompt = Prompt(None, (65, 203), healed_bytes=b"e\xc3")
    assert prompt.healed_text == "e"
    assert prompt.own_text(Words()) == "Ath"
    assert Prompt("Ath", (65, 203), b"e\xc3").own_text(Words()) == "Ath"


PROMPTS = [(65, 66, T), (70,), (65, 200), (71, 72, 256), (T, T), (90, 91)]


@pytest.mark.parametrize("kind", ["greedy", "beams", "contrastive"])
def test_the_choice_is_the_models_after_the_shortened_prompt(kind: str) -> None:
    results, _ = run_fake(PROMPTS, STRATEGIES[kind], tokenizer=Words(), **STOP_IDS)
    healed = [result.prompt_token_ids for result in results]
    for prompt, found in zip(PROMPTS, healed, strict=True):
        extensions = find_extensions(prompt[-1], Words())
        if len(prompt) == 1 or len(extensions) < 2:
            assert found == prompt
            continue
        scores = fake_logits(prompt[:-1], VOCAB)
        scores[prompt[-1]] += 1
        assert found == (*prompt[:-1], extensions[scores[extensions].argmax()])
    plain, _ = run_fake(healed, STRATEGIES[kind], tokenizer=Words(), max_new_tokens=5, stop_token_ids=[])
    assert [one.token_ids for one in results] == [one.token_ids for one in plain]


def test_nothing_is_run_twice_where_no_prompt_can_be_healed() -> None:
    decoder = FakeDecoder(VOCAB, CONTEXT, rows=2)
    run_fake([(70,), (71, 256)], ortgpt.Greedy(), decoder=decoder, tokenizer=Words(), **STOP_IDS)
    assert decoder.verbs.count("extend") == 5
    assert "trim" not in decoder.verbs


def begin(wanted: int, *then: int, **options: Any) -> tuple[ortgpt.Result, list[ortgpt.Event]]:
    """A prompt whose last token is healed to `wanted`, and then these tokens."""

    def logits_of(history: tuple[int, ...]) -> np.ndarray:
        logits = np.full(VOCAB, -9, np.float32)
        logits[(wanted, *then)[len(history) - 1]] = 9
        return logits

    (result,), events = run_fake(
        [(65, T)],
        ortgpt.Greedy(),
        decoder=FakeDecoder(VOCAB, CONTEXT, logits_of=logits_of),
        tokenizer=Words(),
        **{"token_healing": True, "max_new_tokens": len(then), **options},
    )
    assert result.prompt_token_ids == (65, wanted)
    assert "".join(event.text for _, event in events) == result.text
    return result, [event for _, event in events]


def test_what_was_healed_comes_with_the_first_token() -> None:
    result, events = begin(201, 88, 89)
    assert result.text == "heXY"
    assert [event.text for event in events] == ["heX", "Y"]
    assert events[0].token_ids == (88,)


def test_half_a_character_waits_for_the_first_token() -> None:
    assert begin(203, 0xA9, 89)[0].text == "heéY"
    assert begin(203, 88)[0].text == "he\ufffdX"


def test_a_stop_string_counts_what_was_healed() -> None:
    result, _ = begin(201, 88, 89, stop=["eX"])  # across the border
    assert (result.text, result.choices[0].stop_reason, result.token_ids) == ("h", "eX", (88,))
    result, _ = begin(202, 88, 89, stop=["n."])  # within it: it ends with the first token
    assert (result.text, result.choices[0].stop_reason, result.token_ids) == ("he", "n.", (88,))
    result, _ = begin(202, 256, 89, stop=["n."])  # even if that is a stop id
    assert (result.text, result.choices[0].stop_reason) == ("he", "n.")
    result, _ = begin(202, 88, 89, stop=["n."], min_new_tokens=1)  # too early
    assert (result.text, result.finish_reason) == ("hen.xXY", "length")


def test_a_stop_id_right_after_it_leaves_what_was_healed() -> None:
    result, _ = begin(201, 256, 89)
    assert (result.text, result.choices[0].stop_reason) == ("he", 256)
    result, _ = begin(203, 256, 89)
    assert result.text == "he\ufffd"


def test_penalties_and_processors_see_the_healed_prompt() -> None:
    seen: list[list[int]] = []

    def watch(token_ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
        seen.append(token_ids.tolist())
        return logits

    begin(201, 88, 89, processors=[watch])
    assert seen == [[65, 201], [65, 201, 88]]


def test_logits_that_are_no_numbers_leave_the_prompt_to_the_run() -> None:
    logits = np.full(VOCAB, np.nan, np.float32)
    prompt = Prompt(None, (5, T))
    assert heal(prompt, find_extensions(T, Words()), logits, Words()) is prompt


def test_a_full_context_is_healed_too_and_keeps_its_room() -> None:
    for kind, room in (("greedy", 1), ("contrastive", 0)):
        prompts = [(65,) * (CONTEXT - 1) + (T,), (66, T)]
        results, _ = run_fake(prompts, STRATEGIES[kind], tokenizer=Words(), **STOP_IDS)
        assert [len(result.token_ids) for result in results] == [room, 5]
        alone, _ = run_fake(prompts[:1], STRATEGIES[kind], tokenizer=Words(), **STOP_IDS)
        assert results[0].choices == alone[0].choices
        assert results[0].prompt_token_ids == alone[0].prompt_token_ids

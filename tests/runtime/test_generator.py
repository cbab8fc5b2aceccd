"""Model: what generate, generate_batch and load promise."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import ortgpt

MakeBundle = Callable[..., Path]

SAMPLED = ortgpt.Sampling(temperature=0.9, top_p=0.95)
PROMPTS = ["The king", "Once upon a time there was a small fox who lived", "A", "In the wood, by the sea,"]


def test_the_same_seed_gives_the_same_text_and_another_another(storyteller_model: ortgpt.Model) -> None:
    texts = [storyteller_model.generate("The fox", SAMPLED, seed=seed).text for seed in (5, 5, 6)]
    assert texts[0] == texts[1] != texts[2]


def test_a_drawn_seed_is_reported_and_reproduces_the_text(storyteller_model: ortgpt.Model) -> None:
    first = storyteller_model.generate("The fox", SAMPLED)
    again = storyteller_model.generate("The fox", SAMPLED, seed=first.seed)
    assert again.choices == first.choices


def test_a_rows_text_never_depends_on_its_neighbours(storyteller_model: ortgpt.Model) -> None:
    batch = storyteller_model.generate_batch(PROMPTS, SAMPLED, seed=11, max_new_tokens=60)
    for index, (prompt, result) in enumerate(zip(PROMPTS, batch, strict=True)):
        alone = storyteller_model.generate(prompt, SAMPLED, seed=11 + index, max_new_tokens=60)
        assert result.seed == 11 + index
        assert result.choices == alone.choices
        assert result.prompt_token_ids == alone.prompt_token_ids


def test_a_batch_takes_a_list_of_seeds(storyteller_model: ortgpt.Model) -> None:
    batch = storyteller_model.generate_batch(["The fox", "The fox"], SAMPLED, seed=[3, 3])
    assert batch[0].choices == batch[1].choices
    with pytest.raises(ortgpt.OptionError, match="2 entries for 1 prompts"):
        storyteller_model.generate_batch(["The fox"], SAMPLED, seed=[3, 4])
    with pytest.raises(ortgpt.OptionError, match="one integer"):
        storyteller_model.generate("The fox", SAMPLED, seed=[3, 4])


def test_batches_larger_than_the_row_limit_keep_order_and_texts(storyteller_model: ortgpt.Model) -> None:
    prompts = [f"{word} {number}" for word, number in itertools.product(("The", "A"), range(4))]
    whole = storyteller_model.generate_batch(prompts, SAMPLED, seed=1, max_new_tokens=12)
    parts = storyteller_model.generate_batch(prompts, SAMPLED, max_rows=3, seed=1, max_new_tokens=12)
    assert [result.choices for result in parts] == [result.choices for result in whole]
    assert [result.prompt for result in parts] == prompts


def test_an_empty_batch_is_an_empty_list(storyteller_model: ortgpt.Model) -> None:
    assert storyteller_model.generate_batch([]) == []


def test_n_sequences_share_a_prompt_and_draw_from_seed_and_index(storyteller_model: ortgpt.Model) -> None:
    three = storyteller_model.generate("The fox", SAMPLED, n=3, seed=4, max_new_tokens=30)
    one = storyteller_model.generate("The fox", SAMPLED, n=1, seed=4, max_new_tokens=30)
    assert [choice.index for choice in three.choices] == [0, 1, 2]
    assert len({choice.text for choice in three.choices}) == 3
    assert three.choices[0] == one.choices[0]


def test_greedy_rows_that_end_early_leave_the_others_alone(storyteller_model: ortgpt.Model) -> None:
    batch = storyteller_model.generate_batch(PROMPTS, stop=[".", ","], max_new_tokens=50)
    assert len({len(result.token_ids) for result in batch}) > 1
    for prompt, result in zip(PROMPTS, batch, strict=True):
        alone = storyteller_model.generate(prompt, stop=[".", ","], max_new_tokens=50)
        assert result.choices == alone.choices


@pytest.mark.parametrize(
    "strategy",
    [
        ortgpt.Sampling(top_k=1),
        ortgpt.Sampling(temperature=0),
        ortgpt.Sampling(temperature=1e-320),
        ortgpt.Sampling(top_p=0.0),
    ],
)
def test_sampling_that_leaves_one_token_is_greedy(
    storyteller_model: ortgpt.Model, strategy: ortgpt.Sampling
) -> None:
    """FAULTS 34"""
    greedy = storyteller_model.generate("The fox", max_new_tokens=40)
    assert storyteller_model.generate("The fox", strategy, max_new_tokens=40).token_ids == greedy.token_ids


def test_no_tokens_asked_for_gives_an_empty_text_or_the_prompt(storyteller_model: ortgpt.Model) -> None:
    result = storyteller_model.generate("The fox", max_new_tokens=0)
    assert (result.text, result.token_ids, result.finish_reason) == ("", (), "length")
    assert storyteller_model.generate("The fox", max_new_tokens=0, echo=True).text == "The fox"


def test_echo_puts_the_prompt_before_the_text(storyteller_model: ortgpt.Model) -> None:
    plain = storyteller_model.generate("The fox", max_new_tokens=8)
    for prompt in ("The fox", list(plain.prompt_token_ids)):
        echoed = storyteller_model.generate(prompt, max_new_tokens=8, echo=True)
        assert echoed.text == "The fox" + plain.text
        assert echoed.token_ids == plain.token_ids


def test_ids_and_text_are_the_same_prompt(storyteller_model: ortgpt.Model) -> None:
    ids = storyteller_model.tokenizer.encode("The fox")
    for prompt in (ids, tuple(ids), np.asarray(ids)):
        result = storyteller_model.generate(prompt, max_new_tokens=8)
        assert result.token_ids == storyteller_model.generate("The fox", max_new_tokens=8).token_ids
        assert result.prompt is None


def test_an_empty_prompt_starts_from_the_bos_token(storyteller_model: ortgpt.Model) -> None:
    """FAULTS 28"""
    for prompt in ("", []):
        assert storyteller_model.generate(prompt, max_new_tokens=3).prompt_token_ids == (0,)


def test_generation_ends_where_the_context_ends(tiny_model: ortgpt.Model) -> None:
    """FAULTS 31: context 64; the last token is never fed back, so one more than the room fits."""
    for length in (60, 63, 64):
        result = tiny_model.generate([5] * length, max_new_tokens=10**6, stop_token_ids=[])
        assert len(result.token_ids) == 64 - length + 1
        assert result.finish_reason == "length"
    with pytest.raises(ortgpt.ContextLengthError, match=r"65 tokens.*64"):
        tiny_model.generate([5] * 65)


def test_tokens_near_the_end_of_the_context_match_a_fresh_pass(tiny_model: ortgpt.Model) -> None:
    result = tiny_model.generate([5, 6, 7], max_new_tokens=62, stop_token_ids=[])
    tokens = [5, 6, 7, *result.token_ids]
    logits = tiny_model.decoder().extend([tokens[:-1]], outputs="all").logits[0]
    assert logits[2:].argmax(axis=-1).tolist() == list(result.token_ids)


def test_a_stop_id_ends_the_text_is_reported_and_not_shown(storyteller_model: ortgpt.Model) -> None:
    free = storyteller_model.generate("The fox", max_new_tokens=20)
    stop = free.token_ids[7]
    cut = free.token_ids.index(stop)
    result = storyteller_model.generate("The fox", max_new_tokens=20, stop_token_ids=[stop])
    assert result.token_ids == free.token_ids[: cut + 1]
    assert result.text == storyteller_model.tokenizer.decode(free.token_ids[:cut])
    assert (result.finish_reason, result.choices[0].stop_reason) == ("stop", stop)


def test_a_stop_string_is_cut_from_the_text_and_reported(storyteller_model: ortgpt.Model) -> None:
    free = storyteller_model.generate("The fox", max_new_tokens=60)
    stop = free.text[10:14]  # across token borders
    result = storyteller_model.generate("The fox", max_new_tokens=60, stop=["never there", stop])
    assert result.text == free.text[: free.text.index(stop)]
    assert (result.finish_reason, result.choices[0].stop_reason) == ("stop", stop)


def test_a_stop_string_in_the_prompt_does_not_count(storyteller_model: ortgpt.Model) -> None:
    """FAULTS 38"""
    result = storyteller_model.generate("The fox", max_new_tokens=5, stop=["fox"], echo=True)
    assert result.text.startswith("The fox")
    assert len(result.token_ids) == 5


def test_min_new_tokens_holds_back_stop_ids_and_stop_strings(storyteller_model: ortgpt.Model) -> None:
    free = storyteller_model.generate("The fox", max_new_tokens=40)
    early = free.token_ids[3]
    result = storyteller_model.generate(
        "The fox", max_new_tokens=40, min_new_tokens=10, stop_token_ids=[early]
    )
    assert early not in result.token_ids[:10]
    stop = storyteller_model.tokenizer.decode([early])
    result = storyteller_model.generate("The fox", max_new_tokens=40, min_new_tokens=10, stop=[stop])
    assert result.token_ids[:10] == free.token_ids[:10]


def test_max_time_ends_with_length_and_says_so(storyteller_model: ortgpt.Model) -> None:
    result = storyteller_model.generate("The fox", max_new_tokens=400, max_time=0.0)
    assert len(result.token_ids) == 1
    assert (result.finish_reason, result.choices[0].stop_reason) == ("length", "max_time")


def test_logprobs_are_of_the_raw_distribution(storyteller_model: ortgpt.Model) -> None:
    options = {"max_new_tokens": 6, "logprobs": 3}
    result = storyteller_model.generate("The fox", repetition_penalty=2.0, logit_bias={0: 5.0}, **options)
    tokens = [*result.prompt_token_ids, *result.token_ids]
    logits = storyteller_model.decoder().extend([tokens], outputs="all").logits[0].astype(np.float64)
    table = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    start = len(result.prompt_token_ids) - 1
    for step, entry in enumerate(result.choices[0].logprobs):
        row = table[start + step]
        assert entry.id == result.token_ids[step]
        assert entry.logprob == pytest.approx(row[entry.id], abs=1e-4)
        assert [top.id for top in entry.top] == (-row).argsort()[:3].tolist()
        assert [top.logprob for top in entry.top] == pytest.approx(np.sort(row)[::-1][:3], abs=1e-4)


def test_bad_words_never_come_in_the_tokenisations_they_ban(storyteller_model: ortgpt.Model) -> None:
    free = storyteller_model.generate("The fox", max_new_tokens=40)
    word = next(word for word in free.text.split() if word.isalpha() and len(word) > 2)
    result = storyteller_model.generate("The fox", max_new_tokens=40, bad_words=[word])
    assert word not in result.text.split()


def test_processors_of_the_caller_see_the_tokens_and_change_the_choice(
    storyteller_model: ortgpt.Model,
) -> None:
    seen: list[list[int]] = []

    def only_comma(token_ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
        seen.append(token_ids.tolist())
        scores = np.full_like(logits, -np.inf)
        scores[12] = 0
        return scores

    result = storyteller_model.generate("The fox", SAMPLED, processors=[only_comma], max_new_tokens=3)
    prompt = list(result.prompt_token_ids)
    assert result.token_ids == (12, 12, 12)
    assert seen == [prompt, [*prompt, 12], [*prompt, 12, 12]]


def test_banning_every_token_is_an_error_that_says_so(tiny_model: ortgpt.Model) -> None:
    """FAULTS 36"""
    with pytest.raises(ortgpt.ConstraintError, match="no token"):
        tiny_model.generate("a", logit_bias=dict.fromkeys(range(257), -float("inf")))


def test_a_padded_vocabulary_is_never_generated(make_bundle: MakeBundle) -> None:
    with ortgpt.load(make_bundle(vocab_size=400, scale=0.02), threads=1) as model:
        for strategy in (ortgpt.Greedy(), ortgpt.Sampling(temperature=100.0)):
            batch = model.generate_batch(
                ["a", "b", "c"], strategy, max_new_tokens=60, stop_token_ids=[], seed=1
            )
            assert max(max(result.token_ids) for result in batch) < model.tokenizer.size == 257


def test_several_threads_share_a_model(storyteller_model: ortgpt.Model) -> None:
    """FAULTS 69"""

    def write(seed: int) -> str:
        return storyteller_model.generate("The fox", SAMPLED, seed=seed, max_new_tokens=40).text

    expected = [write(seed) for seed in range(16)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(write, range(16))) == expected


def test_a_closed_model_says_so_and_calls_under_way_end_in_peace(storyteller_bundle: Path) -> None:
    """FAULTS 69"""
    model = ortgpt.load(storyteller_bundle, threads=1)
    stream = model.stream("The fox")
    next(stream)
    closer = threading.Thread(target=model.close)
    closer.start()
    closer.join()
    with pytest.raises(ortgpt.OrtgptError, match="closed"):
        for _ in stream:
            pass
    with pytest.raises(ortgpt.OrtgptError, match="closed"):
        model.generate("The fox")


def test_a_row_with_non_finite_logits_fails_alone(make_bundle: MakeBundle, tmp_path: Path) -> None:
    """FAULTS 17, 43: token 65's embedding is NaN, so only the row that reads it is lost."""
    bundle = tmp_path / "bundle"
    shutil.copytree(make_bundle(), bundle)
    with ortgpt.load(bundle, threads=1) as model:
        good = model.generate_batch(["xyz", "pq"], max_new_tokens=5, stop_token_ids=[], bad_words=[[65]])
    spoil_embedding(bundle, 65)
    with ortgpt.load(bundle, threads=1, verify=False) as model:
        options = {"max_new_tokens": 5, "stop_token_ids": [], "bad_words": [[65]]}
        with pytest.raises(ortgpt.NonFiniteLogitsError, match="step 0") as caught:
            model.generate_batch([[120, 121, 122], [65, 66], "pq"], **options)
        assert caught.value.results is not None
        assert caught.value.results[1] is None
        with pytest.raises(ortgpt.NonFiniteLogitsError):
            model.generate([65], **options)
    assert len(good) == 2


def spoil_embedding(bundle: Path, token_id: int) -> None:
    """Write NaN over a row of the position table's neighbour, the embedding table, which comes first."""
    path = bundle / "decoder.onnx.data"
    data = bytearray(path.read_bytes())
    width = json.loads((bundle / "manifest.json").read_text())["architecture"]["width"]
    nan_row = np.full(width, np.nan, np.float32).tobytes()
    offset = token_id * len(nan_row)
    data[offset : offset + len(nan_row)] = nan_row
    path.write_bytes(data)


BAD_PROMPTS = [
    None,
    b"abc",
    5,
    {"a": 1},
    ["a"],
    [1.5],
    [True],
    [[1]],
    ["5"],
    [-1],
    [4096],
    [2**63],
    "a\ud800b",
]


@pytest.mark.parametrize("prompt", BAD_PROMPTS, ids=repr)
def test_bad_prompts_are_refused_by_every_verb(storyteller_model: ortgpt.Model, prompt: object) -> None:
    """FAULTS 28-30"""
    for verb in (storyteller_model.generate, storyteller_model.stream):
        with pytest.raises(ortgpt.OptionError, match="prompt"):
            verb(prompt)  # type: ignore[arg-type]
    with pytest.raises(ortgpt.OptionError, match=r"prompts\[1\]"):
        storyteller_model.generate_batch(["a", prompt])  # type: ignore[list-item]
    with pytest.raises(ortgpt.OptionError, match="text"):
        storyteller_model.score(prompt)  # type: ignore[arg-type]
    assert storyteller_model.generate("The fox", max_new_tokens=1).token_ids  # healthy after


def test_a_bad_id_is_named_by_its_place(storyteller_model: ortgpt.Model) -> None:
    """FAULTS 30"""
    with pytest.raises(ortgpt.OptionError, match=r"prompt\[2\] must be between 0 and 4095, got 4096"):
        storyteller_model.generate([1, 2, 4096])


def test_a_huge_prompt_is_refused_unread(
    storyteller_model: ortgpt.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 28"""
    monkeypatch.setattr(
        type(storyteller_model.tokenizer), "encode", lambda self, text: pytest.fail("was read")
    )
    with pytest.raises(ortgpt.ContextLengthError, match=r"at least .* tokens, the model's context is 512"):
        storyteller_model.generate("x" * 10_000_000)


@pytest.mark.parametrize(
    "text",
    [
        "\0",
        "\ufeffBOM",
        "\ufffd",
        "שלום",
        "🦊🦊",
        "x" * 300,
        "a<|endoftext|>b",
        "  two\n\n\ttabs ",
        "e\u0301",
    ],
)
def test_every_text_goes_through_as_prompt(storyteller_model: ortgpt.Model, text: str) -> None:
    """FAULTS 29"""
    result = storyteller_model.generate(text, max_new_tokens=2, echo=True)
    assert result.text.startswith(text)
    ids = storyteller_model.tokenizer.encode(text)
    assert storyteller_model.tokenizer.decode(ids) == text.replace("<|endoftext|>", "")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("logit_bias", {4096: 1.0}),
        ("logit_bias", {-1: 1.0}),
        ("stop_token_ids", [4096]),
        ("bad_words", [[4096]]),
        ("logprobs", 4097),
    ],
)
def test_ids_and_counts_outside_the_vocabulary_are_refused(
    storyteller_model: ortgpt.Model, option: str, value: object
) -> None:
    """FAULTS 36, 37"""
    with pytest.raises(ortgpt.OptionError, match=option.replace("_", ".")):
        storyteller_model.generate("The fox", **{option: value})  # type: ignore[arg-type]


def test_an_unknown_option_or_strategy_is_named(storyteller_model: ortgpt.Model) -> None:
    with pytest.raises(ortgpt.OptionError, match="temperature is not an option"):
        storyteller_model.generate("The fox", temperature=0.5)  # type: ignore[call-arg]
    with pytest.raises(ortgpt.OptionError, match="strategy must be"):
        storyteller_model.generate("The fox", "greedy")  # type: ignore[arg-type]


PAIRED: dict[str, object] = {
    "min_new_tokens": 5,
    "stop": ["e", "the "],
    "stop_token_ids": [17, 260],
    "n": 2,
    "echo": True,
    "repetition_penalty": 1.3,
    "presence_penalty": 0.7,
    "frequency_penalty": 0.4,
    "dry_multiplier": 1.5,
    "no_repeat_ngram_size": 2,
    "bad_words": ["the", "and"],
    "exponential_decay_length_penalty": (3, 1.2),
    "forced_bos_token_id": 300,
    "forced_eos_token_id": 0,
    "suppress_tokens": [11, 12],
    "begin_suppress_tokens": [262, 263],
    "sequence_bias": {"little": 3.0, (12, 300): -4.0},
    "logit_bias": {300: 2.0, 5: -float("inf")},
    "logprobs": 2,
    "token_healing": True,
    "guidance_scale": 1.5,
    "prompt_lookup": True,
    "constraints": [ortgpt.Keywords(["dragon"]), ortgpt.Forbidden(["castle"])],
}
STRATEGIES = [
    ortgpt.Greedy(),
    ortgpt.Sampling(top_k=30),
    ortgpt.Sampling(top_p=0.8, temperature=1.4),
    ortgpt.Sampling(min_p=0.05, typical_p=0.9),
    ortgpt.Sampling(epsilon_cutoff=0.002, eta_cutoff=0.01, dynatemp_range=0.6),
    ortgpt.Sampling(xtc_probability=0.5, top_n_sigma=2.0, order=["xtc", "top_n_sigma"]),
    ortgpt.Sampling(mirostat_tau=4.0, temperature=1.2),
]


@pytest.mark.parametrize("pair", list(itertools.combinations(PAIRED, 2)), ids="+".join)
def test_every_pair_of_options_gives_batch_rows_equal_to_solo_runs(
    storyteller_model: ortgpt.Model, pair: tuple[str, str]
) -> None:
    """FAULTS 35"""
    options = {name: PAIRED[name] for name in pair}
    strategy = STRATEGIES[sum(map(ord, "".join(pair))) % len(STRATEGIES)]
    batch = storyteller_model.generate_batch(PROMPTS[:3], strategy, seed=2, max_new_tokens=12, **options)
    for index, result in enumerate(batch):
        alone = storyteller_model.generate(
            PROMPTS[index], strategy, seed=2 + index, max_new_tokens=12, **options
        )
        if "prompt_lookup" in pair:  # how many guesses share a pass shows in a logit's last bits
            assert [choice.text for choice in result.choices] == [choice.text for choice in alone.choices]
            assert [choice.token_ids for choice in result.choices] == [c.token_ids for c in alone.choices]
        else:
            assert result.choices == alone.choices


@pytest.mark.parametrize("strategy", STRATEGIES[4:], ids=["cutoffs", "xtc", "mirostat"])
def test_what_a_sampled_row_remembers_is_its_own(
    storyteller_model: ortgpt.Model, strategy: ortgpt.Sampling
) -> None:
    batch = storyteller_model.generate_batch(PROMPTS, strategy, seed=3, n=2, max_new_tokens=30)
    for index, result in enumerate(batch):
        alone = storyteller_model.generate(PROMPTS[index], strategy, seed=3 + index, n=2, max_new_tokens=30)
        assert result.choices == alone.choices
        first = storyteller_model.generate(PROMPTS[index], strategy, seed=3 + index, max_new_tokens=30)
        assert first.choices[0] == alone.choices[0]
        assert alone.choices[0].text != alone.choices[1].text


FORCED_STRATEGIES = [
    ortgpt.Greedy(),
    ortgpt.Sampling(),
    ortgpt.BeamSearch(num_beams=3),
    ortgpt.ContrastiveSearch(),
]


@pytest.mark.parametrize("strategy", FORCED_STRATEGIES, ids=lambda one: type(one).__name__)
def test_the_first_and_last_token_are_forced_in_every_strategy(
    storyteller_model: ortgpt.Model, strategy: ortgpt.Strategy
) -> None:
    options = {"forced_bos_token_id": 300, "forced_eos_token_id": 0, "stop_token_ids": [0]}
    result = storyteller_model.generate("The fox", strategy, max_new_tokens=8, min_new_tokens=20, **options)
    assert (result.token_ids[0], result.token_ids[-1], len(result.token_ids)) == (300, 0, 8)
    assert result.choices[0].stop_reason == 0


@pytest.mark.parametrize("strategy", FORCED_STRATEGIES, ids=lambda one: type(one).__name__)
def test_the_forced_end_comes_where_the_context_ends(
    tiny_model: ortgpt.Model, strategy: ortgpt.Strategy
) -> None:
    result = tiny_model.generate(
        [5] * 60, strategy, stop_token_ids=[], forced_eos_token_id=7, max_new_tokens=100
    )
    assert result.token_ids[-1] == 7
    assert result.finish_reason == "length"


@pytest.mark.parametrize("strategy", FORCED_STRATEGIES, ids=lambda one: type(one).__name__)
def test_suppressed_tokens_never_come_in_any_strategy(
    storyteller_model: ortgpt.Model, strategy: ortgpt.Strategy
) -> None:
    few = [token_id for token_id in range(4096) if token_id not in (300, 301)]
    result = storyteller_model.generate("The fox", strategy, max_new_tokens=20, suppress_tokens=few, seed=1)
    assert set(result.token_ids) <= {300, 301}


def test_dry_breaks_a_loop_unless_a_breaker_stands_in_it(storyteller_model: ortgpt.Model) -> None:
    prompt = "row, row, row, row, row, row,"
    loop = storyteller_model.generate(prompt, max_new_tokens=16).text
    assert loop.count(" and the other,") > 2
    dry = {"max_new_tokens": 16, "dry_multiplier": 100.0, "dry_allowed_length": 4}
    assert storyteller_model.generate(prompt, **dry).text.count(" and the other,") <= 2
    assert storyteller_model.generate(prompt, **dry, dry_sequence_breakers=[","]).text == loop


def test_a_sequence_bias_draws_a_text_in(storyteller_model: ortgpt.Model) -> None:
    options = {"max_new_tokens": 20, "sequence_bias": {"golden": 50.0}}
    assert " golden" in storyteller_model.generate("The fox found a", **options).text


def test_a_growing_stop_score_ends_a_text_early(storyteller_model: ortgpt.Model) -> None:
    comma = 12
    free = storyteller_model.generate("The fox", stop_token_ids=[comma], max_new_tokens=60)
    decay = storyteller_model.generate(
        "The fox",
        stop_token_ids=[comma],
        max_new_tokens=60,
        exponential_decay_length_penalty=(2, 2.0),
    )
    assert len(decay.token_ids) < len(free.token_ids)
    assert decay.token_ids[-1] == comma


def test_probe_finds_a_tokenizer_of_another_model(storyteller_bundle: Path, tmp_path: Path) -> None:
    """FAULTS 19: two ids swapped, digests made right again."""
    bundle = tmp_path / "bundle"
    shutil.copytree(storyteller_bundle, bundle)
    manifest = json.loads((bundle / "manifest.json").read_text())
    tokenizer = json.loads((bundle / "tokenizer.json").read_text())
    first, second = manifest["probe"]["token_ids"][:2]
    vocab = tokenizer["model"]["vocab"]
    by_id = {token_id: token for token, token_id in vocab.items()}
    vocab[by_id[first]], vocab[by_id[second]] = second, first
    rewrite(bundle, "tokenizer.json", json.dumps(tokenizer).encode())
    with pytest.raises(ortgpt.BundleIntegrityError, match="probe"):
        ortgpt.load(bundle)


def test_probe_finds_weights_of_another_model(make_bundle: MakeBundle, tmp_path: Path) -> None:
    """FAULTS 19"""
    bundle = tmp_path / "bundle"
    shutil.copytree(make_bundle(), bundle)
    other = make_bundle(seed=1) / "decoder.onnx.data"
    rewrite(bundle, "decoder.onnx.data", other.read_bytes())
    with pytest.raises(ortgpt.BundleIntegrityError, match="probe"):
        ortgpt.load(bundle)


def rewrite(bundle: Path, name: str, data: bytes) -> None:
    """Replace a file and make the manifest agree, as an attacker or a careless script would."""
    import hashlib

    (bundle / name).write_bytes(data)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_a_bundle_in_the_hubs_cache_layout_loads_and_writes_the_same(
    storyteller_bundle: Path, storyteller_model: ortgpt.Model, tmp_path: Path
) -> None:
    """FAULTS 5: every file a link into the blobs folder of the same repository."""
    blobs, snapshot = tmp_path / "models--org--name" / "blobs", tmp_path / "models--org--name/snapshots/abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in storyteller_bundle.iterdir():
        shutil.copy(path, blobs / f"blob-{path.name}")
        (snapshot / path.name).symlink_to(f"../../blobs/blob-{path.name}")
    with ortgpt.load(snapshot, threads=1) as model:
        text = model.generate("The fox", SAMPLED, seed=1, max_new_tokens=30).text
    assert text == storyteller_model.generate("The fox", SAMPLED, seed=1, max_new_tokens=30).text


def test_importing_and_running_leaves_heavy_packages_out(storyteller_bundle: Path) -> None:
    """FAULTS 70"""
    code = (
        "import sys, ortgpt\n"
        "assert 'numpy' not in sys.modules and 'onnxruntime' not in sys.modules\n"
        f"model = ortgpt.load({str(storyteller_bundle)!r})\n"
        "model.generate('The fox', ortgpt.Sampling(top_p=0.9), max_new_tokens=3, n=2, logprobs=1)\n"
        "model.score('The fox'); model.generate_batch(['a', 'b'], max_new_tokens=2)\n"
        "heavy = {'torch', 'transformers', 'onnx', 'safetensors', 'huggingface_hub', 'ortgpt_export'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"

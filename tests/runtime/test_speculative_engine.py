"""Guessed tokens through the engine: the same results, whatever guesses and wherever it ends.

Texts may differ where the rounding of another matrix shape decides a tie, and only there: greedy, where
two logits are within 1e-5 of each other; sampled, where the drawn number is within 1e-5 of the border
between two tokens.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import ortgpt
from ortgpt.inference.fused_decoder import FusedDecoder
from ortgpt.interfaces import Outputs
from ortgpt.logits.pipeline import make_warpers
from ortgpt.numerics import softmax
from ortgpt_export.exporter import export_checkpoint

MakeBundle = Callable[..., Path]

STARTS = [
    "The king",
    "Once upon a time",
    "A fox",
    "In the wood",
    '"I am',
    "She said",
    "There was",
    "When the",
]
MIDDLES = [" who", " and the", ", said the wolf,", " went to", " had three"]
ENDS = ["", " sons", " a golden apple", " home", " to the sea and"]
PROMPTS = ["".join(parts) for parts in itertools.product(STARTS, MIDDLES, ENDS)]  # 200
SAMPLED = ortgpt.Sampling(temperature=0.8, top_p=0.9)


def write_draft(storyteller: Path, folder: Path, *, layers: int, noise: float) -> Path:
    """A bundle of the storyteller's first layers, with noise on the weights."""
    checkpoint = folder / "checkpoint"
    shutil.copytree(storyteller, checkpoint, ignore=shutil.ignore_patterns("*.py"))
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "n_layer": layers}))
    rng = np.random.default_rng(0)
    weights = {}
    for name, tensor in load_file(checkpoint / "model.safetensors").items():
        place = name.split(".h.")
        if len(place) == 1 or int(place[1].split(".")[0]) < layers:
            scale = noise * float(tensor.std())
            weights[name] = (tensor + scale * rng.standard_normal(tensor.shape)).astype(np.float32)
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    export_checkpoint(str(checkpoint), folder / "bundle", verify="none")
    return folder / "bundle"


@pytest.fixture(scope="module")
def drafts(
    storyteller: Path, storyteller_model: ortgpt.Model, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, ortgpt.Model]]:
    """By how well they guess: the model itself, one with noise, and a small one."""
    noisy, small = (tmp_path_factory.mktemp("draft") for _ in range(2))
    with (
        ortgpt.load(write_draft(storyteller, noisy, layers=6, noise=0.05), threads=1) as noisy_model,
        ortgpt.load(write_draft(storyteller, small, layers=5, noise=0.0), threads=1) as small_model,
    ):
        yield {"itself": storyteller_model, "noisy": noisy_model, "small": small_model}


@pytest.fixture
def free_drafts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drafts at no cost, so that these models, which are no smaller, are used at all."""
    monkeypatch.setattr(ortgpt.Model, "_draft_cost", lambda *_: 0.0)


class Passes:
    """Counts the runs of decoders, and their positions."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.widths: list[tuple[FusedDecoder, int]] = []
        original = FusedDecoder.extend

        def extend(decoder: FusedDecoder, token_ids: Any, **options: Any) -> Outputs:
            self.widths.append((decoder, max(map(len, token_ids))))
            return original(decoder, token_ids, **options)

        monkeypatch.setattr(FusedDecoder, "extend", extend)

    def count(self) -> int:
        """Passes of the last generation's own decoder, the one that ran first."""
        first = self.widths[0][0]
        return sum(decoder is first for decoder, _ in self.widths)


def last_scores(model: ortgpt.Model, ids: Sequence[int]) -> np.ndarray:
    decoder = model.decoder()
    return decoder.extend([ids]).logits[0, -1].copy()


def is_tie(
    model: ortgpt.Model, prompt: Sequence[int], plain: Sequence[int], other: Sequence[int], seed: int | None
) -> bool:
    """Whether where the two part, both were to be had. seed: of SAMPLED; None: greedy."""
    place = next(i for i, pair in enumerate(zip(plain, other, strict=False)) if pair[0] != pair[1])
    scores = last_scores(model, [*prompt, *plain[:place]])
    chosen = [plain[place], other[place]]
    if seed is None:
        return bool(np.ptp(scores[chosen]) < 1e-5)
    rng = np.random.default_rng([seed, 0])
    drawn = [rng.random() for _ in range(place + 1)][-1]
    ends = softmax(make_warpers(SAMPLED, rng)(np.array(prompt), scores)).cumsum()
    begins = np.concatenate([[0.0], ends[:-1]])
    return all(begins[i] - 1e-5 <= drawn <= ends[i] + 1e-5 for i in chosen)


def assert_same_but_for_ties(
    model: ortgpt.Model, plain: list[ortgpt.Result], drafted: list[ortgpt.Result], *, sampled: bool
) -> None:
    differing = 0
    for one, other in zip(plain, drafted, strict=True):
        if one.token_ids != other.token_ids:
            seed = one.seed if sampled else None
            assert is_tie(model, one.prompt_token_ids, one.token_ids, other.token_ids, seed)
            differing += 1
        else:
            assert (one.text, one.finish_reason) == (other.text, other.finish_reason)
    assert differing <= max(1, len(plain) // 50)


LENGTH = 40


@pytest.fixture(scope="module")
def plain_texts(storyteller_model: ortgpt.Model) -> dict[object, list[ortgpt.Result]]:
    """Of all prompts, undrafted, by strategy."""
    return {
        strategy: storyteller_model.generate_batch(PROMPTS, strategy, max_new_tokens=LENGTH, seed=3)
        for strategy in (ortgpt.Greedy(), SAMPLED)
    }


@pytest.mark.parametrize("strategy", [ortgpt.Greedy(), SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("kind", ["prompt_lookup", "itself", "noisy", "small"])
def test_200_prompts_give_the_same_texts_with_and_without_guesses(
    storyteller_model: ortgpt.Model,
    plain_texts: dict[object, list[ortgpt.Result]],
    drafts: dict[str, ortgpt.Model],
    free_drafts: None,
    kind: str,
    strategy: ortgpt.Sampling,
) -> None:
    """In batches."""
    fields: dict[str, Any] = {"prompt_lookup": True} if kind == "prompt_lookup" else {"draft": drafts[kind]}
    drafted = storyteller_model.generate_batch(
        PROMPTS, strategy, max_new_tokens=LENGTH, seed=3, num_draft_tokens=4, **fields
    )
    is_sampled = strategy == SAMPLED
    assert_same_but_for_ties(storyteller_model, plain_texts[strategy], drafted, sampled=is_sampled)


@pytest.mark.parametrize("strategy", [ortgpt.Greedy(), SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize(("kind", "share"), [("itself", 0.3), ("noisy", 0.8)])
def test_a_draft_model_that_agrees_saves_passes(
    storyteller_model: ortgpt.Model,
    plain_texts: dict[object, list[ortgpt.Result]],
    drafts: dict[str, ortgpt.Model],
    free_drafts: None,
    kind: str,
    share: float,
    strategy: ortgpt.Sampling,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Prompts alone; one that is the model itself is right but for ties, so a pass makes five tokens."""
    results, num_passes = [], 0
    for index, prompt in enumerate(PROMPTS[::20]):
        with monkeypatch.context() as patch:
            passes = Passes(patch)
            results.append(
                storyteller_model.generate(
                    prompt,
                    strategy,
                    max_new_tokens=LENGTH,
                    seed=3 + 20 * index,
                    draft=drafts[kind],
                    num_draft_tokens=4,
                )
            )
            num_passes += passes.count()
    plain = plain_texts[strategy][::20]
    assert_same_but_for_ties(storyteller_model, plain, results, sampled=strategy == SAMPLED)
    assert num_passes < share * sum(len(result.token_ids) for result in plain)


def test_text_that_repeats_itself_takes_a_fraction_of_the_passes(
    storyteller_model: ortgpt.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = "Once upon a time there was a king. "
    asked: dict[str, Any] = {"max_new_tokens": 250, "stop_token_ids": []}
    plain = storyteller_model.generate(prompt, **asked)
    passes = Passes(monkeypatch)
    drafted = storyteller_model.generate(prompt, prompt_lookup=True, **asked)
    assert drafted.token_ids == plain.token_ids
    assert passes.count() < 250 / 2.5


def test_text_that_does_not_repeat_itself_takes_hardly_more_positions(
    storyteller_model: ortgpt.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {"max_new_tokens": 300, "stop_token_ids": [], "no_repeat_ngram_size": 3}
    for seed in range(3):
        passes = Passes(monkeypatch)
        storyteller_model.generate("The fox", ortgpt.Sampling(), seed=seed, prompt_lookup=True, **asked)
        positions = sum(width for _, width in passes.widths[1:])
        wasted = positions - 299
        assert 0 < wasted < 0.1 * 299


OPTIONS: list[dict[str, Any]] = [
    {},
    {"stop": ["the ", " said", '."']},
    {"stop_token_ids": [14, 0], "min_new_tokens": 5},
    {"repetition_penalty": 1.1, "presence_penalty": 0.1, "dry_multiplier": 0.5},
    {"echo": True, "stop": ["w"], "logprobs": 2},
    {"bad_words": ["king"], "logit_bias": {14: 1.0}, "forced_eos_token_id": 0},
    {"constraints": [ortgpt.Keywords(["dragon", "golden key"]), ortgpt.Forbidden(["the"])]},
    {"constraints": [ortgpt.Regex("( [a-z]+){3,30}"), ortgpt.Keywords(["dragon"])]},
    {"constraints": [ortgpt.JSONSchema({"type": "array", "items": {"type": "string", "maxLength": 8}})]},
    {"guidance_scale": 1.5, "token_healing": True},
]
STRATEGIES = [
    ortgpt.Greedy(),
    SAMPLED,
    ortgpt.Sampling(mirostat_tau=3.0),
    ortgpt.Sampling(top_p=0.9, xtc_probability=0.3),
]


@pytest.mark.parametrize("kind", ["prompt_lookup", "small"])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "+".join(options) or "plain")
def test_choices_are_the_same_with_every_option_and_streamed(
    storyteller_model: ortgpt.Model,
    drafts: dict[str, ortgpt.Model],
    free_drafts: None,
    kind: str,
    strategy: ortgpt.Sampling,
    options: dict[str, Any],
) -> None:
    prompt = "The king said to the king's daughter, and the king's"
    fields: dict[str, Any] = {"prompt_lookup": True} if kind == "prompt_lookup" else {"draft": drafts[kind]}
    asked = {"max_new_tokens": 40, "seed": 7, "n": 2, **options}
    plain = storyteller_model.generate(prompt, strategy, **asked)
    stream = storyteller_model.stream(prompt, strategy, **asked, **fields)
    events = list(stream)
    for one, other in zip(plain.choices, stream.result.choices, strict=True):
        assert (one.token_ids, one.text) == (other.token_ids, other.text)
        assert (one.finish_reason, one.stop_reason) == (other.finish_reason, other.stop_reason)
        assert one.score == pytest.approx(other.score, abs=1e-4)
        for entry, twin in zip(one.logprobs or (), other.logprobs or (), strict=True):
            assert (entry.id, len(entry.top)) == (twin.id, len(twin.top))
            assert entry.logprob == pytest.approx(twin.logprob, abs=1e-4)
            for alternative, same in zip(entry.top, twin.top, strict=True):
                assert alternative.logprob == pytest.approx(same.logprob, abs=1e-4)
        own = [event for event in events if event.index == one.index]
        assert "".join(event.text for event in own) == one.text
        assert all(len(event.token_ids) == 1 for event in own)
        assert sum((event.token_ids for event in own), ()) == one.token_ids
        assert [event.finish_reason for event in own[:-1]] == [None] * (len(own) - 1)
        assert own[-1].finish_reason == one.finish_reason


def test_a_stop_string_and_a_length_inside_a_right_draft_end_the_text_there(
    storyteller_model: ortgpt.Model,
) -> None:
    """Its own text twice over is a prompt whose guesses are right; it may end after any token of them."""
    text = storyteller_model.generate("Once upon a time there was a king. ", max_new_tokens=120).token_ids
    prompt = list(text[:100])
    whole = storyteller_model.generate(prompt, max_new_tokens=40).token_ids
    for count in range(1, 25):
        ended = storyteller_model.generate(prompt, max_new_tokens=count, prompt_lookup=True)
        assert (ended.token_ids, ended.finish_reason) == (whole[:count], "length")
        stop_id = whole[count - 1]
        first = whole.index(stop_id) + 1
        ended = storyteller_model.generate(
            prompt, max_new_tokens=40, stop_token_ids=[stop_id], prompt_lookup=True
        )
        assert (ended.token_ids, ended.finish_reason) == (whole[:first], "stop")


@pytest.mark.parametrize("kind", ["prompt_lookup", "small"])
def test_the_context_is_used_to_its_last_token(
    storyteller_model: ortgpt.Model, drafts: dict[str, ortgpt.Model], free_drafts: None, kind: str
) -> None:
    fields: dict[str, Any] = {"prompt_lookup": True} if kind == "prompt_lookup" else {"draft": drafts[kind]}
    prompt = storyteller_model.tokenizer.encode("and the king had a daughter, " * 90)[:495]
    asked: dict[str, Any] = {"max_new_tokens": 100, "stop_token_ids": []}
    drafted = storyteller_model.generate(prompt, **asked, **fields)
    assert len(drafted.token_ids) == 512 - 495 + 1
    assert drafted.token_ids == storyteller_model.generate(prompt, **asked).token_ids
    prompts = [prompt, prompt[:300], prompt[:12]]
    batch = storyteller_model.generate_batch(prompts, **asked, **fields)
    plain = storyteller_model.generate_batch(prompts, **asked)
    assert [one.token_ids for one in batch] == [one.token_ids for one in plain]


def test_a_draft_model_may_have_a_shorter_context_and_more_ids(make_bundle: MakeBundle) -> None:
    with (
        ortgpt.load(make_bundle(), threads=1) as model,
        ortgpt.load(make_bundle(n_positions=16, n_layer=1, vocab_size=300), threads=1) as draft,
    ):
        for strategy, prompt in itertools.product((None, SAMPLED), ("ab", "a" * 30)):
            asked: dict[str, Any] = {"max_new_tokens": 40, "seed": 1, "stop_token_ids": []}
            plain = model.generate(prompt, strategy, **asked)
            assert model.generate(prompt, strategy, draft=draft, **asked).token_ids == plain.token_ids


def test_bundles_without_ragged_widths_draft_too(make_bundle: MakeBundle, free_drafts: None) -> None:
    with ortgpt.load(make_bundle(onnxruntime_floor="1.31"), threads=1) as model:
        prompts = ["ab", "abcabcabc", "x"]
        asked: dict[str, Any] = {"max_new_tokens": 40, "seed": 1, "stop_token_ids": []}
        for strategy in (None, SAMPLED):
            plain = model.generate_batch(prompts, strategy, **asked)
            for fields in ({"prompt_lookup": True}, {"draft": model}):
                drafted = model.generate_batch(prompts, strategy, **asked, **fields)  # type: ignore[arg-type]
                assert [one.token_ids for one in drafted] == [one.token_ids for one in plain]


def test_a_time_limit_ends_a_drafted_text_after_a_token(storyteller_model: ortgpt.Model) -> None:
    result = storyteller_model.generate("The king", max_time=0.0, prompt_lookup=True)
    assert len(result.token_ids) == 1
    assert result.choices[0].stop_reason == "max_time"


@pytest.mark.parametrize("way", ["end", "close", "drop"])
def test_every_decoder_is_released_in_the_end(
    storyteller_model: ortgpt.Model,
    drafts: dict[str, ortgpt.Model],
    free_drafts: None,
    way: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, released = [], []
    create, release = ortgpt.Model.decoder, FusedDecoder.release
    monkeypatch.setattr(ortgpt.Model, "decoder", lambda *args, **kw: made.append(1) or create(*args, **kw))
    monkeypatch.setattr(FusedDecoder, "release", lambda decoder: released.append(1) or release(decoder))
    stream = storyteller_model.stream("The king", draft=drafts["small"], max_new_tokens=20)
    for _ in range(4) if way != "end" else range(20):
        next(stream)
    if way == "end":
        assert next(stream, None) is None
    elif way == "close":
        stream.close()
    else:
        del stream
    assert len(made) == len(released) == 2


def test_an_error_in_the_draft_model_releases_both_decoders(
    storyteller_model: ortgpt.Model,
    storyteller_bundle: Path,
    free_drafts: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    released = []
    release = FusedDecoder.release
    monkeypatch.setattr(FusedDecoder, "release", lambda decoder: released.append(1) or release(decoder))
    with ortgpt.load(storyteller_bundle, threads=1, verify=False) as draft:
        stream = storyteller_model.stream("The king", draft=draft)
        next(stream)
    with pytest.raises(ortgpt.OrtgptError, match="the model is closed"):
        list(stream)
    assert len(released) == 2


def test_a_closed_draft_model_is_an_error_before_the_model_runs(
    storyteller_model: ortgpt.Model, storyteller_bundle: Path
) -> None:
    draft = ortgpt.load(storyteller_bundle, threads=1, verify=False)
    draft.close()
    for call in (
        storyteller_model.stream,
        lambda p, **options: storyteller_model.generate_batch([p], **options),
    ):
        with pytest.raises(ortgpt.OrtgptError, match="the draft model is closed"):
            call("The king", draft=draft)


@pytest.mark.parametrize(
    "strategy",
    [ortgpt.BeamSearch(), ortgpt.BeamSearch(num_beams=1), ortgpt.ContrastiveSearch()],
    ids=["beams", "one beam", "contrastive"],
)
def test_other_strategies_refuse_guesses(
    storyteller_model: ortgpt.Model, strategy: ortgpt.BeamSearch
) -> None:
    for name, value in (("prompt_lookup", True), ("draft", storyteller_model)):
        with pytest.raises(ortgpt.OptionError, match=f"{name} is for greedy decoding and sampling"):
            storyteller_model.stream("The king", strategy, **{name: value})  # type: ignore[arg-type]


def with_swapped_ids(bundle: Path, folder: Path) -> Path:
    """The same bundle with a tokenizer that has two ids the other way round."""
    shutil.copytree(bundle, folder)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocab = tokenizer["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    path.write_text(json.dumps(tokenizer))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["tokenizer.json"]["size"] = path.stat().st_size
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_a_draft_model_has_to_speak_the_models_ids(
    storyteller_model: ortgpt.Model, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    bundle = make_bundle()
    swapped = with_swapped_ids(bundle, tmp_path / "swapped")
    with (
        ortgpt.load(bundle, threads=1) as model,
        ortgpt.load(swapped, threads=1, verify=False) as other,
        ortgpt.load(make_bundle(vocab_size=300), threads=1) as padded,
    ):
        cases = [
            (model, storyteller_model, "draft has a tokenizer of 4096 ids, the model's has 257"),
            (model, other, "draft has another tokenizer: its id .* stands for another text"),
            (padded, model, "draft has a vocabulary of 257 ids, the model's has 300"),
            (model, FakeDraft(), "draft must be a loaded model, got "),
        ]
        for target, draft, message in cases:
            with pytest.raises(ortgpt.OptionError, match=message) as caught:
                target.stream("ab", draft=draft)  # type: ignore[arg-type]
            assert caught.value.option == "draft"
        assert model.generate("ab", draft=padded, max_new_tokens=3).token_ids


class FakeDraft:
    """Looks like a model and is none."""

    def decoder(self, rows: int = 1) -> None:
        raise AssertionError

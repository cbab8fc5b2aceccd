"""What the export says of a quantised bundle, against slow versions in float64."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from checkpoints import byte_tokenizer

import ortgpt
from ortgpt.errors import BundleError, OptionError
from ortgpt_export import quality
from ortgpt_export.quality import (
    KL_LIMITS,
    GivenText,
    kl_divergence,
    measure_perplexity,
    measure_quality,
    next_logits,
    read_text,
    sample_texts,
)


@pytest.fixture(scope="module")
def reference(make_bundle) -> ortgpt.Model:
    return ortgpt.load(make_bundle(), threads=1)


@pytest.fixture(scope="module")
def model(make_bundle) -> ortgpt.Model:
    return ortgpt.load(make_bundle(precision="int4"), threads=1)


def distribution(logits: np.ndarray) -> list[float]:
    values = [math.exp(float(x) - float(logits.max())) for x in logits]
    return [value / math.fsum(values) for value in values]


def test_divergence_is_the_sum_over_the_whole_vocabulary() -> None:
    rng = np.random.default_rng(0)
    expected = (3 * rng.standard_normal((4, 50))).astype(np.float32)
    logits = (expected + rng.standard_normal((4, 50))).astype(np.float32)
    for row, found in enumerate(kl_divergence(expected, logits)):
        p, q = distribution(expected[row]), distribution(logits[row])
        slow = math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        assert found == pytest.approx(slow, rel=1e-4)
    assert kl_divergence(expected, expected).tolist() == [0] * 4
    assert np.abs(kl_divergence(expected, expected + 5)).max() < 1e-5, "a shift of all logits is no change"


def test_quality_is_that_of_every_place_of_every_text(model, reference) -> None:
    texts = [tuple(np.random.default_rng(i).integers(0, 257, 5 + 29 * i).tolist()) for i in range(3)]
    seen: list[tuple[int, int]] = []
    found = measure_quality(model, reference, texts, lambda *done: seen.append(done))
    divergences, same = [], []
    for text in texts:
        ours, theirs = next_logits(model, text), next_logits(reference, text)
        assert ours.shape == theirs.shape == (len(text), 257)
        for a, b in zip(theirs, ours, strict=True):
            p, q = distribution(a), distribution(b)
            divergences.append(math.fsum(x * math.log(x / y) for x, y in zip(p, q, strict=True)))
            same.append(max(range(257), key=p.__getitem__) == max(range(257), key=q.__getitem__))
    assert (found.texts, found.tokens) == (3, 102)
    assert found.kl_divergence == pytest.approx(math.fsum(divergences) / 102, rel=1e-3)
    assert found.kl_divergence > 1e-3, "else nothing would be compared"
    assert found.top1_agreement == pytest.approx(sum(same) / 102)
    assert 0 < found.top1_agreement < 1
    assert found.perplexity is None
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_model_loses_nothing_against_itself(model) -> None:
    found = measure_quality(model, model, sample_texts(model, num_texts=2, length=20))
    assert (found.kl_divergence, found.top1_agreement) == (0, 1)


def test_next_logits_follow_each_token(reference) -> None:
    decoder = reference.decoder()
    steps = [decoder.extend([[token]]).logits[0, 0].copy() for token in (3, 7, 200)]
    assert np.abs(next_logits(reference, [3, 7, 200]) - np.stack(steps)).max() < 1e-5


@pytest.mark.parametrize("precision", KL_LIMITS)
def test_a_limit_is_far_above_what_the_issue_asks_for_and_stops_the_export(precision) -> None:
    wanted = {"int8": 0.002, "int8-dynamic": 0.01, "int4": 0.05}.get(precision, 1e-4)
    assert 5 * wanted <= KL_LIMITS[precision] <= 1


@pytest.mark.parametrize("divergence", [0.6, math.inf, math.nan])
def test_beyond_the_limit_or_not_a_number_is_a_bundle_error(
    divergence, model, reference, monkeypatch
) -> None:
    monkeypatch.setattr(quality, "kl_divergence", lambda expected, _: np.full(len(expected), divergence))
    with pytest.raises(
        BundleError, match=r"nats from the fp32 model's, more than the 0.5 that int4"
    ) as caught:
        measure_quality(model, reference, [(1, 2, 3)])
    assert "--verify none" in str(caught.value.hint)


def test_texts_are_the_models_own_and_the_same_every_time(reference) -> None:
    texts = sample_texts(reference, num_texts=3, length=40)
    assert texts == sample_texts(reference, num_texts=3, length=40)
    assert len(set(texts)) == 3
    assert set(texts).isdisjoint(sample_texts(reference, num_texts=3, length=40, seed=1000))
    for index, text in enumerate(texts):
        assert len(text) == 40
        assert text[0] == 256, "an empty prompt is the bos id"
        alone = reference.generate("", ortgpt.Sampling(), max_new_tokens=39, stop_token_ids=[], seed=index)
        assert text[1:] == alone.token_ids


def test_texts_are_no_longer_than_the_context(make_bundle) -> None:
    for context in (1, 5):
        with ortgpt.load(make_bundle(n_positions=context), threads=1) as model:
            assert {len(text) for text in sample_texts(model)} == {context}


def test_texts_of_a_model_without_bos_and_eos_begin_with_different_tokens(make_bundle) -> None:
    with ortgpt.load(make_bundle(bos_token_id=None, eos_token_id=None), threads=1) as model:
        texts = sample_texts(model, num_texts=4, length=10)
    assert [text[0] for text in texts] == [0, 1, 2, 3]
    assert {len(text) for text in texts} == {10}


def test_perplexity_is_that_of_both_models_in_the_manifests_words(model, reference) -> None:
    content = "Once upon a time there was a fox. " * 5  # 170 bytes, windows of 64 that move by 32
    found = measure_perplexity(model, reference, GivenText("fox.txt", content))
    assert (found.text, found.tokens, found.stride) == ("fox.txt", 170, 32)
    for value, one in ((found.value, model), (found.fp32, reference)):
        ids, total, scored = one.tokenizer.encode(content), 0.0, 1
        for begin in range(0, 170, 32):
            window = ids[begin : begin + 64]
            logits = next_logits(one, window)
            for place in range(max(scored, begin + 1), begin + len(window)):
                total -= math.log(distribution(logits[place - begin - 1])[ids[place]])
            scored = max(scored, begin + len(window))
        assert value == pytest.approx(math.exp(total / 169), rel=1e-3)
    assert found.value != found.fp32


class Tokens:
    """A tokenizer of bytes."""

    def encode(self, text: str) -> list[int]:
        return list(byte_tokenizer().encode(text).ids)


def test_a_text_that_cannot_be_read_is_an_option_error_naming_it(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("Käse".encode("latin-1"))
    for name in ("missing.txt", "latin.txt", "."):
        with pytest.raises(OptionError, match=r"^perplexity_text .* can't be read as UTF-8 text"):
            read_text(tmp_path / name)
    (tmp_path / "good.txt").write_text("Käse", encoding="utf-8")
    assert read_text(tmp_path / "good.txt") == GivenText("good.txt", "Käse")


@pytest.mark.parametrize("content", ["", "a"])
def test_a_text_without_a_token_to_predict_is_an_option_error(content) -> None:
    with pytest.raises(OptionError, match=r"^perplexity_text t.txt has fewer than two tokens"):
        GivenText("t.txt", content).check_length(Tokens())
    GivenText("t.txt", content + "ab").check_length(Tokens())

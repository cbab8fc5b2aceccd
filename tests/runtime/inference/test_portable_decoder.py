"""Whatever the verbs do to its rows, the decoder of portable graphs gives transformers' numbers for each."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from device_stand_in import put_on_stand_in
from onnx import numpy_helper
from portable_bundles import load_portable
from transformers import AutoModelForCausalLM

import ortgpt
from ortgpt.interfaces import Decoder
from ortgpt.testing import FakeDecoder

MakeBundle = Callable[..., Path]

CONTEXT, TOLERANCE = 64, 2e-4
SPOILED = 0  # what one might pad with; no id of the text that `adopt` tries a graph with
VARIANTS: dict[str, dict[str, Any]] = {
    "gpt2": {"hidden_states": True},
    "gpt2 of positions of its own": {"position_ids": False},
    "gpt2 with stacked caches": {"stacked": True, "position_ids": False},
    "gpt2 with stacked caches and positions": {"stacked": True},
    "gpt2, merged": {"merged": True},
    "llama": {"hidden_states": True},
    "gpt_neo": {},
    "opt": {},
    "gemma": {},
    "phi": {},
}


class Reference:
    """transformers, without a cache."""

    def __init__(self, checkpoint: Path) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(checkpoint, attn_implementation="eager").eval()

    def logits(self, *histories: list[int]) -> np.ndarray:
        """(rows, longest, vocab); what is padded behind does not count."""
        return self._run(histories).logits.numpy()

    def hidden(self, *histories: list[int]) -> np.ndarray:
        """(rows, longest, n_embd), after the last norm"""
        return self._run(histories).hidden_states[-1].numpy()

    def _run(self, histories: Sequence[list[int]]) -> Any:
        longest = max(map(len, histories))
        padded = [history + [0] * (longest - len(history)) for history in histories]
        with torch.no_grad():
            return self._model(torch.tensor(padded), output_hidden_states=True)


@pytest.fixture(scope="module", params=VARIANTS)
def directory(request: pytest.FixtureRequest, make_portable: MakeBundle) -> Path:
    return make_portable(request.param.split()[0].strip(","), **VARIANTS[request.param])


@pytest.fixture(scope="module")
def model(directory: Path) -> Iterator[ortgpt.Model]:
    with load_portable(directory) as model:
        yield model


@pytest.fixture(scope="module")
def reference(directory: Path) -> Iterator[Reference]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # of models so small a second one costs more than it gives
    yield Reference(directory.parent / "checkpoint")
    torch.set_num_threads(threads)


def ids(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng([seed, count]).integers(0, 257, count).tolist()


class Walk:
    """A decoder, and what its rows must hold."""

    def __init__(self, decoder: Decoder, reference: Reference, seed: int) -> None:
        self.decoder, self.reference = decoder, reference
        self.histories: list[list[int]] = [[] for _ in range(decoder.num_rows)]
        self.rng = np.random.default_rng(seed)
        self.added = [0] * decoder.num_rows

    def extend(self, most: int) -> None:
        rooms = [CONTEXT - len(history) for history in self.histories]
        if min(rooms) < 1:
            return
        widths = [int(self.rng.integers(1, min(most, room) + 1)) for room in rooms]
        new = [self.rng.integers(0, 257, width).tolist() for width in widths]
        for history, tokens in zip(self.histories, new, strict=True):
            history += tokens
        every = bool(self.rng.integers(2))
        found = self.decoder.extend(new, outputs="all" if every else "last").logits
        wanted = self.reference.logits(*self.histories)
        for row, (history, tokens) in enumerate(zip(self.histories, new, strict=True)):
            expected = wanted[row, len(history) - len(tokens) : len(history)]
            own = found[row, : len(tokens)] if every else found[row]
            assert np.abs(own - (expected if every else expected[-1:])).max() < TOLERANCE
        self.added = widths
        self.check()

    def reorder(self) -> None:
        rows = self.rng.integers(0, len(self.histories), self.rng.integers(1, 6)).tolist()
        self.decoder.reorder(rows)
        self.histories = [list(self.histories[row]) for row in rows]
        self.added = [self.added[row] for row in rows]
        self.check()

    def trim(self) -> None:
        lengths = [int(self.rng.integers(len(history) // 2, len(history) + 1)) for history in self.histories]
        self.decoder.trim(lengths)
        self.histories = [history[:length] for history, length in zip(self.histories, lengths, strict=True)]
        self.added = [0] * len(lengths)
        self.check()

    def keep(self) -> None:
        counts = [int(self.rng.integers(0, added + 1)) for added in self.added]
        self.decoder.keep([list(range(count)) for count in counts])
        self.histories = [
            history[: len(history) - added + count]
            for history, added, count in zip(self.histories, self.added, counts, strict=True)
        ]
        self.added = counts
        self.check()

    def join(self, model: ortgpt.Model) -> None:
        other = Walk(model.decoder(2), self.reference, int(self.rng.integers(1000)))
        other.extend(12)
        self.decoder.join(other.decoder)
        self.histories += other.histories
        self.added += other.added
        assert other.decoder.num_rows == 0
        self.check()

    def check(self) -> None:
        assert self.decoder.num_rows == len(self.histories)
        assert self.decoder.lengths.tolist() == [len(history) for history in self.histories]


@pytest.mark.parametrize("chunk", [256, 5])
def test_every_row_has_transformers_logits_whatever_the_verbs_did(
    directory: Path, reference: Reference, chunk: int
) -> None:
    with load_portable(directory, prefill_chunk=chunk) as model:
        for seed in range(2):
            walk = Walk(model.decoder(3), reference, seed)
            walk.extend(20)
            for step in range(14):
                verb = ["reorder", "trim", "keep", "extend", "extend"][walk.rng.integers(5)]
                if verb == "extend":
                    walk.extend(7)
                else:
                    getattr(walk, verb)()
                walk.extend(1)
                if step == 7:
                    walk.join(model)


def test_the_cache_of_a_device_is_moved_there_alike(directory: Path, reference: Reference) -> None:
    with load_portable(directory) as model:
        put_on_stand_in(model._session)
        walk = Walk(model.decoder(3), reference, 7)
        walk.extend(20)
        for verb in ("reorder", "trim", "keep", "extend"):
            walk.extend(5) if verb == "extend" else getattr(walk, verb)()
            walk.extend(1)
        walk.join(model)
        walk.extend(3)


def test_many_steps_cross_every_growth_of_the_cache(model: ortgpt.Model, reference: Reference) -> None:
    tokens = ids(CONTEXT)
    decoder = model.decoder()
    found = [decoder.extend([tokens[:3]], outputs="all").logits[0].copy()]
    found += [decoder.extend([[token]]).logits[0].copy() for token in tokens[3:]]
    assert np.abs(np.concatenate(found) - reference.logits(tokens)[0]).max() < TOLERANCE
    with pytest.raises(ortgpt.ContextLengthError, match="65 tokens, the context is 64"):
        decoder.extend([[1]])


def test_rows_that_together_would_pass_the_context_run_apart(
    model: ortgpt.Model, reference: Reference
) -> None:
    long, short = ids(50), ids(4, seed=1)
    decoder = model.decoder(2)
    decoder.extend([long, short])
    new = [ids(10, seed=2), ids(55, seed=3)]
    found = decoder.extend(new, outputs="all").logits
    for row, before in enumerate((long, short)):
        expected = reference.logits(before + new[row])[0, len(before) :]
        assert np.abs(found[row, : len(new[row])] - expected).max() < TOLERANCE
    decoder.trim([20, 30])
    expected = [reference.logits([*long[:20], 7])[0, -1], reference.logits([*short, *new[1][:26], 8])[0, -1]]
    assert np.abs(decoder.extend([[7], [8]]).logits[:, 0] - expected).max() < TOLERANCE


def test_rows_that_ran_apart_come_together_again_in_their_order(
    model: ortgpt.Model, reference: Reference
) -> None:
    histories = [ids(40), ids(7), ids(7, seed=1)]
    decoder = model.decoder(3)
    decoder.extend(histories)
    decoder.extend([[1], ids(40, seed=2), [2]])  # the long ones together would pass the context
    decoder.reorder([0, 1, 0])
    decoder.trim([9, 9, 9])
    second = [*histories[1], *ids(40, seed=2)[:2]]
    expected = reference.logits([*histories[0][:9], 3], [*second, 4], [*histories[0][:9], 5])[:, -1]
    assert np.abs(decoder.extend([[3], [4], [5]]).logits[:, 0] - expected).max() < TOLERANCE


def test_a_fork_and_its_origin_go_different_ways(model: ortgpt.Model, reference: Reference) -> None:
    decoder = model.decoder(2)
    decoder.extend([ids(20), ids(9)])
    fork = decoder.fork()
    there = fork.extend([[1], [2]]).logits.copy()
    here = decoder.extend([[3], [4]]).logits.copy()
    for found, new in ((there, (1, 2)), (here, (3, 4))):
        expected = [reference.logits([*ids(20), new[0]])[0, -1], reference.logits([*ids(9), new[1]])[0, -1]]
        assert np.abs(found[:, 0] - expected).max() < TOLERANCE


def test_tokens_are_kept_in_the_order_in_which_they_are_named(model: ortgpt.Model) -> None:
    """So that `trim` afterwards drops the one that was named last."""
    decoder = model.decoder(2)
    decoder.extend([ids(9), ids(5)])
    decoder.extend([[1, 2, 3], [4, 5]], outputs="all")
    decoder.keep([[2, 0], [1]])
    assert decoder.lengths.tolist() == [11, 6]
    decoder.trim([9, 5])
    fresh = model.decoder(2)
    fresh.extend([ids(9), ids(5)])
    assert np.abs(decoder.extend([[7], [7]]).logits - fresh.extend([[7], [7]]).logits).max() < TOLERANCE


def test_hidden_states_are_those_after_the_last_norm(model: ortgpt.Model, reference: Reference) -> None:
    decoder = model.decoder(2)
    if not model.manifest.portable.hidden_states:  # type: ignore[union-attr]
        assert not decoder.capabilities.hidden_states
        with pytest.raises(ortgpt.OptionError, match="hidden"):
            decoder.extend([[1], [2]], hidden=True)
        return
    tokens = [ids(20), ids(7)]
    found = decoder.extend(tokens, hidden=True)
    assert found.hidden is not None
    for row, history in enumerate(tokens):
        assert np.abs(found.hidden[row, : len(history)] - reference.hidden(history)[0]).max() < TOLERANCE
    assert decoder.extend([[1], [2]]).hidden is None
    last = decoder.extend([[3], [4]], hidden=True).hidden
    assert last is not None
    assert np.abs(last[0, 0] - reference.hidden([*tokens[0], 1, 3])[0, -1]).max() < TOLERANCE


@pytest.fixture(scope="module")
def spoiled(make_portable: MakeBundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ortgpt.Model]:
    """A gpt2 in which every text with the id SPOILED has NaN for logits from there on."""
    directory = tmp_path_factory.mktemp("spoiled") / "export"
    shutil.copytree(make_portable("gpt2", hidden_states=True), directory)
    model = onnx.load(directory / "model.onnx")
    table = next(one for one in model.graph.initializer if one.name.endswith("wte.weight"))
    values = numpy_helper.to_array(table).copy()
    values[SPOILED] = np.nan
    table.CopyFrom(numpy_helper.from_array(values, table.name))
    onnx.save(model, directory / "model.onnx")
    with load_portable(directory) as loaded:
        yield loaded


def test_a_row_of_nan_leaves_the_others_alone_and_recovers_when_it_is_trimmed(spoiled: ortgpt.Model) -> None:
    prompts = [ids(9), [1, 2, SPOILED, 4], [5, 6, 7, 8, 9, 10, 11, 12]]
    decoder = spoiled.decoder(3)
    assert np.isfinite(decoder.extend([row[:2] for row in prompts]).logits).all()
    logits = decoder.extend([row[2:] for row in prompts]).logits
    assert [bool(np.isfinite(row).all()) for row in logits] == [True, False, True]
    logits = decoder.extend([[20], [21], [22]]).logits.copy()
    for row in (0, 2):
        alone = spoiled.decoder()
        expected = alone.extend([[*prompts[row], 20 + row]]).logits[0]
        assert np.abs(logits[row] - expected).max() < TOLERANCE
    decoder.trim([9, 2, 8])
    recovered = decoder.extend([[30], [31], [32]]).logits[1]
    assert np.abs(recovered - spoiled.decoder().extend([[1, 2, 31]]).logits[0]).max() < TOLERANCE


def test_only_another_decoder_of_the_same_model_can_join(model: ortgpt.Model) -> None:
    decoder = model.decoder()
    for other in (decoder, FakeDecoder(257, 64)):
        with pytest.raises(ortgpt.OptionError, match="another decoder of the same model"):
            decoder.join(other)  # type: ignore[arg-type]
    with pytest.raises(ortgpt.OptionError, match="siblings"):
        decoder.extend([[1, 2]], siblings=True)


@pytest.mark.parametrize("bad", [[[-1]], [[257]], [[]], [[1], [2]], np.array([[257]]), np.zeros((0, 1))])
def test_bad_ids_are_refused_before_the_graph_sees_them(model: ortgpt.Model, bad: Any) -> None:
    with pytest.raises(ortgpt.OptionError, match="token_ids"):
        model.decoder().extend(bad)

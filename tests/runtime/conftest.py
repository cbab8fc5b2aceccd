"""A model that runs on fake decoders, and a transcript of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fake_runs import Runs

import ortgpt


@pytest.fixture
def runs(tiny_model: ortgpt.Model, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """The tiny model runs on fake decoders: equal histories give equal logits to the last bit."""
    runs = Runs()
    monkeypatch.setattr(tiny_model, "decoder", lambda rows=1: runs.decoder(rows))
    return runs


@pytest.fixture
def transcript(tiny_model: ortgpt.Model, runs: Runs) -> Iterator[ortgpt.Transcript]:
    with tiny_model.transcript("0123456789") as transcript:
        yield transcript

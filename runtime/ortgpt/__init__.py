"""GPT-2 text generation without PyTorch, on ONNX Runtime and NumPy.

import ortgpt

with ortgpt.load("models/storyteller-fp32") as model:
    print(model.generate("Once upon a time", ortgpt.Sampling(temperature=0.8, top_p=0.95)).text)

Importing does no work: names are loaded when first used.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ortgpt.adoption.adopt import adopt
    from ortgpt.constraint_specs import Forbidden, Keywords
    from ortgpt.errors import (
        BundleError,
        BundleIntegrityError,
        CheckpointError,
        ConstraintError,
        ContextLengthError,
        MissingExtraError,
        NonFiniteLogitsError,
        OptionError,
        OrtgptError,
        ProviderError,
    )
    from ortgpt.generator import Model
    from ortgpt.grammar_specs import Choice, Grammar, JSONSchema, Regex
    from ortgpt.loading import load
    from ortgpt.options import Options
    from ortgpt.results import Event, Result, ResultChoice, Score, Timings, TokenLogprob
    from ortgpt.strategies import BeamSearch, ContrastiveSearch, Greedy, Sampling
    from ortgpt.streams import Stream
    from ortgpt.transcript import Transcript

__version__ = "0.1.0"

_HOMES = {
    "ortgpt.adoption.adopt": ("adopt",),
    "ortgpt.constraint_specs": ("Forbidden", "Keywords"),
    "ortgpt.errors": (
        "BundleError",
        "BundleIntegrityError",
        "CheckpointError",
        "ConstraintError",
        "ContextLengthError",
        "MissingExtraError",
        "NonFiniteLogitsError",
        "OptionError",
        "OrtgptError",
        "ProviderError",
    ),
    "ortgpt.generator": ("Model",),
    "ortgpt.grammar_specs": ("Choice", "Grammar", "JSONSchema", "Regex"),
    "ortgpt.loading": ("load",),
    "ortgpt.options": ("Options",),
    "ortgpt.results": ("ResultChoice", "Event", "Result", "Score", "Timings", "TokenLogprob"),
    "ortgpt.strategies": ("BeamSearch", "ContrastiveSearch", "Greedy", "Sampling"),
    "ortgpt.streams": ("Stream",),
    "ortgpt.transcript": ("Transcript",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "BeamSearch",
    "BundleError",
    "BundleIntegrityError",
    "CheckpointError",
    "Choice",
    "ConstraintError",
    "ContextLengthError",
    "ContrastiveSearch",
    "Event",
    "Forbidden",
    "Grammar",
    "Greedy",
    "JSONSchema",
    "Keywords",
    "MissingExtraError",
    "Model",
    "NonFiniteLogitsError",
    "OptionError",
    "Options",
    "OrtgptError",
    "ProviderError",
    "Regex",
    "Result",
    "ResultChoice",
    "Sampling",
    "Score",
    "Stream",
    "Timings",
    "TokenLogprob",
    "Transcript",
    "__version__",
    "adopt",
    "load",
]

logging.getLogger("ortgpt").addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'ortgpt' has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

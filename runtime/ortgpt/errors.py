"""The error family. Every error that ortgpt raises on purpose is an `OrtgptError`.

OrtgptError
├── OptionError (also a ValueError)    an option, a prompt or an argument is out of range; names it
│   └── ContextLengthError             the prompt is longer than the model's context
├── BundleError                        a bundle can't be read or breaks the contract
│   └── BundleIntegrityError           its files are not the files that the manifest describes
├── CheckpointError                    a checkpoint can't be exported
├── ProviderError                      the execution provider or the memory it needs is not to be had
├── ConstraintError                    no token is left that satisfies what was asked
├── NonFiniteLogitsError               the model produced NaN or infinite logits
└── MissingExtraError (also an ImportError)   an optional package is not installed
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ortgpt.results import Result


class OrtgptError(Exception):
    """Base of the family.

    hint     says in one sentence what to do about it
    results  of generate_batch: what the other prompts gave, None at those that failed
    """

    hint: str | None = None
    results: list[Result | None] | None = None

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        if hint is not None:
            self.hint = hint


class OptionError(OrtgptError, ValueError):
    """A value from the caller can't be used; `option` is its name as the caller wrote it."""

    def __init__(self, option: str, problem: str, *, hint: str | None = None) -> None:
        super().__init__(f"{option} {problem}", hint=hint)
        self.option = option


class ContextLengthError(OptionError):
    """The prompt has more tokens than the model's context."""


class BundleError(OrtgptError):
    """A bundle can't be read, or breaks the bundle contract."""


class BundleIntegrityError(BundleError):
    """A bundle's files differ from what its manifest says of them."""


class CheckpointError(OrtgptError):
    """A checkpoint can't be read or can't be turned into a bundle."""


class ProviderError(OrtgptError):
    """The execution provider, or the memory it needs, is not available."""


class ConstraintError(OrtgptError):
    """Every token is excluded, or a constraint can't be met."""


class NonFiniteLogitsError(OrtgptError):
    """The model produced NaN or infinite logits; `step` counts generated tokens from 0.

    name: which of several texts it was
    """

    def __init__(self, step: int, name: str = "") -> None:
        super().__init__(
            f"the model produced non-finite logits at step {step}" + (f" of {name}" if name else ""),
            hint="run `ortgpt inspect DIR --verify`: the weights may hold NaN or infinite values",
        )
        self.step = step


class MissingExtraError(OrtgptError, ImportError):
    """A feature needs an optional package; `extra` names the extra that brings it."""

    def __init__(self, feature: str, extra: str, *, package: str) -> None:
        super().__init__(
            f"{feature} needs the package {package!r}, which is not installed",
            hint=f'install it with: pip install "ortgpt[{extra}]"',
        )
        self.extra = extra

"""Prompts from outside to token ids, with every check that does not need the model to run."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

from ortgpt.checks import check_text, check_token_ids, shown
from ortgpt.errors import ContextLengthError, OptionError
from ortgpt.interfaces import Tokenizer
from ortgpt.manifest import Architecture

PromptLike = str | Sequence[int]


@dataclass(frozen=True)
class Prompt:
    """What the output follows.

    text          None when the caller gave ids
    token_ids     never empty, at most the context
    healed_bytes  what token healing has put behind the caller's text: the output begins with it
    """

    text: str | None
    token_ids: tuple[int, ...]
    healed_bytes: bytes = b""

    @property
    def healed_text(self) -> str:
        """The whole characters of healed_bytes; an unfinished one comes with the next token."""
        return codecs.getincrementaldecoder("utf-8")("replace").decode(self.healed_bytes)

    def own_text(self, tokenizer: Tokenizer) -> str:
        """The caller's text, without what healing has put behind it."""
        if self.text is not None:
            return self.text
        return self.end_of_text(tokenizer, len(self.token_ids))

    def end_of_text(self, tokenizer: Tokenizer, count: int) -> str:
        """The text of the last `count` ids, without what healing has put behind it."""
        data = b"".join(map(tokenizer.token_bytes, self.token_ids[-count:]))
        return data.removesuffix(self.healed_bytes).decode("utf-8", "replace")

    def shown(self, tokenizer: Tokenizer) -> str:
        """As `echo` shows it."""
        return tokenizer.decode(self.token_ids) if self.text is None else self.text


def read_prompt(value: object, tokenizer: Tokenizer, shape: Architecture, option: str = "prompt") -> Prompt:
    """Check and encode a prompt, with what the tokenizer puts before one.

    Where that leaves nothing, it starts from the bos id, as GPT-2 was trained.

    Raises OptionError, or ContextLengthError when it has more tokens than the context.
    """
    token_ids = read_token_ids(value, tokenizer, shape, option, longest=shape.context, begins=True)
    if not token_ids:
        token_ids = (start_token(shape, option),)
    check_context(token_ids, shape, option)
    return Prompt(value if isinstance(value, str) else None, token_ids)


def check_context(token_ids: Sequence[int], shape: Architecture, option: str) -> None:
    """Raise ContextLengthError for more tokens than the model can see."""
    if len(token_ids) > shape.context:
        raise ContextLengthError(
            option, f"has {len(token_ids)} tokens, the model's context is {shape.context}"
        )


def read_token_ids(
    value: object,
    tokenizer: Tokenizer,
    shape: Architecture,
    option: str,
    *,
    longest: int | None = None,
    begins: bool = False,
) -> tuple[int, ...]:
    """Ids of a text, or checked ids. A text that can't fit `longest` tokens is refused unread.

    begins: nothing stands before it
    """
    if isinstance(value, str):
        size = len(check_text(option, value).encode())
        if longest is not None and size > longest * tokenizer.longest_token:
            least = -(-size // tokenizer.longest_token)
            raise ContextLengthError(option, f"has at least {least} tokens, the model's context is {longest}")
        return tuple(tokenizer.encode_prompt(value) if begins else tokenizer.encode(value))
    if value is None or isinstance(value, bytes):
        raise OptionError(option, f"must be a string or a sequence of token ids, got {shown(value)}")
    return check_token_ids(option, value, shape.vocab_size)


def is_one_prompt(value: object) -> bool:
    """Whether this is one prompt, text or ids, and not a list of prompts."""
    if isinstance(value, str | bytes) or hasattr(value, "tolist"):
        return True
    return isinstance(value, Sequence) and bool(value) and all(isinstance(item, Integral) for item in value)


def start_token(shape: Architecture, option: str = "prompt") -> int:
    """The id that stands before all text."""
    if shape.bos_token_id is not None:
        return shape.bos_token_id
    if shape.eos_token_ids:
        return shape.eos_token_ids[0]
    raise OptionError(option, "is empty, and the model names no bos or eos id to start from")

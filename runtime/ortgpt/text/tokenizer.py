"""The tokenizer of a bundle: BPE of GPT-2's or of Llama-2's kind, on the tokenizers library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tokenizers import AddedToken, models  # type: ignore[import-untyped]
from tokenizers import Tokenizer as Backend

from ortgpt.checks import check_text
from ortgpt.errors import BundleError
from ortgpt.text.metaspace import piece_bytes
from ortgpt.text.tokenizer_file import TokenizerFile, byte_alphabet, read_tokenizer_file

OUTSIDE_LATIN_1 = 0x100
PROBE = "Once upon a time, naïve 1,234 \t\n  日本語 🙂\x00'll"


def load_tokenizer(data: bytes) -> TextTokenizer:
    """Build the tokenizer from the content of tokenizer.json.

    Raises BundleError when the file is not a usable BPE tokenizer. The file's truncation, padding and dropout
    are not applied. What it puts before a text, special tokens or a space, is put before prompts only.
    """
    file = read_tokenizer_file(data)
    with library_errors_reported("tokenizer.json can't be loaded"):
        backend = _make_backend(file, file.json)
        beginning = backend if file.beginning is None else _make_backend(file, file.beginning)
        known = backend.get_vocab(with_added_tokens=True)
    if known != {token: token_id for token_id, token in enumerate(file.tokens)}:
        raise BundleError("tokenizer.json gives ids to its added tokens that the library does not keep")
    tokenizer = TextTokenizer(backend, file, beginning)
    probe = PROBE + "".join(token.content for token in file.added.values())
    for encode in (tokenizer.encode, tokenizer.encode_prompt):
        encode(probe)
    return tokenizer


class TextTokenizer:
    """Text to ids and ids to bytes; implements `ortgpt.interfaces.Tokenizer`.

    Special tokens written out in a text ("<|endoftext|>") are recognised as such, as transformers
    does. Ids that no token has (those of a padded vocabulary) stand for nothing.

    size             ids 0 .. size - 1 are known
    special_ids      ids that text never shows
    prefix_ids       special tokens that stand before every prompt, as </s> does before OPT's
    longest_token    no token stands for more bytes than this
    """

    def __init__(self, backend: Backend, file: TokenizerFile, beginning: Backend) -> None:
        self._backend, self._beginning = backend, beginning
        self.prefix_ids = file.prefix_ids
        self._tokens = file.tokens
        self._bytes = _byte_table(file)
        self.size = len(file.tokens)
        self.special_ids = frozenset(i for i, token in file.added.items() if token.is_special)
        longest_special = max((len(file.tokens[i].encode()) for i in self.special_ids), default=0)
        self.longest_token = max(longest_special, *map(len, self._bytes))

    def encode(self, text: str) -> list[int]:
        """The token ids of a text that stands anywhere: their bytes are those of the text.

        Raises OptionError("prompt") for what is not text.
        """
        return self._encode(self._backend, text)

    def encode_prompt(self, text: str) -> list[int]:
        """The ids of a text that nothing stands before, as transformers gives them.

        prefix_ids come first. Llama-2's kind of tokenizer then puts a space before the text, which its first
        token shows. Raises OptionError("prompt") for what is not text.
        """
        return [*self.prefix_ids, *self._encode(self._beginning, text)]

    def _encode(self, backend: Backend, text: str) -> list[int]:
        check_text("prompt", text)
        with library_errors_reported("the tokenizer failed on a text"):
            ids: list[int] = backend.encode(text, add_special_tokens=False).ids
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for; b"" for special tokens and unknown ids."""
        return self._bytes[token_id] if 0 <= token_id < self.size else b""

    def token_text(self, token_id: int) -> str:
        """One token for showing, special tokens by name, incomplete characters as U+FFFD."""
        if token_id in self.special_ids:
            return self._tokens[token_id]
        return self.token_bytes(token_id).decode("utf-8", "replace")

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of the ids, without special tokens; invalid bytes become U+FFFD."""
        return b"".join(map(self.token_bytes, token_ids)).decode("utf-8", "replace")


def _make_backend(file: TokenizerFile, components: str) -> Backend:
    backend = Backend.from_str(components)
    backend.model = models.BPE(**file.model)
    for entry in file.added_entries:
        switches = {name: value for name, value in entry.items() if name not in ("id", "special")}
        token = AddedToken(**switches, special=entry["special"])
        (backend.add_special_tokens if entry["special"] else backend.add_tokens)([token])
    return backend


def _byte_table(file: TokenizerFile) -> tuple[bytes, ...]:
    if file.is_metaspace:
        special = {i for i, token in file.added.items() if token.is_special}
        return tuple(b"" if i in special else piece_bytes(token) for i, token in enumerate(file.tokens))
    # Latin-1 writes U+0000 to U+00FF as the bytes 0 to 255. All else is moved out of its reach, so that a
    # token with a character that stands for no byte fails.
    stand_ins = {ord(char): byte for char, byte in byte_alphabet().items()}
    stand_ins |= {code: OUTSIDE_LATIN_1 for code in range(0x100) if code not in stand_ins}
    table = []
    for token_id, token in enumerate(file.tokens):
        added = file.added.get(token_id)
        if added is not None:
            table.append(b"" if added.is_special else token.encode())
            continue
        try:
            table.append(token.translate(stand_ins).encode("latin-1"))
        except UnicodeEncodeError:
            table.append(token.encode())
    return tuple(table)


@contextmanager
def library_errors_reported(problem: str) -> Iterator[None]:
    """Turn what the tokenizers library raises, Rust panics included, into a BundleError.

    A panic arrives as pyo3's PanicException: a BaseException that can't be imported, known by name only.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise BundleError(f"{problem}: {str(error)[:200]}") from None

"""A text that keeps its cache between calls, so that only what is new is run."""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Iterator
from functools import partial
from itertools import takewhile
from types import TracebackType
from typing import Protocol, Self, Unpack

from ortgpt.checks import check_bool, check_int
from ortgpt.errors import OrtgptError, ProviderError
from ortgpt.generation import AtEnd, Generation
from ortgpt.interfaces import Decoder, Tokenizer
from ortgpt.manifest import Architecture
from ortgpt.options import OptionFields
from ortgpt.prompts import Prompt, PromptLike, check_context, read_token_ids
from ortgpt.request_checks import check_streamable
from ortgpt.results import Result, ResultChoice
from ortgpt.strategies import Strategy
from ortgpt.streams import Stream


class Start(Protocol):
    """Begins what continues a prompt, on a decoder that is lent until `at_end`."""

    def __call__(
        self,
        prompt: Prompt,
        strategy: Strategy | None,
        fields: OptionFields,
        started: float,
        decoder: Decoder | None = None,
        at_end: AtEnd | None = None,
    ) -> Generation: ...


class Transcript:
    """A prompt and what has come after it; `Model.transcript` makes one.

    Its decoder has one row that holds a beginning of the text. A call runs the rest of the text, and
    what it generates goes into the same row.

    It belongs to one thread at a time. While a stream of it is open, the text is what it was before,
    and all but reading it raises OrtgptError. `close`, or `with`, frees the cache; only the text is
    left then.
    """

    def __init__(
        self, prompt: Prompt, decoder: Decoder, tokenizer: Tokenizer, shape: Architecture, start: Start
    ) -> None:
        self._text, self._token_ids = prompt.text, prompt.token_ids
        self._decoder: Decoder | None = decoder
        self._tokenizer, self._shape, self._start = tokenizer, shape, start
        self._stream: weakref.ref[Stream] | None = None  # one that nobody holds any more is closed
        self._lock = threading.Lock()

    @property
    def token_ids(self) -> tuple[int, ...]:
        """All ids, the prompt's first."""
        return self._token_ids

    @property
    def text(self) -> str:
        """The text of all ids, without special tokens."""
        return self._tokenizer.decode(self._token_ids)

    def __len__(self) -> int:
        """Tokens of the text."""
        return len(self._token_ids)

    def generate(
        self, strategy: Strategy | None = None, *, keep: bool = True, **options: Unpack[OptionFields]
    ) -> Result:
        """Continue the text, as `Model.generate` continues a prompt.

        keep  the text grows by what the first choice shows: not by a stop id, nor by anything from a
              stop string on. False: the text stays as it is

        Raises OptionError (ContextLengthError), NonFiniteLogitsError, ConstraintError; the text is then
        what it was before.
        """
        with self._open(strategy, options, keep=keep) as stream:
            for _ in stream:
                pass
        return stream.result

    def stream(
        self, strategy: Strategy | None = None, *, keep: bool = True, **options: Unpack[OptionFields]
    ) -> Stream:
        """Continue the text, token by token. When the stream ends or is closed, the text grows."""
        check_streamable(options)
        return self._open(strategy, options, keep=keep)

    def _open(self, strategy: Strategy | None, options: OptionFields, *, keep: bool) -> Stream:
        started = time.perf_counter()
        check_bool("keep", keep)
        with self._alone() as decoder:
            check_context(self._token_ids, self._shape, "transcript")
            prompt = Prompt(self._text, self._token_ids)
            at_end = partial(self._take_back, keep=keep)
            stream = Stream(self._start(prompt, strategy, options, started, decoder, at_end))
            self._stream = weakref.ref(stream)
        return stream

    def append(self, text: PromptLike) -> None:
        """Add a text, encoded on its own, or ids. The model does not run yet.

        Raises OptionError (ContextLengthError).
        """
        with self._alone():
            new = read_token_ids(text, self._tokenizer, self._shape, "text", longest=self._shape.context)
            if new:
                check_context(self._token_ids + new, self._shape, "transcript")
                self._text, self._token_ids = None, self._token_ids + new

    def trim(self, length: int) -> None:
        """Cut the text to its first `length` tokens, at least 1."""
        with self._alone() as decoder:
            if check_int("length", length, 1, len(self)) < len(self):
                self._text, self._token_ids = None, self._token_ids[:length]
                decoder.trim([min(length, int(decoder.lengths[0]))])

    def fork(self) -> Transcript:
        """An independent transcript with the same text and a copy of the cache."""
        with self._alone() as decoder:
            prompt = Prompt(self._text, self._token_ids)
            return Transcript(prompt, decoder.fork(), self._tokenizer, self._shape, self._start)

    def close(self) -> None:
        """Free the cache. An open stream is closed."""
        stream = self._open_stream()
        if stream is not None:
            try:
                stream.close()
            except ValueError:  # its generator is running
                raise OrtgptError("the transcript is in use in another thread") from None
        with self._lock:
            if self._decoder is not None:
                self._decoder.release()
            self._decoder = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ortgpt.Transcript of {len(self)} tokens>"

    def _open_stream(self) -> Stream | None:
        stream = None if self._stream is None else self._stream()
        return stream if stream is not None and stream.is_open else None

    @contextlib.contextmanager
    def _alone(self) -> Iterator[Decoder]:
        """The decoder, where nothing else uses it."""
        with self._lock:
            if self._decoder is None:
                raise OrtgptError("the transcript is closed")
            if self._open_stream() is not None:
                raise OrtgptError(
                    "the transcript has an open stream", hint="read it to its end, or close it, before"
                )
            yield self._decoder

    def _take_back(self, generation: Generation, is_sound: bool, *, keep: bool) -> None:
        """What a generation does at its end: it gives the decoder back, and the text may grow."""
        result, request = generation.results()[0], generation.request
        assert self._decoder is not None  # close ends the generation first
        row = result.prompt_token_ids  # what the decoder's first row begins with
        if is_sound and generation.has_lone_rows:
            row += result.token_ids[:-1]  # the last one has not been run
        if is_sound and keep:
            # What stands before the text of the ids: the prompt, and what healing has put behind it.
            before = request.prompts[0].own_text(self._tokenizer) if request.options.echo else ""
            begun = before + generation.prompts[0].healed_text
            choice = result.choices[0]
            if len(choice.text) < len(begun):  # a stop string begins in what healing has put there
                text = choice.text[len(before) :]
                token_ids = request.prompts[0].token_ids + tuple(self._tokenizer.encode(text))
            else:
                token_ids = result.prompt_token_ids + _kept_ids(choice, begun, self._tokenizer)
            if token_ids != self._token_ids:
                self._text, self._token_ids = None, token_ids
        pairs = zip(row, self._token_ids, strict=False)
        held = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        if not generation.has_lone_rows or self._decoder.num_rows > 1:
            self._decoder = _first_row(self._decoder, held)
        else:
            self._decoder.trim([min(held, int(self._decoder.lengths[0]))])


def _kept_ids(choice: ResultChoice, before: str, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids of what a choice shows after what stands before their text.

    A stop string may begin inside a token: what is shown of that token is encoded anew.
    """
    if isinstance(choice.stop_reason, int):
        return choice.token_ids[:-1]
    shown, count = choice.text[len(before) :], len(choice.token_ids)
    while not shown.startswith(whole := tokenizer.decode(choice.token_ids[:count])):
        count -= 1
    return choice.token_ids[:count] + tuple(tokenizer.encode(shown[len(whole) :]))


def _first_row(decoder: Decoder, length: int) -> Decoder:
    """The first row's first tokens, in a cache that has room for no other row."""
    decoder.reorder([0])
    decoder.trim([min(length, int(decoder.lengths[0]))])
    with contextlib.suppress(ProviderError):  # no memory for the copy: the large cache still serves
        twin = decoder.fork()
        decoder.release()
        return twin
    return decoder

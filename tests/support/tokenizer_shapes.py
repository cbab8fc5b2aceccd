"""Small tokenizers in the shapes of real families' tokenizer.json, trained on the spot.

Each is a `tokenizers.Tokenizer`; what it saves has the parts, the order and the switches of the family's
file. No vocabulary is copied.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer

CORPUS = [
    "Once upon a time there was a king who had three daughters, and the king's house was by the sea.",
    "In 2024 there were 1,234 ships; 56 of them sank. The naïve café owner said: “don't!”",
    "def main():\n    return [1, 2, 3]\n\n\nprint(main())\t# 日本語 🙂",
] * 4
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
SPACE = "▁"


def gpt2() -> Tokenizer:
    """GPT-2, GPT-Neo."""
    return _byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), ["<|endoftext|>"])


def opt() -> Tokenizer:
    """OPT: </s> before every text."""
    tokenizer = _byte_level(
        pre_tokenizers.ByteLevel(add_prefix_space=False), ["<s>", "<pad>", "</s>", "<unk>"], first=True
    )
    tokenizer.post_processor = _template("</s>", tokenizer)
    return tokenizer


def smollm() -> Tokenizer:
    """SmolLM: special tokens at the beginning of the vocabulary, digits one by one."""
    splitter = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return _byte_level(splitter, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], first=True)


def qwen2() -> Tokenizer:
    """Qwen2, Qwen3: NFC, a regex of its own, special tokens behind the vocabulary, some of them shown."""
    tokenizer = _byte_level(_split_then_bytes(), ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_tokens(
        [AddedToken("<tool_call>", normalized=False), AddedToken("</tool_call>", normalized=False)]
    )
    return tokenizer


def llama3() -> Tokenizer:
    """Llama 3: <|begin_of_text|> before every text, merges ignored for whole words."""
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    tokenizer = _byte_level(_split_then_bytes(), names, ignore_merges=True)
    tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=False), _template(names[0], tokenizer)]
    )
    return tokenizer


def phi() -> Tokenizer:
    """Phi: runs of spaces and tabs as added tokens that are text."""
    tokenizer = gpt2()
    runs = [" " * count for count in range(31, 1, -1)] + ["\t" * count for count in range(9, 1, -1)]
    tokenizer.add_tokens([AddedToken(run, normalized=True) for run in runs])
    return tokenizer


def llama2() -> Tokenizer:
    """Llama 2, Mistral: spaces written by normalizers, <s> before every text."""
    tokenizer = _metaspace()
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    tokenizer.decoder = _space_decoder(strips=True)
    tokenizer.post_processor = _template("<s>", tokenizer)
    return tokenizer


def mistral() -> Tokenizer:
    """Mistral 7B 0.3 and others: the same with a Metaspace pre-tokenizer."""
    tokenizer = _metaspace()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme="first", split=False)
    tokenizer.decoder = _space_decoder(strips=True)
    tokenizer.post_processor = _template("<s>", tokenizer)
    return tokenizer


def gemma() -> Tokenizer:
    """Gemma: no space before a text, runs of newlines and spaces as added tokens."""
    tokenizer = _metaspace()
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = _space_decoder(strips=False)
    tokenizer.post_processor = _template("<s>", tokenizer)
    runs = ["\n\n", "\n\n\n", SPACE * 2, SPACE * 4, "<table>"]
    tokenizer.add_tokens([AddedToken(run, normalized=False) for run in runs])
    return tokenizer


BYTE_LEVEL: dict[str, Callable[[], Tokenizer]] = {
    make.__name__: make for make in (gpt2, opt, smollm, qwen2, llama3, phi)
}
METASPACE: dict[str, Callable[[], Tokenizer]] = {make.__name__: make for make in (llama2, mistral, gemma)}
SHAPES = BYTE_LEVEL | METASPACE


def _split_then_bytes() -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _byte_level(
    splitter: pre_tokenizers.PreTokenizer,
    special: list[str],
    *,
    first: bool = False,
    ignore_merges: bool = False,
) -> Tokenizer:
    """first: the special tokens have the lowest ids."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=420,
        special_tokens=special if first else [],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens(special)
    return tokenizer


def _metaspace() -> Tokenizer:
    """BPE with <unk>, <s>, </s>, a token for each byte, and what the corpus gives."""
    trained = Tokenizer(models.BPE())
    trained.train_from_iterator(
        [SPACE + line.replace(" ", SPACE) for text in CORPUS for line in text.splitlines()],
        BpeTrainer(vocab_size=200, show_progress=False),
    )
    model = json_of(trained)["model"]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"]]
    tokenizer = Tokenizer(
        models.BPE(
            {name: token_id for token_id, name in enumerate(names)},
            [tuple(merge) for merge in model["merges"]],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def _space_decoder(*, strips: bool) -> decoders.Decoder:
    parts = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence(parts + ([decoders.Strip(" ", 1, 0)] if strips else []))


def _template(name: str, tokenizer: Tokenizer) -> processors.PostProcessor:
    return processors.TemplateProcessing(
        single=f"{name} $A", pair=f"{name} $A {name} $B", special_tokens=[(name, tokenizer.token_to_id(name))]
    )


def json_of(tokenizer: Tokenizer) -> dict[str, Any]:
    """What it saves, as an object."""
    return json.loads(tokenizer.to_str())

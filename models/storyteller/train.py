"""Train a small GPT-2 on a folder of plain-text files and save it in the Hugging Face layout.

    python models/storyteller/train.py TEXTS_DIR -o OUT_DIR

The defaults are the recipe of the checkpoint in this folder. Everything runs on the CPU. Progress
goes to stderr, the final held-out loss to stdout; a mistake in the input is one line and exit code 2.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import re
import shutil
import sys
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # type: ignore[import-untyped,unused-ignore]

# torch and transformers are imported where they are used: they take seconds to load, and a
# mistyped path should not have to wait for them.
if TYPE_CHECKING:
    from torch import Tensor
    from transformers import GPT2LMHeadModel

T = TypeVar("T")

END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_ID = 0  # the first special token of the trainer gets the first id
SMALLEST_VOCAB = 257  # 256 bytes and END_OF_TEXT
VERSE_WIDTH = 50  # a paragraph of lines shorter than this was broken on purpose: verse, letters, lists

PUNCTUATION = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201a\u201b\u2032", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"')
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2212", "-")
    | dict.fromkeys("\u2014\u2015", "--")
    | dict.fromkeys("\u00ad\u200b\ufeff", "")  # soft hyphens and invisible marks
    | {"\u2026": "..."}
)


class TrainError(Exception):
    """A mistake in the input, or a run that cannot go on; the message is one line for the user."""


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:  # the usage text would bury the one line that matters
        raise TrainError(message)


def option(default: T, text: str, low: float = 0, high: float = math.inf) -> T:
    return field(default=default, metadata={"help": text, "low": low, "high": high})


@dataclass(frozen=True)
class Recipe:
    """The options of a run, checked at construction; raises TrainError naming option, value and range."""

    steps: int = option(9000, "optimiser steps", 1)
    batch_size: int = option(8, "sequences per step", 1)
    context: int = option(512, "tokens per sequence, and the longest the model can read", 1)
    vocab_size: int = option(4096, "tokenizer entries at most", SMALLEST_VOCAB)
    layers: int = option(6, "transformer blocks", 1)
    heads: int = option(4, "attention heads per block", 1)
    width: int = option(256, "embedding width, a multiple of --heads", 1)
    learning_rate: float = option(2e-3, "peak learning rate")
    warmup: int = option(200, "steps of linear warm-up to the peak, fewer than --steps")
    min_lr_ratio: float = option(0.05, "where the cosine ends, as a share of the peak", 0, 1)
    weight_decay: float = option(0.1, "AdamW decay, on matrices only")
    clip: float = option(1.0, "largest gradient norm", 1e-6)
    held_out: float = option(0.01, "share of the documents kept for the final loss, 0 for none", 0, 0.9)
    seed: int = option(0, "seed of weights and batches", 0, 2**63 - 1)
    compile: bool = option(True, "run through torch.compile, which needs a C++ compiler")
    bf16: bool = option(True, "compute in bfloat16; the weights stay float32")
    threads: int = option(0, "CPU threads, 0 leaves the choice to torch")

    def __post_init__(self) -> None:
        for item in fields(self):
            low, high, value = item.metadata["low"], item.metadata["high"], getattr(self, item.name)
            if not low <= value <= high:  # a nan fails this too
                limits = f"at least {low}" if high == math.inf else f"from {low} to {high}"
                raise TrainError(f"{flag(item.name)} {value}: must be {limits}")
        if self.width % self.heads:
            raise TrainError(f"--width {self.width}: must be divisible by --heads {self.heads}")
        if self.warmup >= self.steps:
            raise TrainError(f"--warmup {self.warmup}: must be less than --steps {self.steps}")


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def log(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def clean(text: str) -> str:
    """Fold typographic punctuation to ASCII and give every paragraph one line, except verse."""
    paragraphs = []
    for block in re.split(r"\n\s*\n", text.translate(PUNCTUATION)):
        lines = [folded for line in block.splitlines() if (folded := " ".join(line.split()))]
        verse = all(len(line) < VERSE_WIDTH for line in lines)
        paragraphs.append(("\n" if verse else " ").join(lines))
    return "\n\n".join(filter(None, paragraphs))


def read_documents(folder: Path) -> list[str]:
    """Cleaned documents of all *.txt files below `folder`, in path order, exact duplicates dropped."""
    if not folder.is_dir():
        raise TrainError(f"{folder}: no such folder")
    paths = sorted(path for path in folder.rglob("*.txt") if path.is_file())
    if not paths:
        raise TrainError(f"{folder}: no *.txt files in it")
    documents: dict[str, None] = {}  # a duplicate on both sides of the split would flatter the held-out loss
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise TrainError(f"{path}: not UTF-8 text (byte {error.start})") from error
        documents.update(dict.fromkeys(map(clean, text.split(END_OF_TEXT))))
    documents.pop("", None)
    if not documents:
        raise TrainError(f"{folder}: its *.txt files hold no text")
    return list(documents)


def split_documents(documents: Sequence[str], held_out: float) -> tuple[list[str], list[str]]:
    """(training, held-out) documents; chosen by content hash, so that no seed or file name moves one."""
    if not held_out:
        return list(documents), []
    if len(documents) < 2:
        raise TrainError("only one document, none to hold out: add texts or give --held-out 0")
    count = min(max(1, round(held_out * len(documents))), len(documents) - 1)
    chosen = set(sorted(documents, key=lambda text: hashlib.sha256(text.encode()).digest())[:count])
    return [text for text in documents if text not in chosen], [text for text in documents if text in chosen]


def train_tokenizer(documents: Sequence[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE as GPT-2's; fewer than `vocab_size` entries where the text has no more to merge."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()  # all bytes: any text encodes, not only this one
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def pack(tokenizer: Tokenizer, documents: Sequence[str]) -> array[int]:
    """All documents in one row of token ids, each ended by END_OF_TEXT."""
    ids = array("q")  # 8 bytes a token, as torch wants them
    for text in documents:  # one by one: a batch of encodings keeps offsets and strings of every token
        ids.extend(tokenizer.encode(text).ids)
        ids.append(END_OF_TEXT_ID)
    return ids


def learning_rate(step: int, recipe: Recipe) -> float:
    """Rate of step 0 .. steps-1: linear warm-up to the peak, then cosine to `min_lr_ratio` of it."""
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    progress = (step - recipe.warmup) / max(1, recipe.steps - 1 - recipe.warmup)
    cosine = (1 + math.cos(math.pi * progress)) / 2
    return recipe.learning_rate * (recipe.min_lr_ratio + (1 - recipe.min_lr_ratio) * cosine)


def build_model(recipe: Recipe, vocab_size: int) -> GPT2LMHeadModel:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(  # type: ignore[no-untyped-call,unused-ignore]
        vocab_size=vocab_size,
        n_positions=recipe.context,
        n_embd=recipe.width,
        n_layer=recipe.layers,
        n_head=recipe.heads,
        activation_function="gelu_new",
        resid_pdrop=0.0,  # a few passes over the text: too few to overfit, so no dropout
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=END_OF_TEXT_ID,
        eos_token_id=END_OF_TEXT_ID,
    )
    return GPT2LMHeadModel(config)  # type: ignore[no-untyped-call,unused-ignore]


def evaluate(model: GPT2LMHeadModel, tokens: Tensor, context: int) -> float:
    """Mean loss in nats per token over windows side by side, in fp32 as the weights are saved."""
    import torch
    from torch.nn.functional import cross_entropy

    total = 0.0
    with torch.inference_mode():
        for start in range(0, len(tokens) - 1, context):
            window = tokens[start : start + context + 1]  # shares one token with the next
            logits = model(window[None, :-1], use_cache=False).logits[0]  # (window - 1, vocab)
            total += cross_entropy(logits, window[1:], reduction="sum").item()
    return total / (len(tokens) - 1)


def train(model: GPT2LMHeadModel, tokens: Tensor, recipe: Recipe) -> None:
    """Run all steps in place on random windows of `tokens`; raises TrainError when the loss diverges."""
    import torch
    from torch.nn.functional import cross_entropy

    forward = torch.compile(model) if recipe.compile else model
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]  # biases and norms: not to be pulled to zero
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=recipe.weight_decay)
    windows = tokens.unfold(0, recipe.context + 1, 1)  # (starts, context + 1), a view
    draw = torch.Generator().manual_seed(recipe.seed)
    started = time.perf_counter()
    for step in range(recipe.steps):
        rate = learning_rate(step, recipe)
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = windows[torch.randint(len(windows), (recipe.batch_size,), generator=draw)]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=recipe.bf16):
            logits = forward(batch[:, :-1], use_cache=False).logits  # (batch, context, vocab)
        loss = cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
        if not math.isfinite(loss.item()):
            raise TrainError(f"the loss is {loss.item()} at step {step + 1}: lower --learning-rate")
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        if step == 0 or (step + 1) % 50 == 0 or step + 1 == recipe.steps:
            speed = (step + 1) * batch[:, 1:].numel() / (time.perf_counter() - started)
            log(f"step {step + 1}/{recipe.steps}  loss {loss.item():.3f}  {speed:,.0f} tokens/s")


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its name on success and vanishes on failure: whole or absent."""
    out = out.resolve()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise TrainError(f"{out}: exists and is not an empty folder")
    staging = out.with_name(f".{out.name}.{os.getpid()}")
    staging.mkdir(parents=True)  # now, so that an unwritable place is known before hours of training
    try:
        yield staging
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    if out.exists():
        out.rmdir()  # only an empty folder goes; where rmdir refuses, the model stays in `staging`
    staging.rename(out)


def run(documents: Sequence[str], out: Path, recipe: Recipe) -> None:
    """Documents to checkpoint: split, train the tokenizer, pack, train the model, save, measure."""
    training, held_out = split_documents(documents, recipe.held_out)
    log(f"{len(training)} documents to train on, {len(held_out)} held out")
    tokenizer = train_tokenizer(training, recipe.vocab_size)
    packed = pack(tokenizer, training)
    vocab_size = tokenizer.get_vocab_size()
    log(f"{len(packed):,} tokens to train on, vocabulary {vocab_size}")
    if len(packed) <= recipe.context:
        raise TrainError(f"too little text: {len(packed)} tokens, --context {recipe.context} needs one more")

    import torch

    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    if recipe.compile:
        try:  # on something small, before anything long is started
            torch.compile(torch.neg)(torch.zeros(1))
        except Exception as error:
            raise TrainError("--compile: torch.compile does not work here, give --no-compile") from error
    torch.manual_seed(recipe.seed)
    model = build_model(recipe, vocab_size)
    log(f"{model.num_parameters():,} parameters")
    train(model, torch.frombuffer(packed, dtype=torch.int64), recipe)
    model.save_pretrained(out)
    shutil.copymode(out / "config.json", out / "model.safetensors")  # safetensors writes it owner-only
    tokenizer.save(str(out / "tokenizer.json"))
    if held_out:
        tokens = torch.frombuffer(pack(tokenizer, held_out), dtype=torch.int64)
        loss = evaluate(model, tokens, recipe.context)
        print(f"held-out loss {loss:.4f} nats per token, perplexity {math.exp(loss):.2f}")


def parse(argv: Sequence[str] | None) -> tuple[Path, Path, Recipe]:
    summary = "Train a small GPT-2 on a folder of plain-text files."
    parser = Parser(description=summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("texts", type=Path, metavar="TEXTS_DIR", help="folder, searched for *.txt")
    parser.add_argument("-o", "--out", type=Path, metavar="OUT_DIR", required=True, help="new folder")
    for item in fields(Recipe):
        kind: dict[str, Any] = {"type": type(item.default), "metavar": "N"}
        if isinstance(item.default, bool):
            kind = {"action": argparse.BooleanOptionalAction}
        parser.add_argument(flag(item.name), default=item.default, help=item.metadata["help"], **kind)
    options = vars(parser.parse_args(argv))
    return options.pop("texts"), options.pop("out"), Recipe(**options)


def main(argv: Sequence[str] | None = None) -> int:
    try:
        texts, out, recipe = parse(argv)
        documents = read_documents(texts)
        with staged(out) as staging:
            run(documents, staging, recipe)
    except (TrainError, OSError, ModuleNotFoundError) as error:
        log(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        log("interrupted, nothing saved")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

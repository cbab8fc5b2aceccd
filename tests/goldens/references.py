"""Models, prompts, one call of transformers and one way to write JSON, for both golden scripts.

Runs under transformers 4.49 and 4.57; knows nothing about how a search works.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import GenerationConfig, GPT2LMHeadModel

HERE = Path(__file__).resolve().parent
STORYTELLER = HERE.parents[1] / "models" / "storyteller"
sys.path.insert(0, str(HERE.parent / "support"))
from checkpoints import make_checkpoint, make_config  # noqa: E402

Ids = list[int]
Options = dict[str, Any]

# Random checkpoints: keyword arguments of tests/support/checkpoints.py, make_checkpoint.
RANDOM_MODELS: dict[str, dict[str, Any]] = {
    "even": {"seed": 11, "n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 128},
    "odd": {"seed": 12, "n_layer": 3, "n_head": 3, "n_embd": 45, "n_positions": 128},
}
BYTE_PROMPTS = {
    "one": "a",
    "words": "Hello there",
    "run": "x" * 20,
    "long": "A raven sat upon the highest branch and sang, and nobody listened.",
}
PROMPTS = {
    "storyteller": {
        "one": '"',
        "fox": "The fox",
        "king": 'The king said to his daughter, "',
        "ever": "And so they lived happily ever after.",
        "long": "There was once a miller who had three sons and no money at all. One winter's morning he "
        "called them to his bed and said that the eldest should have the mill, and the second the mule.",
    },
    "even": BYTE_PROMPTS,
    "odd": BYTE_PROMPTS,
}
# What may end a text: ids that each model really writes, so that hypotheses do finish.
# "end" is the model's own; the random ones hardly ever write theirs.
ENDS: dict[str, dict[str, Ids | None]] = {
    "storyteller": {"end": [0], "period": [14], "marks": [12, 14, 1, 31], "none": None},
    "even": {"end": [256], "period": [186], "marks": [20, 85, 70], "none": None},
    "odd": {"end": [256], "period": [148], "marks": [13, 42, 247], "none": None},
}
# An id that no model ranks anywhere near the top of these texts: for padding that must not matter.
NEUTRAL = {"storyteller": 4000, "even": 40, "odd": 201}


@dataclass(frozen=True)
class Reference:
    """A model of transformers: fp32, eager attention, no defaults of its own for generation."""

    name: str
    network: GPT2LMHeadModel
    tokenizer: Tokenizer

    @cached_property
    def prompts(self) -> dict[str, Ids]:
        texts = PROMPTS[self.name].items()
        return {name: self.tokenizer.encode(text, add_special_tokens=False).ids for name, text in texts}

    @torch.no_grad()
    def forward(self, rows: Sequence[Ids]) -> tuple[np.ndarray, np.ndarray]:
        """Last logits (rows, vocab) and hidden states after ln_f (rows, tokens, width), without a cache."""
        outputs = self.network(torch.tensor(rows), output_hidden_states=True, use_cache=False)
        return outputs.logits[:, -1].numpy(), outputs.hidden_states[-1].numpy()

    def generate(self, prompts: Sequence[Ids], options: Options) -> tuple[list[Ids], list[float] | None]:
        """Ids and scores, prompt after prompt: no prompt, no padding, the id that ended a text included."""
        width = max(map(len, prompts))
        pad = options["pad_token_id"]
        rows = [[pad] * (width - len(prompt)) + prompt for prompt in prompts]
        masks = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        output = self.network.generate(
            torch.tensor(rows),
            attention_mask=torch.tensor(masks),
            generation_config=GenerationConfig(do_sample=False, **options),
            return_dict_in_generate=True,
            output_scores=True,
        )
        ends = options["eos_token_id"] or []
        sequences = [cut_after_end(row[width:], ends) for row in output.sequences.tolist()]
        scores = getattr(output, "sequences_scores", None)
        return sequences, None if scores is None else [round(score, 7) for score in scores.tolist()]


def cut_after_end(ids: Ids, ends: Sequence[int]) -> Ids:
    stop = next((i for i, token in enumerate(ids) if token in ends), len(ids))
    return ids[: stop + 1]


def load_references() -> dict[str, Reference]:
    torch.set_num_threads(1)
    references = {"storyteller": load(STORYTELLER, "storyteller")}
    for name, config in RANDOM_MODELS.items():
        with TemporaryDirectory() as folder:
            references[name] = load(make_checkpoint(Path(folder), **config), name)
    return references


def load(checkpoint: Path, name: str) -> Reference:
    network = GPT2LMHeadModel.from_pretrained(checkpoint, attn_implementation="eager").float().eval()
    network.generation_config = GenerationConfig()  # a model's own eos would come back where a case has none
    return Reference(name, network, Tokenizer.from_file(str(checkpoint / "tokenizer.json")))


def make_key(model: str, prompts: Sequence[str], labels: dict[str, Any]) -> str:
    """`model/prompt+prompt/option=value,...`: unique in a file, the same in every file."""
    return f"{model}/{'+'.join(prompts)}/{','.join(f'{name}={value}' for name, value in labels.items())}"


def write_goldens(name: str, references: dict[str, Reference], cases: dict[str, Any], about: str) -> None:
    packages = ("transformers", "torch", "tokenizers", "safetensors", "numpy")
    meta = {
        "about": about,
        "every_case": {"attention": "eager", "do_sample": False, "dtype": "float32"},
        "models": {name: make_config(**config) for name, config in RANDOM_MODELS.items()},
        "neutral_ids": NEUTRAL,
        "prompts": {
            name: {key: {"ids": ids, "text": PROMPTS[name][key]} for key, ids in reference.prompts.items()}
            for name, reference in references.items()
        },
        "storyteller_sha256": sha256(STORYTELLER.joinpath("model.safetensors").read_bytes()).hexdigest(),
        "versions": {package: version(package) for package in packages},
    }
    lines = [f"{compact(key)}:{compact(case)}" for key, case in sorted(cases.items())]
    text = '{"cases":{\n' + ",\n".join(lines) + '\n},\n"meta":' + compact(meta) + "}\n"
    (HERE / f"{name}.json").write_text(text, encoding="utf-8")
    print(f"{name}.json: {len(cases)} cases, {len(text) / 1000:.0f} kB")


def compact(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

"""Token healing: a prompt's last token chosen anew, so that a prompt may end inside a word.

The rules are those of transformers' `heal_tokens` (4.57), except that nothing is stripped from the prompt
and that only tokens which begin with the old one's text can be chosen.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ortgpt.interfaces import Floats, Ids, Tokenizer
from ortgpt.prompts import Prompt

# Added to the old token's logit: it gives way only to what is clearly better.
FAVOUR = 1.0


def find_extensions(token_id: int, tokenizer: Tokenizer) -> Ids:
    """The tokens whose bytes begin with those of this one, itself included; none for a special token."""
    beginning = tokenizer.token_bytes(token_id)
    known = range(tokenizer.size) if beginning else ()
    return np.array([one for one in known if tokenizer.token_bytes(one).startswith(beginning)], np.int64)


def heal(prompt: Prompt, extensions: Ids, logits: Floats, tokenizer: Tokenizer) -> Prompt:
    """The prompt with the most probable of these tokens in place of its last one; of equal ones the first.

    logits (vocab,): raw, after the prompt without its last token. Where they are no numbers the prompt stays:
    the run itself reports them.
    """
    old = prompt.token_ids[-1]
    scores = logits[extensions] + FAVOUR * (extensions == old)
    if not np.isfinite(scores.max()):
        return prompt
    chosen = int(extensions[scores.argmax()])
    added = tokenizer.token_bytes(chosen)[len(tokenizer.token_bytes(old)) :]
    return dataclasses.replace(prompt, token_ids=(*prompt.token_ids[:-1], chosen), healed_bytes=added)

"""What a process that loads a bundle and generates takes in memory, stage by stage (Linux)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Stage = dict[str, int]
"""Bytes: resident, of it anonymous and of files, and the highest resident so far."""

_STATUS_LINES = {"resident": "VmRSS", "anonymous": "RssAnon", "files": "RssFile", "peak": "VmHWM"}


class MemoryProbe:
    """Belongs in a fresh process, where nothing else has been loaded."""

    def stages(self, bundle: Path, threads: int, prompt: list[int], new_tokens: int) -> dict[str, Any]:
        """{"started", "imported", "loaded", "generated": Stage, "cache_bytes", "logits_bytes"}."""
        found: dict[str, Any] = {"started": read_stage()}
        import ortgpt.loading

        found["imported"] = read_stage()
        with ortgpt.load(bundle, threads=threads) as model:
            found["loaded"] = read_stage()
            model.generate(prompt, max_new_tokens=new_tokens, stop_token_ids=[])
            found["generated"] = read_stage()
            # As large as the one that has just been freed: the last token is never fed back.
            decoder = model.decoder()
            logits = decoder.extend([prompt]).logits
            for _ in range(new_tokens - 1):
                decoder.extend([[prompt[0]]])
            found |= {"cache_bytes": decoder.nbytes, "logits_bytes": logits.nbytes}
        return found


def read_stage() -> Stage:
    """This process now."""
    text = Path("/proc/self/status").read_text()
    lines = dict(line.split(":", 1) for line in text.splitlines())
    return {name: int(lines[line].split()[0]) * 1024 for name, line in _STATUS_LINES.items()}


def explain(stages: dict[str, Any], *, matrices: int, table: int, weights: int) -> dict[str, int]:
    """Where the resident bytes after generating lie.

    matrices  the layers' matrices, which onnxruntime holds in packed form only
    table     the embedding, held twice: packed for the head, as it is for the lookup
    weights   all of them; what is neither matrix nor table is positions, norms and biases
    """
    total = stages["generated"]["resident"]
    parts = {
        "interpreter and libraries": stages["imported"]["resident"],
        "packed matrices": matrices,
        "packed head": table,
        "embedding table": table,
        "positions, norms, biases": weights - matrices - table,
        "key-value cache": stages["cache_bytes"],
        "logits": stages["logits_bytes"],
    }
    return parts | {"tokenizer, graph, arena, the rest": total - sum(parts.values())}

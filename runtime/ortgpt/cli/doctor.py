"""`ortgpt doctor`."""

from __future__ import annotations

import json
import platform
import sys
from importlib import metadata
from importlib.util import find_spec
from typing import Any

from ortgpt import __version__
from ortgpt.cli.arguments import AsJson, Debug, Quiet
from ortgpt.errors import OrtgptError, ProviderError

ENGINES = ("onnxruntime", "onnxruntime-gpu")
EXPORT_PACKAGES = ("onnx", "safetensors", "huggingface_hub", "ml_dtypes")


def doctor(as_json: AsJson = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """What ortgpt finds on this machine, and what is wrong with it.

    ortgpt doctor

    ortgpt doctor --json
    """
    facts = collect()
    if as_json:
        print(json.dumps(facts))
    else:
        width = max(map(len, facts))
        for name, value in facts.items():
            if name != "problems":
                text = ", ".join(value) if isinstance(value, list) else value
                print(f"{name:<{width}}  {'none' if text in (None, '') else text}")
    if facts["problems"]:
        raise ProviderError("; ".join(facts["problems"]))
    if not quiet:
        print("no problems found", file=sys.stderr)


def collect() -> dict[str, Any]:
    """Facts by name; "problems" lists sentences, empty when all is well."""
    engines = {name: _version(name) for name in ENGINES}
    facts: dict[str, Any] = {
        "ortgpt": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "numpy": _version("numpy"),
        "tokenizers": _version("tokenizers"),
        **engines,
        "providers": [],
        "threads": None,
        "available_memory_mb": None,
        "export": "ready" if all(map(find_spec, EXPORT_PACKAGES)) else 'pip install "ortgpt[export]"',
        "problems": [],
    }
    if not any(engines.values()):
        facts["problems"].append('onnxruntime is not installed: pip install "ortgpt[cpu]"')
        return facts
    if all(engines.values()):
        facts["problems"].append(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: "
            "pip uninstall -y onnxruntime onnxruntime-gpu, then install one"
        )
    _ask_engine(facts)
    return facts


def _ask_engine(facts: dict[str, Any]) -> None:
    try:
        from ortgpt.inference.memory import available_bytes
        from ortgpt.inference.session import available_providers, check_installed_version, default_threads

        facts["providers"] = available_providers()
        facts["threads"] = default_threads()
        room = available_bytes()
        facts["available_memory_mb"] = None if room is None else room // 1_000_000
        check_installed_version()
    except (OrtgptError, ImportError) as error:
        hint = getattr(error, "hint", None)
        facts["problems"].append(f"{error}: {hint}" if hint else str(error))


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None

"""`ortgpt doctor`."""

from __future__ import annotations

import json
import platform
import sys
from importlib.util import find_spec
from typing import Any

from ortgpt import __version__
from ortgpt.cli.arguments import AsJson, Debug, ProviderName, Quiet, WantedProvider
from ortgpt.errors import MissingExtraError, OrtgptError, ProviderError
from ortgpt.inference.wheels import (
    CHANGE_TO_GPU,
    GPU_WHEEL,
    broken_wheel,
    find_wheel_problems,
    installed_version,
    installed_wheels,
)

EXPORT_PACKAGES = ("onnx", "safetensors", "huggingface_hub", "ml_dtypes")


def doctor(
    provider: WantedProvider = ProviderName.AUTO,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """What ortgpt finds on this machine, and what is wrong with it.

    ortgpt doctor

    ortgpt doctor --provider cuda

    ortgpt doctor --json
    """
    facts = collect(provider)
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


def collect(provider: str = "auto") -> dict[str, Any]:
    """Facts by name; "problems" lists sentences, empty when all is well.

    provider  the one that is wanted: with "cpu" nothing is asked of CUDA, with "cuda" it has to be there
    """
    facts: dict[str, Any] = {
        "ortgpt": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "numpy": installed_version("numpy"),
        "tokenizers": installed_version("tokenizers"),
        **installed_wheels(),
        "providers": [],
        "cuda": None,
        "threads": None,
        "available_memory_mb": None,
        "export": "ready" if all(map(find_spec, EXPORT_PACKAGES)) else 'pip install "ortgpt[export]"',
        "problems": find_wheel_problems(),
    }
    if any(installed_wheels().values()):
        try:
            _ask_engine(facts, provider)
        except MissingExtraError:
            facts["problems"].append(broken_wheel("its files are gone"))
        except (OrtgptError, ImportError, AttributeError) as error:
            facts["problems"].append(_sentence(error))
    return facts


def _ask_engine(facts: dict[str, Any], provider: str) -> None:
    from ortgpt.inference.memory import available_bytes
    from ortgpt.inference.session import available_providers, check_installed_version
    from ortgpt.inference.threads import default_threads

    facts["providers"] = available_providers()
    facts["threads"] = default_threads()
    room = available_bytes()
    facts["available_memory_mb"] = None if room is None else room // 1_000_000
    check_installed_version()
    if provider != "cpu":
        _ask_cuda(facts, is_wanted=provider == "cuda")


def _ask_cuda(facts: dict[str, Any], is_wanted: bool) -> None:
    """Begin something small on the device: only that shows whether all of it is there."""
    from ortgpt.inference.cuda import PROVIDER
    from ortgpt.inference.session import check_cuda

    if PROVIDER in facts["providers"]:
        try:
            check_cuda()
            facts["cuda"] = "ready"
        except OrtgptError as error:
            facts["cuda"] = str(error)
            facts["problems"].append(_sentence(error))
    elif facts[GPU_WHEEL] and not facts["onnxruntime"]:
        facts["problems"].append(broken_wheel("what is imported is another wheel, without CUDA"))
    elif is_wanted and not facts["problems"]:
        facts["problems"].append(f"the installed onnxruntime is the one for the CPU: {CHANGE_TO_GPU}")


def _sentence(error: Exception) -> str:
    hint = getattr(error, "hint", None)
    return f"{error}: {hint}" if hint else str(error)

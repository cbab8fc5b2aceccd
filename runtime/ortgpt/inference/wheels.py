"""The packages that bring onnxruntime, of which a machine needs exactly one, and what pip makes of them."""

from __future__ import annotations

from importlib import metadata

from ortgpt.manifest import parse_version

CPU_WHEEL, GPU_WHEEL = WHEELS = ("onnxruntime", "onnxruntime-gpu")
NEWEST_GPU = (1, 31)  # of the GPU wheel, when this was written
INSTALL_ONE = 'pip install "ortgpt[cpu]", or for NVIDIA devices: pip install "ortgpt[gpu]"'
CHANGE_TO_GPU = 'pip uninstall -y onnxruntime && pip install "ortgpt[gpu]"'


def installed_wheels() -> dict[str, str | None]:
    """The version of each; None: it is not installed."""
    return {name: installed_version(name) for name in WHEELS}


def installed_version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def upgrade_command(needed: str) -> str:
    """How pip brings the wheel that is there to a version."""
    wheels = installed_wheels()
    is_gpu = wheels[GPU_WHEEL] and not wheels[CPU_WHEEL]
    command = f'pip install -U "{GPU_WHEEL if is_gpu else CPU_WHEEL}>={needed}"'
    if is_gpu and parse_version(needed) > NEWEST_GPU:
        command += "; where there is none yet, export the bundle with --onnxruntime-floor 1.31"
    return command


def find_wheel_problems() -> list[str]:
    """What is wrong with the wheels as they are installed, with the remedy; a sentence each."""
    wheels = installed_wheels()
    if not any(wheels.values()):
        return [f"onnxruntime is not installed: {INSTALL_ONE}"]
    if all(wheels.values()):
        return [
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: "
            "pip uninstall -y onnxruntime onnxruntime-gpu, then install one: " + INSTALL_ONE
        ]
    return []


def broken_wheel(problem: str) -> str:
    """A wheel that is installed and yet not there: the other one was, and was uninstalled."""
    wheels = installed_wheels()
    name = next(name for name in WHEELS if wheels[name])
    return f"{name} is installed, but {problem}: pip install --force-reinstall --no-deps {name}"

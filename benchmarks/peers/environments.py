"""A virtual environment per peer, made once for its requirement file; and what one takes on the disk."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from catalogue import HOME, OURS, REPOSITORY
from measurement import say

ENVIRONMENTS = HOME / "env"
REQUIREMENTS = Path(__file__).resolve().with_name("requirements")
STAMP = "made-from"
# Packages that an installer brings and no engine uses.
INSTALLERS = ("pip", "setuptools", "pkg_resources", "_distutils_hack", "distutils-precedence.pth", "wheel")
# By environment: what pip must not have brought, and settings of the build.
UNWANTED = {"openvino-convert": ("torchvision",)}
# llama.cpp is built from its source for this processor, without the parts that nothing here runs.
BUILD_SETTINGS = {
    "llama": {
        "CMAKE_ARGS": " ".join(
            f"-DLLAMA_{part}=OFF"
            for part in ("BUILD_TESTS", "BUILD_EXAMPLES", "BUILD_SERVER", "BUILD_APP", "OPENSSL")
        ),
        "LLAMA_CPP_BUILD_JOBS": str(os.cpu_count()),
    }
}


def interpreter(environment: str) -> Path:
    return ENVIRONMENTS / environment / "bin" / "python"


def program(environment: str, name: str) -> Path:
    return ENVIRONMENTS / environment / "bin" / name


def make_environment(environment: str) -> None:
    """Make it anew unless it was made from what it would be made from now; one process at a time."""
    ENVIRONMENTS.mkdir(parents=True, exist_ok=True)
    with (ENVIRONMENTS / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp, origin = ENVIRONMENTS / environment / STAMP, _origin(environment)
        if not stamp.exists() or stamp.read_text() != origin:
            _make(environment)
            stamp.write_text(origin)


def _make(environment: str) -> None:
    say(f"making the environment {environment}")
    directory = ENVIRONMENTS / environment
    shutil.rmtree(directory, ignore_errors=True)
    _run([sys.executable, "-m", "venv", directory])
    wanted = ["-r", REQUIREMENTS / f"{environment}.txt"]
    if environment == OURS:
        wanted = [f"{REPOSITORY}[cpu]"]
    pip = [interpreter(environment), "-m", "pip"]
    _run([*pip, "install", "--quiet", *wanted], BUILD_SETTINGS.get(environment, {}))
    if environment in UNWANTED:
        _run([*pip, "uninstall", "--quiet", "--yes", *UNWANTED[environment]])


def installed_bytes(environment: str) -> int:
    """Files of all packages but the installers', compiled modules included, as pip left them."""
    (packages,) = (ENVIRONMENTS / environment / "lib").glob("python3*/site-packages")
    return sum(
        path.lstat().st_size
        for entry in packages.iterdir()
        if not entry.name.startswith(INSTALLERS)
        for path in ([entry] if entry.is_file() else entry.rglob("*"))
        if path.is_file() and not path.is_symlink()
    )


def installed_versions(environment: str) -> dict[str, str]:
    """Version by distribution, from the names of their directories."""
    (packages,) = (ENVIRONMENTS / environment / "lib").glob("python3*/site-packages")
    stems = sorted(entry.name.removesuffix(".dist-info") for entry in packages.glob("*.dist-info"))
    return dict(stem.rsplit("-", 1) for stem in stems if not stem.startswith(INSTALLERS))


def digest_of_sources() -> str:
    """Changes with every change of this project's sources."""
    sources = [path for root in ("runtime", "export") for path in sorted((REPOSITORY / root).rglob("*.py"))]
    sources.append(REPOSITORY / "pyproject.toml")
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def _origin(environment: str) -> str:
    """What the environment is made from: for ours the sources, for a peer its requirement file."""
    return digest_of_sources() if environment == OURS else (REQUIREMENTS / f"{environment}.txt").read_text()


def _run(command: list[object], settings: dict[str, str] | None = None) -> None:
    """stdout belongs to the report."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    words = [str(word) for word in command]
    if subprocess.run(words, env=kept | (settings or {}), stdout=sys.stderr).returncode:
        raise SystemExit(f"error: {' '.join(words)} failed; its own message stands above")

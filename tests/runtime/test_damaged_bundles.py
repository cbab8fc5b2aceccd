"""Bundles with flipped bits: found by the digests, and harmless even when nobody looks at those."""

from __future__ import annotations

import ast
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ortgpt

MakeBundle = Callable[..., Path]

PROGRAM = """
import random, sys
from pathlib import Path
import ortgpt
bundle, seed, flips = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
random.seed(seed)
files = sorted(path for path in bundle.iterdir() if path.is_file())
outcomes = {}
for _ in range(flips):
    path = random.choice(files)
    whole = path.read_bytes()
    data = bytearray(whole)
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    path.write_bytes(data)
    try:
        with ortgpt.load(bundle, verify=False, threads=1) as model:
            model.generate(list(range(10)), max_new_tokens=2)
        outcome = "ran"
    except ortgpt.OrtgptError as error:
        outcome = type(error).__name__
    outcomes[outcome] = outcomes.get(outcome, 0) + 1
    path.write_bytes(whole)
print(outcomes)
"""


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"precision": "int8"},
        {"precision": "int8-dynamic"},
        {"precision": "int4"},
        {"precision": "int8", "fast_prefill": True},
    ],
)
def test_a_flipped_bit_without_verification_is_a_typed_error_or_harmless(
    make_bundle: MakeBundle, tmp_path: Path, options: dict[str, Any]
) -> None:
    """FAULTS 10: in a process of its own, which must not crash."""
    bundle = tmp_path / "bundle"
    shutil.copytree(make_bundle(**options), bundle)
    shown = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(bundle), "0", "250"], capture_output=True, text=True, timeout=300
    )
    assert shown.returncode == 0, shown.stderr[-2000:]
    outcomes = ast.literal_eval(shown.stdout.splitlines()[-1])  # tokenizers prints there too
    assert sum(outcomes.values()) == 250
    assert set(outcomes) >= {"ran", "BundleError"}


def test_a_flipped_bit_is_always_found(make_bundle: MakeBundle, tmp_path: Path) -> None:
    """FAULTS 10: everywhere but in the manifest, which has no digest of its own."""
    bundle = tmp_path / "bundle"
    shutil.copytree(make_bundle(), bundle)
    names = json.loads((bundle / "manifest.json").read_text())["files"]
    rng = random.Random(1)
    for _ in range(2000):
        path = bundle / rng.choice(list(names))
        place, bit = rng.randrange(path.stat().st_size), 1 << rng.randrange(8)
        flip(path, place, bit)
        try:
            ortgpt.load(bundle)
        except ortgpt.BundleIntegrityError as error:
            assert path.name in str(error)  # noqa: PT017 (2,000 contexts of raises would hide which)
        else:
            raise AssertionError(f"bit {bit} of byte {place} of {path.name} was not missed")
        flip(path, place, bit)
    ortgpt.load(bundle).close()


def flip(path: Path, place: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        value = file.read(1)[0]
        file.seek(place)
        file.write(bytes([value ^ bit]))

"""What each precision costs and saves: storyteller exported in all of them, as a table and a chart.

python benchmarks/precision.py                         table to stdout, JSON line last
python benchmarks/precision.py --chart docs/images/precision.svg

Quality is what the export itself measures and writes into the manifest; sizes are of whole bundles.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from chart import Axis, Point, points
from report import describe_machine, json_line, table

from ortgpt.manifest import Manifest
from ortgpt_export.exporter import export_checkpoint

STORYTELLER = Path(__file__).resolve().parents[1] / "models" / "storyteller"
BUNDLES: dict[str, dict[str, Any]] = {
    "fp16": {"precision": "fp16"},
    "int8": {"precision": "int8"},
    "int8, row-invariant": {"precision": "int8", "row_invariant": True},
    "int8-dynamic": {"precision": "int8-dynamic"},
    "int4": {"precision": "int4"},
    "int4, row-invariant": {"precision": "int4", "row_invariant": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=STORYTELLER, metavar="DIR")
    parser.add_argument("--text", type=Path, metavar="FILE", help="measure this text's perplexity too")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="write the chart there, as SVG")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = {
            name: measure(given.checkpoint, Path(folder) / "bundle", given.text, options)
            for name, options in BUNDLES.items()
        }
    print(table([["", "MB", "KL per token", "top-1", "perplexity", "of fp32"], *map(row, found.items())]))
    if given.chart is not None:
        given.chart.parent.mkdir(parents=True, exist_ok=True)
        given.chart.write_text(draw(found))
    machine = describe_machine(("ortgpt", "onnxruntime", "numpy"))
    print(json_line({"benchmark": "precision", "machine": machine, "bundles": found}))


def measure(
    checkpoint: Path, bundle: Path, text: Path | None, options: dict[str, Any]
) -> dict[str, float | None]:
    """Size in MB and the manifest's quality of one export."""
    manifest: Manifest = export_checkpoint(
        str(checkpoint), bundle, perplexity_text=text, force=True, quiet=True, **options
    )
    quality = manifest.quality
    assert quality is not None
    perplexity = quality.perplexity
    return {
        "megabytes": sum(path.stat().st_size for path in bundle.iterdir()) / 1e6,
        "kl_divergence": quality.kl_divergence,
        "top1_agreement": quality.top1_agreement,
        "perplexity": None if perplexity is None else perplexity.value,
        "fp32_perplexity": None if perplexity is None else perplexity.fp32,
    }


def row(item: tuple[str, dict[str, Any]]) -> list[str]:
    name, found = item
    both = (found["perplexity"], found["fp32_perplexity"])
    return [
        name,
        f"{found['megabytes']:.2f}",
        f"{found['kl_divergence']:.5f}",
        f"{found['top1_agreement']:.1%}",
        *("" if value is None else f"{value:.3f}" for value in both),
    ]


def draw(found: dict[str, dict[str, Any]]) -> str:
    """Size across, loss upwards."""
    marks = {name: [Point(one["megabytes"], one["kl_divergence"], name)] for name, one in found.items()}
    size = Axis("whole bundle, MB", (0, 2, 4, 6, 8, 10, 12, 14))
    loss = Axis("KL from fp32, nats per token", (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1), is_log=True)
    return points("Storyteller: what a precision saves and loses", size, loss, marks)


if __name__ == "__main__":
    main()

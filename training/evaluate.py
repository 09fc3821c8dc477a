"""Evaluate a model on held-out images with frozen, independently trained classifiers.

E1 edit success of every task, E2 preservation of the other labels, E3 reconstruction (self and
cycle, never mixed), E4 Fréchet distances beside their floor, E5 diversity of models with styles,
E6 identity, E7 cost; beside them, what the translator that copies its input scores.

python -m training.evaluate MODEL DATASET JUDGE --out O --report R.html --metrics M.json
"""

import argparse
import sys
from pathlib import Path

from training.core import cli
from training.core.config import EvalConfig, from_json
from training.core.files import read_json, write_bytes, write_json
from training.evaluation.cache import ScoreCache, weight_digests
from training.evaluation.measure import Other, measure
from training.evaluation.numbers import flat
from training.evaluation.publish import publish
from training.evaluation.scorecard import render
from training.inference.translator import translator_from_files
from training.registry.references import model_files
from training.storage.store import Manifest, open_store


def evaluate(
    model: Path,
    dataset: Path,
    judge: Path,
    eval_config: str,
    out: Path,
    report: Path,
    metrics: Path,
    compare: str = "",
) -> Manifest:
    """Measure a model and write everything that is known of it.

    Takes manifests of kind "model", "dataset" and "judge", and JSON of EvalConfig ("" for its
    defaults); `compare` is a second model for Fig. 6: a manifest, NAME/VERSION or NAME@ALIAS.
    Writes the manifest of kind "evaluation" to `out`, the self-contained HTML to `report`, and
    flat JSON of finite numbers to `metrics`; its scores are cached for promotion. Raises
    ValueError where the judge is below its floor, the three do not belong together, or a number
    is not finite.
    """
    config, store = from_json(EvalConfig, eval_config), open_store()
    trained, data = Manifest.read(model, "model"), Manifest.read(dataset, "dataset")
    other = Other(translator_from_files(model_files(compare)), compare) if compare else None
    found = measure(trained, data, Manifest.read(judge, "judge"), config, store, other)
    numbers, page = flat(found), render(found)
    manifest = publish(found, page, store)
    ScoreCache(store, found.subject.fingerprint).keep(weight_digests(trained), found.table)
    manifest.write(out, store)
    write_bytes(report, page.encode())
    write_json(metrics, numbers)
    return manifest


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    for name in ("model", "dataset", "judge"):
        parser.add_argument(name, type=Path, help=f"manifest of kind {name}")
    parser.add_argument("--config", default="", help="EvalConfig as JSON; empty: its defaults")
    parser.add_argument("--compare", default="", help="a second model, for Fig. 6")
    parser.add_argument("--out", type=Path, required=True, help="the manifest to write")
    parser.add_argument("--report", type=Path, required=True, help="the HTML to write")
    parser.add_argument("--metrics", type=Path, required=True, help="the JSON to write")
    args = parser.parse_args(argv)
    evaluate(
        args.model, args.dataset, args.judge, args.config, args.out, args.report, args.metrics,
        args.compare,
    )  # fmt: skip
    numbers = read_json(args.metrics)
    for name in ("success_mean", "success_worst", "preservation_mean", "self_psnr", "learned"):
        if name in numbers:
            sys.stdout.write(f"{name:20} {numbers[name]:.4f}\n")


if __name__ == "__main__":
    cli.entry_point(main)

"""Evaluate a model on held-out images with frozen, independently trained classifiers.

E1 edit success of every task, E2 preservation of the other labels, E3 reconstruction (self and
cycle, reported separately), E4 Fréchet distances with their floor, E5 diversity of models with
styles, E6 identity, E7 cost. The baseline is a translator that returns its input unchanged.

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
    """Evaluate a model and write its manifest, report and metrics.

    Takes manifests of kind "model", "dataset" and "judge", and JSON of EvalConfig ("" for its
    defaults); `compare` is a second model for Fig. 6: a manifest, NAME/VERSION or NAME@ALIAS.
    Writes the manifest of kind "evaluation" to `out`, self-contained HTML to `report`, and flat
    JSON of finite numbers to `metrics`; the score table is cached for promotion. Raises ValueError
    if the judge's accuracy is below its floor, if labels or image sizes of model, data and judge
    differ, or if a number is not finite.
    """
    config, store = from_json(EvalConfig, eval_config), open_store()
    model_manifest, data = Manifest.read(model, "model"), Manifest.read(dataset, "dataset")
    other = Other(translator_from_files(model_files(compare)), compare) if compare else None
    result = measure(model_manifest, data, Manifest.read(judge, "judge"), config, store, other)
    numbers, page = flat(result), render(result)
    manifest = publish(result, page, store)
    ScoreCache(store, result.subject.fingerprint).keep(weight_digests(model_manifest), result.table)
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
    parser.add_argument("--config", default="", help="EvalConfig as JSON; default: its defaults")
    parser.add_argument(
        "--compare",
        default="",
        help="a second model, for Fig. 6: manifest, NAME/VERSION or NAME@ALIAS",
    )
    parser.add_argument("--out", type=Path, required=True, help="manifest to write")
    parser.add_argument("--report", type=Path, required=True, help="HTML report to write")
    parser.add_argument("--metrics", type=Path, required=True, help="metrics JSON to write")
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

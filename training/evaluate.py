"""Evaluate a model on held-out images with frozen, independently trained classifiers.

E1 edit success of every task, E2 preservation of the other labels, E3 reconstruction (self and
cycle, reported separately), E4 Fréchet distances with their floor, E5 diversity of models with
styles, E6 identity, E7 cost. The baseline is a translator that returns its input unchanged.

python -m training.evaluate MODEL DATASET JUDGE --out O --report R.html --metrics M.json
"""

from functools import wraps
from pathlib import Path
from typing import Annotated, Any

from training.core import cli
from training.core.cli import means
from training.core.config import EvalConfig, from_json
from training.core.files import read_json, write_bytes, write_json
from training.evaluation.cache import ScoreCache, weight_digests
from training.evaluation.measure import Other, measure
from training.evaluation.numbers import flat
from training.evaluation.publish import publish
from training.evaluation.scorecard import render
from training.inference.translator import translator_from_files
from training.registry.openlineage import recorded
from training.registry.references import model_files
from training.storage.store import Manifest, open_store

main = cli.program("python -m training.evaluate", __doc__)
OTHER = means("a second model, for Fig. 6: manifest, NAME/VERSION or NAME@ALIAS")
PRINTED = ("success_mean", "success_worst", "preservation_mean", "self_psnr", "learned")


@recorded("evaluate", ("model", "dataset", "judge"), ("out",))
def evaluate(
    model: Annotated[Path, means('manifest of kind "model"')],
    dataset: Annotated[Path, means('manifest of kind "dataset"')],
    judge: Annotated[Path, means('manifest of kind "judge"')],
    /,
    *,
    eval_config: Annotated[str, means("EvalConfig as JSON; empty: its defaults", "--config")] = "",
    compare: Annotated[str, OTHER] = "",
    out: Annotated[Path, means('manifest of kind "evaluation" to write')],
    report: Annotated[Path, means("self-contained HTML to write")],
    metrics: Annotated[Path, means("flat JSON of finite numbers to write")],
) -> Manifest:
    """Evaluate a model and write its manifest, report and metrics.

    The score table is cached for promotion. Raises ValueError if the judge's accuracy is below its
    floor, if labels or image sizes of model, data and judge differ, or if a number is not finite.
    """
    config, store = from_json(EvalConfig, eval_config), open_store()
    model_manifest, data = Manifest.read(model, "model"), Manifest.read(dataset, "dataset")
    other = Other(translator_from_files(model_files(compare)), compare) if compare else None
    result = measure(model_manifest, data, Manifest.read(judge, "judge"), config, store, other)
    numbers, page = flat(result), render(result)
    manifest = publish(result, page, store)
    cache = ScoreCache(store, result.subject.fingerprint, data.digest)
    cache.keep(weight_digests(model_manifest), result.scores)
    cache.keep_drifts(result.drifts)
    manifest.write(out, store)
    write_bytes(report, page.encode())
    write_json(metrics, numbers)
    return manifest


@main.default
@wraps(evaluate)
def command(*manifests: Path, **options: Any) -> str:
    evaluate(*manifests, **options)
    numbers = read_json(options["metrics"])
    return "\n".join(f"{name:20} {numbers[name]:.4f}" for name in PRINTED if name in numbers)


if __name__ == "__main__":
    cli.entry_point(main)

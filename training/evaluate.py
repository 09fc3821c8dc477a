"""What a model can do, by a frozen judge's word, on test images that neither has trained on.

E1 edit success of every task, E2 preservation of the other labels, E3 reconstruction (self and
cycle, never mixed), E4 Fréchet distances beside their floor, E5 diversity of models with styles,
E6 identity, E7 cost; beside them, what the translator that copies its input scores.

python -m training.evaluate MODEL DATASET JUDGE --out O --report R.html --metrics M.json
"""

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from training.core import cli
from training.core.config import EvalConfig, from_json
from training.core.files import canonical_json, read_json, sha256_bytes, write_bytes, write_json
from training.data.dataset import Faces
from training.evaluation.cost import cost
from training.evaluation.diversity import diversity
from training.evaluation.fingerprint import identity
from training.evaluation.frechet import Distances
from training.evaluation.gallery import Figure, compared, facts, masks, own, samples, worst
from training.evaluation.judges.judge import Judge, load_judge
from training.evaluation.score import View, score, views  # fmt: skip
from training.evaluation.scorecard import scorecard
from training.evaluation.summary import Numbers, key, summarise
from training.evaluation.symptoms import symptoms, worst_balance
from training.evaluation.verification import verification, verification_numbers
from training.inference.translator import Translator, load_translator, translator_from_files
from training.models.base import Ask
from training.registry.references import model_files
from training.storage.meta import EvaluationMeta
from training.storage.store import Manifest, Store, open_store

INTENSITIES = (1.0, 1.5, 2.0)  # 1 is that of training
SWEPT = 64  # images of each data set at each intensity


def _finite(numbers: Numbers) -> Numbers:
    bad = sorted(k for k, v in numbers.items() if not np.isfinite(v))
    if bad:
        raise ValueError(f"not finite: {', '.join(bad)}; the model or the judge is broken")
    return numbers


def evaluate(
    model: Path,
    dataset: Path,
    judge: Path,
    eval_config: str,
    out: Path,
    report: Path,
    metrics: Path,
    compare: str = "",
) -> Manifest[EvaluationMeta]:
    """Score a model and write everything that is known of it.

    Takes manifests of kind "model", "dataset" and "judge", and JSON of EvalConfig ("" for its
    defaults); `compare` is a second model for Fig. 6: a manifest, NAME/VERSION or NAME@ALIAS.
    Writes the manifest of kind "evaluation" to `out`, the self-contained HTML to `report`, and
    flat JSON of finite numbers to `metrics`. Raises ValueError where the judge is below its floor,
    the three do not belong together, or a number is not finite.
    """
    config, store = from_json(EvalConfig, eval_config), open_store()
    trained, data = Manifest.read(model, "model"), Manifest.read(dataset, "dataset")
    words = Manifest.read(judge, "judge")
    frozen = load_judge(words, store)
    frozen.require()
    faces = Faces.open(data, config.eval_split, store)
    translator = load_translator(trained, store)
    distances = Distances(frozen, config.inception)
    table = score(translator, faces, frozen, config, hook=distances.see)
    numbers, tasks = summarise(table, config)
    # validation images swell the real side
    spare = None if config.eval_split == "val" else _split(data, "val", store)
    real = (faces, spare, _split(data, "train", store))
    far = distances.table(*real)
    numbers |= _frechet_numbers(far, distances.kinds)
    apart, styled = diversity(translator, faces, frozen, config)
    numbers |= _style_numbers(apart)
    far_styles = []
    for way, seen in styled.items():
        rows = seen.table(*real)
        far_styles += [{"way": way, **row} for row in rows]
        numbers |= _frechet_numbers(rows, seen.kinds, way)
    numbers |= cost(translator, faces, config, frozen.device)
    for i, labels in enumerate(frozen.space.sets):
        numbers[key("judge_accuracy", labels.name)] = frozen.accuracy(i)
        if "error" in frozen.facts["datasets"][i]:
            numbers[key("judge_error", labels.name)] = frozen.facts["datasets"][i]["error"]
    asked = views(translator, faces, frozen, config)
    pictures, found = _pictures(translator, faces, frozen, asked, table, config)
    for mask in found["masks"]:
        where = key(mask["faces"], mask["labels"])
        numbers |= {f"mask_{kind}_{where}": mask[kind] for kind in ("proper", "wrong")}
    found["verification"] = verification(table, faces, frozen, asked, config)
    numbers |= verification_numbers(found["verification"])
    if compare:
        models = (translator, trained, compare)
        picture, found["compare"] = _compare(models, table, faces, frozen, config)
        pictures.append(picture)
    meta = EvaluationMeta(
        identity=identity(data, words, config, store),
        judge=words.digest,
        dataset=data.digest,
        split=config.eval_split,
        model=trained.digest,
    )
    details = {
        **meta.to_json(),
        "tasks": tasks,
        "domains": far,
        **found,
        "judge_facts": frozen.facts,
    }
    details["sweep"] = sweep(translator, faces, frozen, config)
    for row in details["sweep"]:
        at = f"at_{row['intensity']:g}"
        numbers |= {key(k, at): row[k] for k in ("success_mean", "preservation_mean") if k in row}
    took = trained.about.get("training", {})
    signs = symptoms(translator.model, translator.nets, faces, translator.space, frozen.device)
    signs += worst_balance(translator.model, took)
    numbers |= {f"symptom_{s.name}": s.value for s in signs}
    details |= {"diversity": apart, "styles": far_styles}
    details["symptoms"] = [{**s._asdict(), "bad": s.bad} for s in signs]
    details["training"] = took
    page = scorecard(_finite(numbers), details, pictures, translator.config)
    manifest = _write(meta, numbers, details, table, pictures, page, store)
    _keep_scores(trained, table, meta.identity, store)
    manifest.write(out, store)
    write_bytes(report, page.encode())
    write_json(metrics, numbers)
    return manifest


def sweep(
    translator: Translator, faces: Faces, judge: Judge, config: EvalConfig
) -> list[dict[str, float]]:
    """Success and its price at intensities inside and beyond those of training.

    Of a model that takes an intensity; on at most 64 images of each data set.
    """
    if "intensity" not in getattr(translator.model, "takes", ()):
        return []
    few = replace(config, limit=min(config.limit or SWEPT, SWEPT))
    rows = []
    for intensity in INTENSITIES:
        asked = replace(translator, ask=Ask(intensity=intensity))
        table = score(asked, faces, judge, few, what=f"intensity {intensity:g}")
        numbers = summarise(table, few)[0]
        chosen = ("success_mean", "success_worst", "preservation_mean", "identity_cosine")
        rows.append({"intensity": intensity, **{k: numbers[k] for k in chosen if k in numbers}})
    return rows


def _split(data: Manifest, split: str, store: Store) -> Faces | None:
    """Images for the real side of distances; not every data set has any."""
    try:
        return Faces.open(data, split, store)
    except ValueError:
        return None


def _style_numbers(rows: list[dict[str, Any]]) -> Numbers:
    """Mean distance of a way's outputs from each other, and of outputs from inputs (E5)."""
    out: Numbers = {}
    for way in dict.fromkeys(row["way"] for row in rows):
        mine = [row for row in rows if row["way"] == way]
        name = mine[0]["distance"]
        out[key(name, way)] = float(np.mean([row["apart"] for row in mine]))
        out[key(name, way, "from_input")] = float(np.mean([row["from_input"] for row in mine]))
    return out


def _frechet_numbers(far: list[dict[str, Any]], kinds: list[str], way: str = "") -> Numbers:
    """Each domain's distance, and means over a data set's domains beside their floors' mean."""
    out: Numbers = {}
    for dataset in dict.fromkeys(row["dataset"] for row in far):
        rows = [row for row in far if row["dataset"] == dataset]
        for kind in kinds:
            out |= {key(kind, way, dataset, row["domain"]): row[kind] for row in rows}
            for name in (kind, f"{kind}_floor", f"{kind}_train"):
                if all(name in row for row in rows):
                    out[key(name, way, dataset)] = float(np.mean([row[name] for row in rows]))
    return out


def _pictures(
    translator: Translator,
    faces: Faces,
    judge: Judge,
    asked: list[View],
    table: pd.DataFrame,
    config: EvalConfig,
) -> tuple[list[Figure], dict[str, Any]]:
    pictures = [samples(translator, faces, view, judge.device) for view in asked]
    pictures += [f for view in asked for f in own(translator, faces, view, judge.device)]
    grids, results = masks(translator, faces, judge, asked, config)
    failures = [worst(translator, faces, view, table, judge.device) for view in asked]
    return [*pictures, *grids, *(f for f in failures if f)], {"masks": [facts(r) for r in results]}


def _compare(
    models: tuple[Translator, Manifest, str],
    table: pd.DataFrame,
    faces: Faces,
    judge: Judge,
    config: EvalConfig,
) -> tuple[Figure, dict[str, Any]]:
    """Fig. 6 on a data set that both models know: expressions where they share them."""
    translator, trained, source = models
    other = translator_from_files(model_files(source))
    shared = [s for s in faces.space.sets if other.space.matching(s) is not None]
    if not shared:
        known = ", ".join(s.name for s in other.space.sets)
        raise ValueError(f"{source}: knows {known}, nothing of this data set's labels")
    name = next((s.name for s in shared if s.kind == "onehot"), shared[0].name)
    again = score(other, faces, judge, config, only=[name], what="compare")
    mine = views(translator, faces, judge, config, [name])[0]
    theirs = views(other, faces, judge, config, [name])[0]
    titles = tuple("joint" if len(t.space.sets) > 1 else "single" for t in (translator, other))
    if titles[0] == titles[1]:
        titles = ("this model", "the other")
    picture = compared(translator, other, faces, mine, theirs, (titles[0], titles[1]), judge.device)
    own = summarise(table[table["dataset"] == name], config)[0]
    its = summarise(again, config)[0]
    chosen = ("success_mean", "success_low", "success_high", "identity_cosine", "self_psnr")
    return picture, {
        "dataset": name,
        "models": {titles[0]: trained.digest, titles[1]: source},
        "numbers": {titles[0]: {k: own[k] for k in chosen}, titles[1]: {k: its[k] for k in chosen}},
    }


def _write(
    meta: EvaluationMeta,
    numbers: Numbers,
    details: dict[str, Any],
    table: pd.DataFrame,
    pictures: list[Figure],
    page: str,
    store: Store,
) -> Manifest[EvaluationMeta]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_json(root / "metrics.json", numbers)
        write_json(root / "details.json", details)
        table.to_parquet(root / "scores.parquet", index=False)
        (root / "report.html").write_text(page, encoding="utf-8")
        names = ["metrics.json", "details.json", "scores.parquet", "report.html"]
        files = {name: root / name for name in names}
        (root / "grids").mkdir()
        for picture in (pictures[0]._replace(name="samples.png"), *pictures[1:]):
            path = root / "grids" / picture.name
            path.write_bytes(picture.png)
            files[f"grids/{picture.name}"] = path
        rows = {"scores.parquet": len(table)}
        return Manifest.build("evaluation", files, meta, rows=rows, store=store)


def _keep_scores(trained: Manifest, table: pd.DataFrame, evaluation: str, store: Store) -> None:
    """Put this table where promotion looks before it scores."""
    kinds = ("nets/", "ema/", "config.json", "label_space.json")
    weights = {e.name: e.sha256 for e in trained.entries if e.name.startswith(kinds)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scores.parquet"
        table.to_parquet(path)
        entry = store.put(path)
    name = f"scores/{sha256_bytes(canonical_json([dict(sorted(weights.items())), evaluation]))}"
    store.refer(name, f"{entry.sha256} {entry.size}")


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
    cli.run(main)

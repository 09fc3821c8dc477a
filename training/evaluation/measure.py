"""Measure a model: every score, picture and diagnostic of one evaluation."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import pandas as pd

from training.core.config import EvalConfig
from training.data.dataset import Faces
from training.evaluation.cost import cost
from training.evaluation.diagnostics import diagnostics, worst_balance
from training.evaluation.diversity import diversity
from training.evaluation.fingerprint import fingerprint
from training.evaluation.frechet import Distances
from training.evaluation.gallery import compared, masks, own, samples, worst
from training.evaluation.judges.judge import Judge, load_judge
from training.evaluation.records import (
    ComparedModel,
    Comparison,
    Evaluation,
    Figure,
    JudgeFacts,
    MaskResult,
    Subject,
    Summary,
    SweepPoint,
)
from training.evaluation.score import View, score, views
from training.evaluation.summary import summarise
from training.evaluation.verification import verification
from training.inference.translator import Translator, load_translator
from training.models.base import EditOptions
from training.storage.store import Manifest, Store

INTENSITIES = (1.0, 1.5, 2.0)  # 1 is that of training
SWEPT = 64  # images of each data set at each intensity


class Other(NamedTuple):
    """A second model for Fig. 6, and where it comes from."""

    translator: Translator
    source: str


@dataclass(frozen=True)
class Bench:
    """What a model is measured on."""

    translator: Translator
    faces: Faces
    judge: Judge
    config: EvalConfig


def measure(
    model: Manifest,
    dataset: Manifest,
    judge: Manifest,
    config: EvalConfig,
    store: Store,
    other: Other | None = None,
) -> Evaluation:
    """Score a model on one split of a data set by a frozen judge.

    Raises ValueError where the judge is below its floor or the three do not belong together.
    """
    frozen = load_judge(judge, store)
    frozen.require()
    faces = Faces.open(dataset, config.eval_split, store)
    bench = Bench(load_translator(model, store), faces, frozen, config)
    translator = bench.translator
    distances = Distances(frozen, config.inception)
    table = score(translator, faces, frozen, config, hook=distances.see)
    summary, tasks = summarise(table, config)
    # validation images swell the real side
    spare = None if config.eval_split == "val" else _split(dataset, "val", store)
    real = (faces, spare, _split(dataset, "train", store))
    domains = distances.table(*real)
    spreads, styled = diversity(translator, faces, frozen, config)
    styles = [row for way, seen in styled.items() for row in seen.table(*real, way=way)]
    spent = cost(translator, faces, config, frozen.device)
    asked = views(translator, faces, frozen, config)
    pictures, results = _pictures(bench, asked, table)
    verified = verification(table, faces, frozen, asked, config)
    comparison = None
    if other is not None:
        figure, comparison = _compare(bench, table, model.digest, other)
        pictures.append(figure)
    took = model.about.get("training", {})
    signs = diagnostics(translator.model, translator.nets, faces, translator.space, frozen.device)
    return Evaluation(
        subject=Subject(
            fingerprint(dataset, judge, config, store),
            judge.digest,
            dataset.digest,
            config.eval_split,
            model.digest,
        ),
        config=translator.config,
        summary=summary,
        tasks=tasks,
        domains=domains,
        diversity=spreads,
        styles=styles,
        cost=spent,
        judge=JudgeFacts.read(frozen.facts),
        masks=results,
        verification=verified,
        sweep=sweep(translator, faces, frozen, config),
        symptoms=[*signs, *worst_balance(translator.model, took)],
        training=took,
        comparison=comparison,
        pictures=pictures,
        table=table,
    )


def sweep(
    translator: Translator, faces: Faces, judge: Judge, config: EvalConfig
) -> list[SweepPoint]:
    """Success and its price at intensities inside and beyond those of training.

    Of a model that takes an intensity; on at most 64 images of each data set.
    """
    if "intensity" not in translator.model.supported_options:
        return []
    few = replace(config, limit=min(config.limit or SWEPT, SWEPT))
    points = []
    for intensity in INTENSITIES:
        asked = replace(translator, options=EditOptions(intensity=intensity))
        table = score(asked, faces, judge, few, what=f"intensity {intensity:g}")
        found, _ = summarise(table, few)
        points.append(
            SweepPoint(
                intensity,
                found.success_mean,
                found.success_worst,
                found.preservation_mean,
                found.identity_cosine,
            )
        )
    return points


def _split(dataset: Manifest, split: str, store: Store) -> Faces | None:
    """Images for the real side of distances; not every data set has any."""
    try:
        return Faces.open(dataset, split, store)
    except ValueError:
        return None


def _pictures(
    bench: Bench, asked: list[View], table: pd.DataFrame
) -> tuple[list[Figure], list[MaskResult]]:
    translator, faces, device = bench.translator, bench.faces, bench.judge.device
    pictures = [samples(translator, faces, view, device) for view in asked]
    pictures += [f for view in asked for f in own(translator, faces, view, device)]
    grids, results = masks(translator, faces, bench.judge, asked, bench.config)
    failures = [worst(translator, faces, view, table, device) for view in asked]
    return [*pictures, *grids, *(f for f in failures if f)], results


def _compare(
    bench: Bench, table: pd.DataFrame, digest: str, other: Other
) -> tuple[Figure, Comparison]:
    """Fig. 6 on a data set that both models know: expressions where they share them."""
    translator, faces, judge, config = bench.translator, bench.faces, bench.judge, bench.config
    space = other.translator.space
    shared = [s for s in faces.space.sets if space.matching(s) is not None]
    if not shared:
        known = ", ".join(s.name for s in space.sets)
        raise ValueError(f"{other.source}: knows {known}, nothing of this data set's labels")
    name = next((s.name for s in shared if s.kind == "onehot"), shared[0].name)
    again = score(other.translator, faces, judge, config, only=[name], what="compare")
    both = (translator, other.translator)
    mine, theirs = (views(each, faces, judge, config, [name])[0] for each in both)
    first, second = ("joint" if len(each.space.sets) > 1 else "single" for each in both)
    if first == second:
        first, second = "this model", "the other"
    titles = (first, second)
    picture = compared(*both, faces, mine, theirs, titles, judge.device)
    own_scores, _ = summarise(table[table["dataset"] == name], config)
    its_scores, _ = summarise(again, config)
    models = (
        _compared(first, digest, own_scores),
        _compared(second, other.source, its_scores),
    )
    return picture, Comparison(name, models)


def _compared(title: str, source: str, found: Summary) -> ComparedModel:
    return ComparedModel(
        title, source, found.success_mean, found.success_low, found.success_high,
        found.identity_cosine, found.self_psnr,
    )  # fmt: skip

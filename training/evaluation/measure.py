"""Evaluate a model: every score, figure and diagnostic of one evaluation."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import pandas as pd

from training.core.config import EvalConfig
from training.data.dataset import Faces
from training.evaluation.cost import cost
from training.evaluation.diagnostics import diagnostics, worst_balance
from training.evaluation.diversity import diversity
from training.evaluation.drift_sides import of_scored
from training.evaluation.evidence import evidence
from training.evaluation.fingerprint import fingerprint
from training.evaluation.gallery import (
    mask_figures,
    model_previews,
    samples,
    two_model_figure,
    worst_edits,
)
from training.evaluation.groups import by_group
from training.evaluation.judges.judge import Judge, load_judge
from training.evaluation.papers import by_papers
from training.evaluation.protocol import PAPER, check_published
from training.evaluation.realism import reals, scored
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

INTENSITIES = (1.0, 1.5, 2.0)  # 1 as in training
SWEEP_IMAGES = 64  # per data set and intensity


class Other(NamedTuple):
    """A second model for Fig. 6, and its reference or path."""

    translator: Translator
    source: str


@dataclass(frozen=True)
class Setup:
    """A model with the data, judge and configuration of its evaluation."""

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
    """Evaluate a model on one split of a data set with a frozen judge.

    Raises ValueError if the judge is below its floor, or the labels or image sizes of model, data
    and judge differ.
    """
    frozen = load_judge(judge, store)
    frozen.require()
    faces = Faces.open(dataset, config.eval_split, store)
    if config.protocol == PAPER:
        check_published(faces.space)
    setup = Setup(load_translator(model, store), faces, frozen, config)
    translator = setup.translator
    real = (faces, *reals(dataset, config, store))
    scores, distances = scored(translator, *real, frozen, config, config.inception)
    table = scores.table
    summary, tasks = summarise(table, config)
    domains = distances.table(*real)
    spreads, styled = diversity(translator, faces, frozen, config)
    styles = [row for way, seen in styled.items() for row in seen.table(*real, way=way)]
    drifts = of_scored(
        frozen, faces, real[2], lambda i: distances.real(i, faces, real[1])["frechet_vgg"]
    )
    groups, gaps = by_group(table, dataset, faces, config, store)
    translation_cost = cost(translator, faces, config, frozen.device)
    data_views = views(translator, faces, frozen, config)
    pictures, results = _pictures(setup, data_views, table)
    verified = verification(table, faces, frozen, data_views, config)
    comparison = None
    if other is not None:
        figure, comparison = _compare(setup, table, model.digest, other)
        pictures.append(figure)
    pictures += evidence(translator, faces, real[2], frozen, config, scores)
    papers = (
        by_papers(translator, faces, real[2], frozen, config) if config.protocol == PAPER else []
    )
    training = model.about.get("training", {})
    model_diagnostics = diagnostics(
        translator.model, translator.nets, faces, translator.space, frozen.device
    )
    return Evaluation(
        subject=Subject(
            fingerprint(dataset, judge, config, store),
            judge.digest,
            dataset.digest,
            config.eval_split,
            model.digest,
            config.protocol,
        ),
        config=translator.config,
        summary=summary,
        tasks=tasks,
        domains=domains,
        kids=scores.kids,
        diversity=spreads,
        styles=styles,
        cost=translation_cost,
        judge=JudgeFacts.read(frozen.facts),
        masks=results,
        verification=verified,
        sweep=sweep(translator, faces, frozen, config),
        symptoms=[*model_diagnostics, *worst_balance(translator.model, training)],
        training=training,
        comparison=comparison,
        pictures=pictures,
        table=table,
        papers=papers,
        drifts=drifts,
        groups=groups,
        gaps=gaps,
    )


def sweep(
    translator: Translator, faces: Faces, judge: Judge, config: EvalConfig
) -> list[SweepPoint]:
    """Scores at intensities in and beyond the training range, on at most 64 images per data set.

    Empty for models that do not support an intensity.
    """
    if "intensity" not in translator.model.supported_options:
        return []
    few = replace(config, limit=min(config.limit or SWEEP_IMAGES, SWEEP_IMAGES))
    points = []
    for intensity in INTENSITIES:
        scaled = replace(translator, options=EditOptions(intensity=intensity))
        table = score(scaled, faces, judge, few, what=f"intensity {intensity:g}")
        summary, _ = summarise(table, few)
        points.append(
            SweepPoint(
                intensity,
                summary.success_mean,
                summary.success_worst,
                summary.preservation_mean,
                summary.identity_cosine,
            )
        )
    return points


def _pictures(
    setup: Setup, data_views: list[View], table: pd.DataFrame
) -> tuple[list[Figure], list[MaskResult]]:
    translator, faces, device = setup.translator, setup.faces, setup.judge.device
    pictures = [samples(translator, faces, view, device) for view in data_views]
    pictures += [f for view in data_views for f in model_previews(translator, faces, view, device)]
    grids, results = mask_figures(translator, faces, setup.judge, data_views, setup.config)
    failures = [worst_edits(translator, faces, view, table, device) for view in data_views]
    return [*pictures, *grids, *(f for f in failures if f)], results


def _compare(
    setup: Setup, table: pd.DataFrame, digest: str, other: Other
) -> tuple[Figure, Comparison]:
    """Fig. 6 on a data set with labels that both models have, preferably expressions."""
    translator, faces, judge, config = setup.translator, setup.faces, setup.judge, setup.config
    space = other.translator.space
    shared = [s for s in faces.space.sets if space.matching(s) is not None]
    if not shared:
        known = ", ".join(s.name for s in space.sets)
        raise ValueError(f"{other.source}: has labels of {known}, none of this data set's labels")
    name = next((s.name for s in shared if s.kind == "onehot"), shared[0].name)
    other_table = score(other.translator, faces, judge, config, only=[name], what="compare")
    both = (translator, other.translator)
    mine, theirs = (views(each, faces, judge, config, [name])[0] for each in both)
    first, second = ("joint" if len(each.space.sets) > 1 else "single" for each in both)
    if first == second:
        first, second = "this model", "the other"
    titles = (first, second)
    picture = two_model_figure(*both, faces, mine, theirs, titles, judge.device)
    own_scores, _ = summarise(table[table["dataset"] == name], config)
    its_scores, _ = summarise(other_table, config)
    models = (
        _compared(first, digest, own_scores),
        _compared(second, other.source, its_scores),
    )
    return picture, Comparison(name, models)


def _compared(title: str, source: str, summary: Summary) -> ComparedModel:
    return ComparedModel(
        title, source, summary.success_mean, summary.success_low, summary.success_high,
        summary.identity_cosine, summary.self_psnr,
    )  # fmt: skip

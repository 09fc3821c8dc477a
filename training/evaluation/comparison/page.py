"""One page that compares models, from the evaluations of their runs and the models."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import mean

import numpy as np
import pandas as pd
from scipy.stats import t as student

from training.core.provenance import machine
from training.evaluation.comparison.figures import image_wall, shared_models
from training.evaluation.comparison.runs import ComparedRun, grouped, named
from training.evaluation.metrics import Z95, Interval, bootstrap
from training.evaluation.paper_tables import Table, of_systems
from training.evaluation.protocol import PAPER
from training.evaluation.records import Kid
from training.evaluation.summary import certain, clusters, look_draws
from training.rendering import html
from training.rendering.charts import Mark, cost_plot
from training.tracking import client as tracking

DRAWS = 1_000  # bootstrap samples
SHARES = ("success_mean", "preservation_mean")  # of edits
UPPER = dict.fromkeys((*SHARES, "background"), 1.0) | {"raster": 255.0}  # of metrics from 0


def _draws(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Bootstrap draws (draws, 1) of E1, E2, E3, E6 and of realism of one run.

    All runs use the same samples of people.
    """
    edits = table[table["single"] & table["changed"]]
    images = table.drop_duplicates(["dataset", "index"])
    guarded = edits[edits["others"] > 0]
    wanted = {
        "success_mean": (edits, "success", edits["dataset"] + "/" + edits["task"]),
        "preservation_mean": (guarded, "preservation", guarded["dataset"] + "/" + guarded["task"]),
        "identity_cosine": (edits, "identity_cosine", edits["single"]),
        "self_psnr": (images, "self_psnr", images["dataset"].eq("")),
        "self_ssim": (images, "self_ssim", images["dataset"].eq("")),
    }
    looks = {name: d[:, None] for name, d in look_draws(table, DRAWS).items() if name in UPPER}
    return looks | {
        name: bootstrap(rows[[column]].to_numpy(float), groups.to_numpy(), clusters(rows), DRAWS)
        for name, (rows, column, groups) in wanted.items()
        if len(rows)
    }


def intervals(tables: Sequence[pd.DataFrame]) -> dict[str, Interval]:
    """95 % intervals of a system's means over its seeds.

    One seed: cluster bootstrap over people. Several: Student's t on the sum of the variance between
    seeds and that of the bootstrap, with Welch–Satterthwaite degrees of freedom, since resampling
    two or three seeds would underestimate their spread.
    """
    seeds = [_draws(table) for table in tables]
    people = len(set(clusters(tables[0][tables[0]["single"] & tables[0]["changed"]])))
    out = {}
    for name in seeds[0]:
        if not all(name in draws for draws in seeds):
            continue
        values = np.stack([draws[name][:, 0] for draws in seeds], 1)
        if name in SHARES and (ends := certain(values, people)):
            out[name] = ends
        elif len(seeds) > 1:
            out[name] = seeds_interval(values, UPPER.get(name, np.inf))
        else:
            low, high = np.percentile(values, [2.5, 97.5])
            out[name] = (float(low), float(high))
    return out


def seeds_interval(values: np.ndarray, upper: float) -> Interval:
    """Interval of the mean over seeds of `values` (draws, seeds), in 0..`upper` if finite."""
    return _students(values.mean(0), float(values.mean(1).var(ddof=1)), upper)


def _students(means: np.ndarray, people: float, upper: float) -> Interval:
    """Interval of the mean of `means` (seeds,), whose variance over people is `people`."""
    n = len(means)
    between = means.var(ddof=1) / n
    freedom = (n - 1) * ((between + people) / between) ** 2 if between else np.inf
    half = student.ppf(0.975, freedom) * np.sqrt(between + people)
    lower = 0.0 if np.isfinite(upper) else -np.inf
    low, high = np.clip([means.mean() - half, means.mean() + half], lower, upper)
    return float(low), float(high)


@dataclass(frozen=True)
class System:
    """One system: means over its seeds and their 95 % intervals; None if not measured.

    Shares in 0..1; `lead`: lowest and highest lead of D over G in training; `alarms`: symptoms out
    of range; `images`: of training, None if unknown; `seeds`: success by seed; `tasks`: by edit.
    """

    name: str
    learned: bool
    success_mean: float
    success_worst: float
    copy_success_mean: float
    preservation_mean: float | None
    identity_cosine: float
    self_psnr: float
    self_ssim: float
    raster: float | None
    kid: float | None
    background: float | None
    error_mean: float | None
    copy_error_mean: float | None
    judge_error: float | None
    verified: float | None
    parameters: float
    parameters_total: float
    models: float
    gmac: float
    images_per_second_16: float
    images: float | None
    minutes: float
    intervals: Mapping[str, Interval]
    seeds: Mapping[int, float]
    tasks: Mapping[str, float]
    lead: Interval | None
    alarms: Sequence[str]

    def interval(self, name: str) -> Interval | None:
        return self.intervals.get(name)


def system(name: str, runs: Sequence[ComparedRun]) -> System:
    """Summarise the runs of one system, one per seed."""
    scores, costs = [run.summary for run in runs], [run.cost for run in runs]
    tables = [pd.read_parquet(run.evaluation.local("scores.parquet")) for run in runs]
    distances, ends = [distance(run.kids) for run in runs], intervals(tables)
    known = [one for one in distances if one is not None]
    if len(known) == len(runs):
        ends |= {"kid": distance_interval(known)}
    tasks = [{f"{t.dataset} {t.task}": t.success for t in run.tasks} for run in runs]
    return System(
        name=name,
        learned=all(s.learned for s in scores),
        success_mean=mean(s.success_mean for s in scores),
        success_worst=mean(s.success_worst for s in scores),
        copy_success_mean=mean(s.copy_success_mean for s in scores),
        preservation_mean=_mean([s.preservation_mean for s in scores]),
        identity_cosine=mean(s.identity_cosine for s in scores),
        self_psnr=mean(s.self_psnr for s in scores),
        self_ssim=mean(s.self_ssim for s in scores),
        raster=_mean([s.raster for s in scores]),
        kid=_mean([one and one[0] for one in distances]),
        background=_mean([s.background for s in scores]),
        error_mean=_mean([s.error_mean for s in scores]),
        copy_error_mean=_mean([s.copy_error_mean for s in scores]),
        judge_error=_mean_of(runs, "judge_error"),
        verified=_mean_of(runs, "verification_rate"),
        parameters=mean(c.parameters for c in costs),
        parameters_total=mean(c.parameters_total for c in costs),
        models=mean(c.models for c in costs),
        gmac=mean(c.gmac for c in costs),
        images_per_second_16=mean(c.images_per_second_16 for c in costs),
        images=_mean([run.model.meta.images for run in runs]),
        minutes=mean(run.minutes for run in runs),
        intervals=ends,
        seeds={
            run.model.meta.seed: s.success_mean
            for run, s in zip(runs, scores, strict=True)
            if run.model.meta.seed is not None
        },
        tasks={task: mean(seed[task] for seed in tasks) for task in tasks[0]},
        lead=_lead(runs),
        alarms=_alarms(runs),
    )


def distance(kids: Sequence[Kid]) -> tuple[float, Interval] | None:
    """KID as a multiple of the inputs', mean over data sets, with its 95 % interval over people.

    None unless it was measured for each of them. People of different data sets are independent.
    """
    found = [(k.ratio, k.low, k.high) for k in kids]
    known = [(r, low, high) for r, low, high in found if None not in (r, low, high)]
    if not known or len(known) < len(found):
        return None
    values, lows, highs = np.array(known, float).T
    half = float(np.sqrt(np.square((highs - lows) / 2).sum())) / len(known)
    value = float(values.mean())
    return value, (value - half, value + half)


def distance_interval(seeds: Sequence[tuple[float, Interval]]) -> Interval:
    """95 % interval of `distance` over seeds, whose people are the same."""
    if len(seeds) == 1:
        return seeds[0][1]
    halves = [(high - low) / 2 for _, (low, high) in seeds]
    return _students(np.array([value for value, _ in seeds]), (mean(halves) / Z95) ** 2, np.inf)


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean; None if any value is None."""
    known = [value for value in values if value is not None]
    return mean(known) if len(known) == len(values) else None


def _mean_of(runs: Sequence[ComparedRun], prefix: str) -> float | None:
    """Mean over data sets, then seeds, of the metrics with this prefix that every seed has."""
    names = [k for k in runs[0].numbers if k.startswith(prefix)]
    shared = [k for k in names if all(k in run.numbers for run in runs)]
    return mean(mean(run.numbers[k] for run in runs) for k in shared) if shared else None


def _lead(runs: Sequence[ComparedRun]) -> Interval | None:
    names = ("balance_least", "balance_most")
    ends = [run.training[k] for run in runs for k in names if k in run.training]
    return (min(ends), max(ends)) if ends else None


def _alarms(runs: Sequence[ComparedRun]) -> list[str]:
    """Diagnostics out of range, without duplicates."""
    signs = [sign for run in runs for sign in run.symptoms if sign.bad]
    return list(dict.fromkeys(f"{s.name} {s.value:.3g}: {s.says}" for s in signs))


@dataclass(frozen=True)
class Group:
    """Systems with comparable scores, with their figures (PNG); `data`: names of the data sets.

    All numbers of the systems are by our protocol; `papers` has those by papers', apart.
    """

    systems: Sequence[System]
    data: str
    copied: float
    seeds: Sequence[int]
    wall: tuple[bytes, str]  # and its legend
    costs: bytes
    papers: Sequence[Table] = ()


def _group(runs: Sequence[ComparedRun]) -> Group:
    names = named(runs)
    systems = [system(name, found) for name, found in names.items()]
    marks = [
        Mark(s.name, s.success_mean, *s.intervals["success_mean"], s.parameters, s.gmac, s.minutes)
        for s in systems
    ]
    return Group(
        systems,
        "+".join(part.name for part in runs[0].dataset.meta.datasets),
        mean(s.copy_success_mean for s in systems),
        sorted({seed for s in systems for seed in s.seeds}),
        image_wall(names),
        cost_plot(marks),
        of_systems({name: [run.papers for run in found] for name, found in names.items()}),
    )


def report(
    runs: Sequence[ComparedRun], title: str, remark: str = "", failed: Sequence[str] = ()
) -> str:
    """HTML page: tables, image wall and costs for every group of models with comparable scores."""
    groups = grouped(runs)
    mixed = shared_models(groups)
    return html.render(
        "comparison",
        title=title,
        made=f"{date.today():%Y-%m-%d}, {machine()}",
        remark=remark,
        failed=failed,
        groups=[_group(group) for group in groups],
        across=image_wall(mixed) if mixed else None,
    )


def record(runs: Sequence[ComparedRun], page: Path, facts: Mapping[str, str]) -> None:
    """Log the comparison as one MLflow run: every system's numbers, and the page."""
    if tracking.uri() == "off":
        return
    numbers: dict[str, float] = {}
    for name, found in named(runs).items():
        known = _metrics(system(name, found)) | _by_papers(found)
        numbers |= {f"{name}/{key}": value for key, value in known.items()}
    data = ",".join(sorted({run.dataset.digest for run in runs}))
    tags = {"role": "comparison", "dataset": data}
    tracking.log_run(
        "compare", page.stem, tags, {**facts, "machine": machine()}, numbers, {page.name: page}
    )


def _by_papers(runs: Sequence[ComparedRun]) -> dict[str, float]:
    """Means over seeds of the numbers by papers' protocols that every seed has."""
    first, *rest = (run.numbers for run in runs)
    shared = [k for k in first if k.startswith(f"{PAPER}_") and all(k in one for one in rest)]
    return {key: mean(run.numbers[key] for run in runs) for key in shared}


def _metrics(found: System) -> dict[str, float]:
    """The metrics of a system that are logged to MLflow."""
    values = {
        "success_mean": found.success_mean,
        "success_worst": found.success_worst,
        "preservation_mean": found.preservation_mean,
        "identity_cosine": found.identity_cosine,
        "self_psnr": found.self_psnr,
        "self_ssim": found.self_ssim,
        "raster": found.raster,
        "kid": found.kid,
        "background": found.background,
        "parameters": found.parameters,
        "gmac": found.gmac,
        "minutes": found.minutes,
        "images": found.images,
        "learned": float(found.learned),
    }
    numbers = {k: v for k, v in values.items() if v is not None and not math.isnan(v)}
    for key, (low, high) in found.intervals.items():
        numbers |= {f"{key}_low": low, f"{key}_high": high}
    return numbers

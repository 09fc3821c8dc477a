"""Aggregate a score table: by task, and in the numbers by which models are compared."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from training.core.config import EvalConfig
from training.evaluation.metrics import Interval, bootstrap, proportion_interval, wilson
from training.evaluation.raster import amplitude
from training.evaluation.realism import LOOKS
from training.evaluation.records import Summary, TaskScore
from training.evaluation.score import INTENSITY


def clusters(table: pd.DataFrame) -> np.ndarray:
    """Cluster id (n,) of each row: data set and person, or the image if the person is unknown."""
    image = "image " + table["index"].astype(str)
    people = table["identity"].where(table["identity"] != "", image)
    return np.asarray((table["dataset"] + "/" + people).to_numpy(str))


def by_task(table: pd.DataFrame, config: EvalConfig) -> list[TaskScore]:
    """E1, E2, E6 of each task over the images that it changes, with 95 % intervals."""
    out = []
    for (dataset, task), all_rows in table.groupby(["dataset", "task"], sort=False):
        rows = all_rows[all_rows["changed"]]
        if rows.empty:
            continue
        people = clusters(rows)
        low, high = proportion_interval(rows["success"].to_numpy(), people, config.bootstrap)
        out.append(
            TaskScore(
                dataset=dataset,
                task=task,
                single=bool(rows["single"].iloc[0]),
                images=len(rows),
                people=len(np.unique(people)),
                success=float(rows["success"].mean()),
                low=low,
                high=high,
                copy_success=float(rows["copy_success"].mean()),
                blind_success=float(rows["blind_success"].mean()),
                preservation=float(rows["preservation"].mean()),
                others=int(rows["others"].iloc[0]),
                identity_cosine=float(rows["identity_cosine"].mean()),
                **{k: float(rows[k].mean()) for k in INTENSITY if rows[k].notna().all()},
            )
        )
    return out


class Look(NamedTuple):
    """A mean over single edits with its 95 % interval over people."""

    value: float
    low: float
    high: float


def _stacked(table: pd.DataFrame, name: str) -> tuple[np.ndarray, pd.DataFrame] | None:
    """Values (n, m) of one of `realism.LOOKS` and their rows; None if it was not measured."""
    if name not in table:
        return None
    rows = table[table["single"].astype(bool) & table["changed"].astype(bool) & table[name].notna()]
    if rows.empty:
        return None
    return np.stack(rows[name].to_list()).astype(float).reshape(len(rows), -1), rows


def _tasks(rows: pd.DataFrame) -> np.ndarray:
    return np.asarray((rows["dataset"] + "/" + rows["task"]).to_numpy(str))


def _one(name: str, means: np.ndarray) -> np.ndarray:
    """The number (…,) of mean columns (…, m): of the raster its amplitude."""
    return amplitude(means) if name == "raster" else means[..., 0]


def look_means(table: pd.DataFrame) -> dict[str, float]:
    """The mean over tasks of each of `realism.LOOKS` that was measured.

    Of the raster the amplitude, in grey levels, of the tasks' mean power.
    """
    out = {}
    for name in LOOKS:
        if (found := _stacked(table, name)) is not None:
            values, groups = found[0], _tasks(found[1])
            means = np.mean([values[groups == g].mean(0) for g in np.unique(groups)], 0)
            out[name] = float(_one(name, means))
    return out


def look_draws(table: pd.DataFrame, draws: int) -> dict[str, np.ndarray]:
    """Bootstrap draws (draws,) over people of each of `look_means`."""
    found = {name: _stacked(table, name) for name in LOOKS}
    measured = {name: one for name, one in found.items() if one is not None}
    drawn: dict[str, np.ndarray] = {}
    while rest := [name for name in measured if name not in drawn]:
        # columns of the same rows are drawn together
        rows = measured[rest[0]][1]
        same = [name for name in rest if measured[name][1].index.equals(rows.index)]
        together = np.concatenate([measured[name][0] for name in same], 1)
        means = bootstrap(together, _tasks(rows), clusters(rows), draws)
        ends = np.cumsum([measured[name][0].shape[1] for name in same])[:-1]
        drawn |= dict(zip(same, np.split(means, ends, axis=1), strict=True))
    return {name: _one(name, means) for name, means in drawn.items()}


def looks(table: pd.DataFrame, draws: int) -> dict[str, Look]:
    """`look_means` with 95 % intervals."""
    out, drawn = {}, look_draws(table, draws)
    for name, value in look_means(table).items():
        low, high = np.percentile(drawn[name], [2.5, 97.5])
        out[name] = Look(value, float(low), float(high))
    return out


def _looks(table: pd.DataFrame, config: EvalConfig) -> dict[str, float]:
    out: dict[str, float] = {}
    for name, found in looks(table, config.bootstrap).items():
        out |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    return out


def certain(draws: np.ndarray, people: int) -> Interval | None:
    """Wilson's interval with one trial per person if all bootstrap `draws` of a share are 0, or 1.

    Resampling would give a point then. None in all other cases.
    """
    if draws.min() == draws.max() and draws.flat[0] in (0, 1):
        return wilson(float(draws.flat[0]) * people, people)
    return None


def summarise(table: pd.DataFrame, config: EvalConfig) -> tuple[Summary, list[TaskScore]]:
    """Summary of a score table, and the scores of its tasks.

    success_mean is the mean over single-edit tasks of the success rate on images that the task
    changes; learned is true if the lower end of the 95 % interval of its gain over copied inputs,
    and over self-reconstructions (paired bootstrap over identities), is above 0. Raises ValueError
    if no image is edited.
    """
    tasks = by_task(table, config)
    singles = [t for t in tasks if t.single]
    edits = table[table["single"] & table["changed"]]
    if edits.empty:
        raise ValueError("no test image can be edited: each already shows every target")
    pairs = edits[["success", "copy_success", "blind_success"]].to_numpy(float)
    groups = (edits["dataset"] + "/" + edits["task"]).to_numpy(str)
    draws = bootstrap(pairs, groups, clusters(edits), config.bootstrap)
    low, high = certain(draws[:, 0], len(set(clusters(edits)))) or np.percentile(
        draws[:, 0], [2.5, 97.5]
    )
    # gain over copied inputs, and over outputs that do not depend on the target
    rise = min(float(np.percentile(draws[:, 0] - draws[:, i], 2.5)) for i in (1, 2))
    images = table.drop_duplicates(["dataset", "index"])
    preserved = [t.preservation for t in singles if t.others]
    combined = [t.success for t in tasks if not t.single]
    summary = Summary(
        success_mean=float(np.mean([t.success for t in singles])),
        success_low=float(low),
        success_high=float(high),
        success_worst=min(t.success for t in singles),
        success_best=max(t.success for t in singles),
        copy_success_mean=float(np.mean([t.copy_success for t in singles])),
        blind_success_mean=float(np.mean([t.blind_success for t in singles])),
        success_rise_low=rise,
        learned=rise > 0,
        identity_cosine=float(edits["identity_cosine"].mean()),
        preservation_mean=float(np.mean(preserved)) if preserved else None,
        self_psnr=float(images["self_psnr"].mean()),
        self_ssim=float(images["self_ssim"].mean()),
        self_ssim_gaussian=float(images["self_ssim_gaussian"].mean()),
        cycle_psnr=float(edits["cycle_psnr"].mean()),
        cycle_ssim=float(edits["cycle_ssim"].mean()),
        cycle_ssim_gaussian=float(edits["cycle_ssim_gaussian"].mean()),
        success_combined=float(np.mean(combined)) if combined else None,
        **_looks(table, config),
        **_errors(edits, singles, config),
    )
    return summary, tasks


def _errors(edits: pd.DataFrame, singles: list[TaskScore], config: EvalConfig) -> dict[str, float]:
    """Means of the intensity errors, and the 95 % interval; empty without continuous labels."""
    measured = edits[edits["error"].notna()]
    if measured.empty:
        return {}
    out = {}
    for name in INTENSITY:
        values = [getattr(task, name) for task in singles]
        out[f"{name}_mean"] = float(np.mean([value for value in values if value is not None]))
    rows = measured[["error"]].to_numpy(float)
    groups = (measured["dataset"] + "/" + measured["task"]).to_numpy(str)
    draws = bootstrap(rows, groups, clusters(measured), config.bootstrap)
    low, high = np.percentile(draws, [2.5, 97.5])
    return out | {"error_low": float(low), "error_high": float(high)}

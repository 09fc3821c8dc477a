"""Scores in few numbers: each task's, and the flat metrics that a model is compared by."""

import re
from typing import Any

import numpy as np
import pandas as pd

from training.core.config import EvalConfig
from training.evaluation.metrics import Interval, bootstrap, proportion_interval, wilson
from training.evaluation.score import INTENSITY

Numbers = dict[str, float]


def clusters(table: pd.DataFrame) -> np.ndarray:
    """Who each row shows; an image of nobody known stands alone."""
    alone = "image " + table["index"].astype(str)
    who = table["identity"].where(table["identity"] != "", alone)
    return np.asarray((table["dataset"] + "/" + who).to_numpy(str))


def key(*parts: str) -> str:
    """A metric's name: only what every tracker takes."""
    return "_".join(re.sub(r"[^A-Za-z0-9.-]+", "_", part) for part in parts if part)


def by_task(table: pd.DataFrame, config: EvalConfig) -> list[dict[str, Any]]:
    """E1, E2, E6 of each task over the images that it changes, with 95 % intervals."""
    out = []
    for (dataset, task), all_rows in table.groupby(["dataset", "task"], sort=False):
        rows = all_rows[all_rows["changed"]]
        if rows.empty:
            continue
        who = clusters(rows)
        low, high = proportion_interval(rows["success"].to_numpy(), who, config.bootstrap)
        out.append(
            {
                "dataset": dataset,
                "task": task,
                "single": bool(rows["single"].iloc[0]),
                "images": len(rows),
                "people": len(np.unique(who)),
                "success": float(rows["success"].mean()),
                "low": low,
                "high": high,
                "copy_success": float(rows["copy_success"].mean()),
                "blind_success": float(rows["blind_success"].mean()),
                "preservation": float(rows["preservation"].mean()),
                "others": int(rows["others"].iloc[0]),
                "identity_cosine": float(rows["identity_cosine"].mean()),
                **{k: float(rows[k].mean()) for k in INTENSITY if rows[k].notna().all()},
            }
        )
    return out


def certain(draws: np.ndarray, people: int) -> Interval | None:
    """Wilson's interval of a share, a trial a person, where all its bootstrap `draws` are 0, or 1.

    There is nothing to resample then. None elsewhere.
    """
    if draws.min() == draws.max() and draws.flat[0] in (0, 1):
        return wilson(float(draws.flat[0]) * people, people)
    return None


def summarise(table: pd.DataFrame, config: EvalConfig) -> tuple[Numbers, list[dict[str, Any]]]:
    """The flat metrics of a score table, and the table of its tasks.

    success_mean is the mean over single-edit tasks of each one's share of successes, among images
    that the task changes; learned is 1 where its rise over copied inputs, and over the model's own
    reconstructions, paired and drawn over identities, lies above 0 with 95 % certainty. Raises
    ValueError where nothing was edited.
    """
    tasks = by_task(table, config)
    singles = [t for t in tasks if t["single"]]
    edits = table[table["single"] & table["changed"]]
    if edits.empty:
        raise ValueError("no test image can be edited: each already shows every target")
    pairs = edits[["success", "copy_success", "blind_success"]].to_numpy(float)
    groups = (edits["dataset"] + "/" + edits["task"]).to_numpy(str)
    draws = bootstrap(pairs, groups, clusters(edits), config.bootstrap)
    low, high = certain(draws[:, 0], len(set(clusters(edits)))) or np.percentile(
        draws[:, 0], [2.5, 97.5]
    )
    # beyond a copied input, and beyond what the model's outputs show whatever is asked of them
    rise = min(float(np.percentile(draws[:, 0] - draws[:, i], 2.5)) for i in (1, 2))
    images = table.drop_duplicates(["dataset", "index"])
    guarded = [t for t in singles if t["others"]]
    out = {
        "success_mean": float(np.mean([t["success"] for t in singles])),
        "success_low": float(low),
        "success_high": float(high),
        "success_worst": min(t["success"] for t in singles),
        "success_best": max(t["success"] for t in singles),
        "copy_success_mean": float(np.mean([t["copy_success"] for t in singles])),
        "blind_success_mean": float(np.mean([t["blind_success"] for t in singles])),
        "success_rise_low": rise,
        "learned": float(rise > 0),
        "identity_cosine": float(edits["identity_cosine"].mean()),
    }
    if guarded:
        out["preservation_mean"] = float(np.mean([t["preservation"] for t in guarded]))
    for name in ("self_psnr", "self_ssim", "self_ssim_gaussian"):
        out[name] = float(images[name].mean())
    for name in ("cycle_psnr", "cycle_ssim", "cycle_ssim_gaussian"):
        out[name] = float(edits[name].mean())
    measured = edits[edits["error"].notna()]
    for name in INTENSITY if len(measured) else ():
        out[f"{name}_mean"] = float(np.mean([t[name] for t in singles if name in t]))
    if len(measured):
        rows = measured[["error"]].to_numpy(float)
        groups = (measured["dataset"] + "/" + measured["task"]).to_numpy(str)
        low, high = np.percentile(
            bootstrap(rows, groups, clusters(measured), config.bootstrap), [2.5, 97.5]
        )
        out |= {"error_low": float(low), "error_high": float(high)}
    combined = [t["success"] for t in tasks if not t["single"]]
    if combined:
        out["success_combined"] = float(np.mean(combined))
    for t in tasks:
        out[key("success", t["dataset"], t["task"])] = t["success"]
    return out, tasks

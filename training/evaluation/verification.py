"""E6 as face verification: the share of edits that are verified as the person of their input.

The threshold is set at a false accept rate of 1e-3 on pairs of real, held-out images of different
people; the rate is the share of edits whose cosine with their input lies above it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from training.core.config import EvalConfig
from training.data.dataset import Faces, to_float
from training.evaluation.judges.judge import Judge
from training.evaluation.metrics import pairs, proportion_interval, threshold
from training.evaluation.records import Verification
from training.evaluation.score import BATCH, View, spread
from training.evaluation.summary import clusters

FAR = 1e-3  # false accept rate: share of impostor pairs above the threshold
IMAGES = 2_000  # maximum per data set: two million pairs


def verification(
    table: pd.DataFrame, faces: Faces, judge: Judge, data_views: Sequence[View], config: EvalConfig
) -> list[Verification]:
    """One record per data set; rates of single edits only if there are enough impostor pairs."""
    rows = []
    for view in data_views:
        part = faces.parts[view.dataset]
        known = [i for i in view.rows if part.identity[i]]
        known = [known[i] for i in spread(len(known), IMAGES)]
        names = np.array([part.identity[i] for i in known], dtype=str)
        genuine, impostors = pairs(_vectors(faces, judge, view, known), names)
        edits = table[(table["dataset"] == view.labels.name) & table["single"] & table["changed"]]
        rows.append(
            Verification(
                view.labels.name,
                people=len(set(names)),
                impostors=len(impostors),
                needed=round(1 / FAR),
                **_rates(edits, genuine, impostors, config),
            )
        )
    return rows


def _vectors(faces: Faces, judge: Judge, view: View, rows: list[int]) -> np.ndarray:
    """Unit identity vectors (n, d) of real images."""
    part = faces.parts[view.dataset]
    chunks = (to_float(part.images(rows[i : i + BATCH])) for i in range(0, len(rows), BATCH))
    found = [judge.embed(view.judged, judge.features(view.judged, x)) for x in chunks]
    return torch.cat(found).float().cpu().numpy() if found else np.zeros((0, 1), np.float32)


def _rates(
    edits: pd.DataFrame, genuine: np.ndarray, impostors: np.ndarray, config: EvalConfig
) -> dict[str, Any]:
    cutoff = threshold(impostors, FAR)
    if cutoff is None or edits.empty:
        return {}
    passed = (edits["identity_cosine"] > cutoff).to_numpy(float)
    low, high = proportion_interval(passed, clusters(edits), config.bootstrap)
    rates = {"threshold": cutoff, "passing": int((impostors > cutoff).sum()),
             "rate": float(passed.mean()), "low": low, "high": high,
             "genuine": len(genuine)}  # fmt: skip
    return rates | ({"real_rate": float((genuine > cutoff).mean())} if len(genuine) else {})

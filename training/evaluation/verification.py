"""E6 as face verification counts it: is an edit still taken for the person whom it was made of?

The threshold is the cosine that at most one in a thousand pairs of real, held-out images of two
people exceeds; the rate is the share of edits whose cosine with their input lies above it.
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

FAR = 1e-3  # share of impostors that may pass
IMAGES = 2_000  # of each data set at most, in two million pairs


def verification(
    table: pd.DataFrame, faces: Faces, judge: Judge, asked: Sequence[View], config: EvalConfig
) -> list[Verification]:
    """One record a data set: with rates of the single edits where its people allow a threshold."""
    rows = []
    for view in asked:
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
    at = threshold(impostors, FAR)
    if at is None or edits.empty:
        return {}
    passed = (edits["identity_cosine"] > at).to_numpy(float)
    low, high = proportion_interval(passed, clusters(edits), config.bootstrap)
    found = {"threshold": at, "passing": int((impostors > at).sum()), "rate": float(passed.mean()),
             "low": low, "high": high, "genuine": len(genuine)}  # fmt: skip
    return found | ({"real_rate": float((genuine > at).mean())} if len(genuine) else {})

"""One condition of the promotion gate."""

from typing import NamedTuple

import numpy as np
import pandas as pd


class Check(NamedTuple):
    """One condition: `value` must reach `bound`, or with `most` not exceed it.

    `why` is the reason given if it fails; `low` and `high` are a 95 % interval if there is one.
    """

    name: str
    value: float
    bound: float
    passed: bool
    why: str
    most: bool = False
    low: float | None = None
    high: float | None = None


def tasks(table: pd.DataFrame) -> np.ndarray:
    return np.asarray((table["dataset"].astype(str) + "/" + table["task"].astype(str)).to_numpy())

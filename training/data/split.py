"""Assign images to the train, val and test splits; no person is in two of them.

Assignments depend on SHA-256 hashes of names, not on the order of files or rows.
"""

import math

import pandas as pd

from training.core.config import DataConfig
from training.core.files import sha256_bytes

SPLITS = ("train", "val", "test")
PAPER_TEST = 2_000  # test images of the StarGAN paper's CelebA split
VAL_SHARE = 0.05  # of the identities (or images) where the source has no validation split


def assign(frame: pd.DataFrame, name: str, config: DataConfig) -> tuple[pd.Series, str]:
    """The split of every row of `frame` (columns file, identity, part), and how it was made.

    official: the source's own partition if every row has one (a missing validation split is taken
    from train; a `val` without `test` becomes the test split, as in AFHQ); otherwise as identity.
    identity: the `fold`-th `test_share` of the persons for test and `VAL_SHARE` of them for
    validation; an image without identity counts as a person. paper: random images, 2,000 for test,
    or `test_share` of them if that is fewer.

    Raises ValueError if `fold` does not exist or a split would be empty.
    """
    keys = frame["identity"].where(frame["identity"] != "", "file:" + frame["file"])
    by = "identity" if (frame["identity"] != "").any() else "image"
    if config.split == "paper":
        return _split_keys(frame["file"], name, config, PAPER_TEST), "image"
    if config.split == "official" and (frame["part"] != "").all():
        return _official(frame["part"], keys, name, config), "official"
    if config.split == "official" and (frame["part"] != "").any():
        missing = frame.loc[frame["part"] == "", "file"]
        raise ValueError(
            f"{name}: {len(missing)} images have no split in the official partition "
            f"({', '.join(missing.iloc[:3])}); complete it or set split=identity"
        )
    return _split_keys(keys, name, config), by


def _official(parts: pd.Series, keys: pd.Series, name: str, config: DataConfig) -> pd.Series:
    out = parts.copy()
    if "test" not in set(parts):
        out[parts == "val"] = "test"
    if "val" not in set(out):
        order = _order(keys[out == "train"], name)
        chosen = set(order[: _count(len(order), VAL_SHARE)])
        out[(out == "train") & keys.isin(chosen)] = "val"
    return out


def _split_keys(keys: pd.Series, name: str, config: DataConfig, most: int = 0) -> pd.Series:
    """Split the shuffled distinct `keys`: the fold's test share, then the validation share."""
    order = _order(keys, name)
    share = min(config.test_share, most / len(order)) if most and len(order) else config.test_share
    if not 0 < share < 1:
        raise ValueError(f"test_share={config.test_share}: more than 0 and less than 1 is needed")
    folds = math.floor(1 / config.test_share + 1e-9)
    if not 0 <= config.fold < folds:
        raise ValueError(f"fold={config.fold}: test_share={config.test_share} gives 0…{folds - 1}")
    low, high = (math.floor(len(order) * share * (config.fold + i) + 0.5) for i in (0, 1))
    rest = order[high:] + order[:low]
    val = rest[: _count(len(order), min(VAL_SHARE, share))]
    if low == high or len(rest) <= len(val):
        raise ValueError(
            f"{name}: {len(order)} persons or images are too few for train, val and test splits "
            f"with test_share={config.test_share} and fold={config.fold}; {_split_fix(len(order))}"
        )
    part = dict.fromkeys(order, "train") | dict.fromkeys(order[low:high], "test")
    return keys.map(part | dict.fromkeys(val, "val"))


def _split_fix(n: int) -> str:
    """What to do about a split without test or training images, of `n` persons or images."""
    if n < len(SPLITS):
        return "add images (of other persons, if they are named): at least one for each split"
    return f"set data.test_share={math.ceil(100 / n) / 100} and data.fold=0, or add images"


def _count(n: int, share: float) -> int:
    return max(1, math.floor(n * share + 0.5))


def _order(keys: pd.Series, name: str) -> list[str]:
    """The distinct keys, shuffled by the hash of data set and key."""
    return sorted(set(keys), key=lambda key: sha256_bytes(f"split:{name}:{key}".encode()))


def select_limited(split: pd.Series, limit: int) -> pd.Series:
    """Select at most `limit` rows: the first of each split, in proportion to its size."""
    sizes = split.value_counts().reindex(SPLITS, fill_value=0)
    if limit >= len(split):
        return pd.Series(True, index=split.index)
    if limit < (sizes > 0).sum():
        raise ValueError(f"limit={limit}: too few for one image of each of {', '.join(SPLITS)}")
    # Round the cumulative bounds so that the shares add up; every split gets at least one.
    bounds = (sizes.cumsum() * limit / len(split) + 0.5).astype(int)
    shares = bounds.diff().fillna(bounds.iloc[0]).astype(int)
    shares = shares.where((shares > 0) | (sizes == 0), 1)
    shares[shares.idxmax()] += limit - shares.sum()
    return split.groupby(split).cumcount() < split.map(shares)

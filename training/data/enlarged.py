"""Larger pictures that training cuts windows from: `data.load` px, in shards of their own.

They have the rows of the shards of `data.size` px, which everything but `train.crop=shift` reads.
"""

from training.core.config import enlarged_side


def enlarged(shard: str) -> str:
    """The name of the shard of larger pictures beside `shard`."""
    return shard.removesuffix(".npy") + ".load.npy"


def check_load(crop: str, size: int, load: int) -> None:
    """Raise ValueError for a `train.crop` that needs larger pictures where none are made."""
    if crop == "shift" and not load:
        raise ValueError(
            f"train.crop=shift cuts windows of data.size={size} px from larger pictures, which "
            f"this data set lacks; set data.load={enlarged_side(size)} (published) and preprocess "
            "again, or set train.crop=none"
        )

"""Write preprocessed images as folders of classes, for the papers' reference code."""

import io
import json
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from PIL import Image

from training.core.config import DataConfig, from_json
from training.core.entries import check_name
from training.core.files import write_bytes
from training.data.columns import class_column
from training.storage.meta import ImagesMeta
from training.storage.store import Manifest, Store, open_store


def write_folders(images: Manifest[ImagesMeta], out: Path, store: Store | None = None) -> int:
    """Write `train|test/<class>/<name>.png` of every data set with classes (RaFD, own folders), as
    StarGAN's reference code reads RaFD; returns the number of files.

    The images are already cropped and resized: give the reference code their `size` as its crop.
    Its layout has no validation split, so those images are written to `train`. Raises ValueError if
    no data set has classes, a class cannot name a folder, two images would get the same name, or
    `out` has files: images of another split would stay in it.
    """
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"{out}: not empty; name another folder, or delete this one")
    store = store or open_store()
    config = from_json(DataConfig, json.dumps(images.meta.data))
    seen: set[Path] = set()
    for dataset in images.meta.datasets:
        frame = pd.read_parquet(images.local(f"{dataset.name}.parquet", store))
        column = class_column(dataset.kind, frame, config)
        if not column:
            continue
        _check_folder_names(dataset.name, frame.loc[frame["reason"] == "", column].unique())
        for shard, rows in frame[frame["reason"] == ""].groupby("shard", sort=False):
            pixels = np.load(images.local(str(shard), store), mmap_mode="r")
            for file, row, split, label in zip(
                rows["file"], rows["row"], rows["split"], rows[column], strict=True
            ):
                part = "test" if split == "test" else "train"
                name = "_".join(PurePosixPath(file).with_suffix("").parts)
                path = out / part / label / f"{name}.png"
                if path in seen:
                    raise ValueError(
                        f"{dataset.name}: two images would be written to {path}; rename {file}"
                    )
                seen.add(path)
                buffer = io.BytesIO()
                Image.fromarray(pixels[row]).save(buffer, "PNG")
                write_bytes(path, buffer.getvalue())
    if not seen:
        raise ValueError(
            "no data set with classes (rafd, folders or a column of words) to write as folders"
        )
    return len(seen)


def _check_folder_names(dataset: str, classes: Iterable[str]) -> None:
    for one in classes:
        try:
            if "/" in check_name(one):
                raise ValueError(one)
        except ValueError as error:
            raise ValueError(
                f"{dataset}: class {one!r} cannot be a folder's name; rename it in the label file"
            ) from error

"""Read the properties of every image file of a raw data set on all cores, unchecked."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pandas as pd
from PIL import Image

from training.core.config import DataConfig
from training.core.progress import Progress
from training.data.archive import Tree
from training.data.crop import crop_box
from training.data.pictures import (
    MAX_PIXELS,
    UnusableError,
    check_bytes,
    content,
    decode,
    is_animated,
    is_read,
    open_picture,
)
from training.data.tables import sniff

CHUNK = 64  # images a task
IN_FLIGHT = 64  # tasks in flight at most: memory does not grow with the data set
COLUMNS = {
    "file": "str", "bytes": "int64", "sha256": "str", "format": "str", "width": "Int64",
    "height": "Int64", "pixels": "Int64", "size": "str", "aspect": "Float64", "side": "Int64",
    "mode": "str", "alpha": "boolean", "frames": "boolean", "error": "str",
}  # fmt: skip


def image_facts(
    tree: Tree, images: Sequence[str], kind: str, config: DataConfig, workers: int, what: str
) -> pd.DataFrame:
    """One row per image, in the given order, with the columns of `COLUMNS`:

    bytes; sha256 of the content; format ("jpeg", …, or what the bytes are instead); from the
    header, missing if it cannot be read: width, height, pixels, size ("178x218"), aspect (width /
    height), side of the square to crop, mode, alpha (has transparency), frames (holds several
    pictures); error: why it does not decode, "" if it does, missing if decoding was not tried (not
    an image, or over the pixel limit).
    Threads share the work: reading, hashing and decoding run outside Python's lock.
    """
    rows: list[tuple[Any, ...]] = []
    chunks = [images[i : i + CHUNK] for i in range(0, len(images), CHUNK)]

    def work(chunk: Sequence[str]) -> list[tuple[Any, ...]]:
        return [_facts(name, tree, kind, config) for name in chunk]

    with ThreadPoolExecutor(workers) as pool, Progress(what, len(images), "images") as progress:
        for group in _groups(chunks, IN_FLIGHT):
            for done in pool.map(work, group):
                rows += done
                progress.step(len(done))
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype(COLUMNS)


def _groups(chunks: list[Sequence[str]], size: int) -> Iterator[list[Sequence[str]]]:
    for start in range(0, len(chunks), size):
        yield chunks[start : start + size]


def _facts(name: str, tree: Tree, kind: str, config: DataConfig) -> tuple[Any, ...]:
    try:
        check_bytes(size := tree.size(name))
    except UnusableError as error:
        return (name, size, "", "other", *(None,) * 9, str(error))
    data = tree.read(name)
    form = content(data[:32]) or sniff(data)
    first = (name, len(data), hashlib.sha256(data).hexdigest(), form if form != "text" else "other")
    no_header = (None,) * 9
    if not is_read(form):
        return (*first, *no_header, None)
    try:
        image = open_picture(data)
    except UnusableError as error:
        if isinstance(
            error.__cause__, Image.DecompressionBombError | Image.DecompressionBombWarning
        ):
            huge = Image.MAX_IMAGE_PIXELS  # Pillow does not give the actual number
            return (*first, None, None, huge, *no_header[3:], None)
        return (*first, *no_header, str(error))
    width, height = image.size
    left, _, right, _ = crop_box(kind, width, height, config)
    header = (
        width, height, width * height, f"{width}x{height}", width / height, right - left,
        image.mode, image.has_transparency_data, is_animated(image),
    )  # fmt: skip
    if width * height > MAX_PIXELS:
        return (*first, *header, None)
    try:
        decode(image, upright=False)
    except UnusableError as error:
        return (*first, *header, str(error))
    return (*first, *header, "")

"""Write one shard: many cropped images in one .npy file of uint8 (n, size, size, 3)."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from io import BufferedWriter
from pathlib import Path

import numpy as np

from training.core.config import DataConfig
from training.core.files import fsync, sha256_bytes
from training.core.progress import Progress
from training.data.archive import Tree
from training.data.crop import crop_image
from training.data.pictures import UnusableError, check_bytes
from training.storage.store import StoreError

CHUNK = 32  # images per task: a few tens of ms


@dataclass(frozen=True)
class Outcome:
    """The result for one image: the digest of its bytes, and why it was dropped ("" if kept)."""

    sha256: str
    reason: str = ""


def write_shard(
    path: Path,
    tree: Tree,
    files: Sequence[str],
    kind: str,
    config: DataConfig,
    pool: ThreadPoolExecutor,
    progress: Progress,
) -> list[Outcome]:
    """Write the usable images of `files`, in order; returns the outcome of each file.

    Every image has a fixed offset before it is decoded, so the bytes do not depend on the threads;
    gaps of dropped images are closed at the end. If no image is usable, the content is undefined.
    """
    shape = (len(files), config.size, config.size, 3)
    outcomes: list[Outcome] = []
    with path.open("wb") as stream:
        start, row = _header(stream, shape), config.size**2 * 3
        os.ftruncate(stream.fileno(), start + len(files) * row)

        def chunk(first: int) -> list[Outcome]:
            done = []
            for i in range(first, min(first + CHUNK, len(files))):
                outcome, pixels = _image(tree, files[i], kind, config)
                # pwrite: writing to new pages of a memory-mapped file takes three times as long.
                if pixels is not None:
                    written = os.pwrite(stream.fileno(), pixels.data, start + i * row)
                    if written < row:
                        raise OSError(f"{path}: the disk is full; make room and run again")
                done.append(outcome)
            return done

        with _threads(config):
            for done in pool.map(chunk, range(0, len(files), CHUNK)):
                outcomes += done
                progress.step(len(done))
    kept = [i for i, outcome in enumerate(outcomes) if not outcome.reason]
    if 0 < len(kept) < len(files):
        _close_gaps(path, kept)
    fsync(path)
    return outcomes


def _threads(config: DataConfig) -> AbstractContextManager[None]:
    """Keeps torch to the workers' threads, where it is used."""
    if config.resize == "exact":
        return nullcontext()
    from training.data.resize import single_threaded

    return single_threaded()


def _image(
    tree: Tree, file: str, kind: str, config: DataConfig
) -> tuple[Outcome, np.ndarray | None]:
    try:
        check_bytes(tree.size(file))
        data = tree.read(file)
    except StoreError:  # of this machine, not of the image: no record keeps it
        raise
    except ValueError as error:
        return Outcome("", str(error)), None
    digest = sha256_bytes(data)
    try:
        return Outcome(digest), crop_image(data, kind, config)
    except UnusableError as error:
        return Outcome(digest, str(error)), None


def _header(stream: BufferedWriter, shape: tuple[int, ...]) -> int:
    """Write a .npy header of uint8 data; returns the offset of the data."""
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    stream.flush()
    return stream.tell()


def _close_gaps(path: Path, kept: Sequence[int]) -> None:
    pixels = np.load(path, mmap_mode="r")
    part = path.with_suffix(".part")
    with part.open("wb") as stream:
        _header(stream, (len(kept), *pixels.shape[1:]))
        for i in kept:
            stream.write(pixels[i].tobytes())
    part.replace(path)

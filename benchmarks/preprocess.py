"""Benchmark our preprocessing against a plain Pillow loop: same images, crop and filter.

    python benchmarks/preprocess.py --images data/celeba/img_align_celeba
    python benchmarks/preprocess.py --images data/rafd --kind rafd

The plain loop opens, converts to RGB, crops, resizes, collects arrays, stacks and saves them. Ours
is the step's code on one worker: read from a tar, hash (the plain loop hashes nothing), crop, write
into a shard, fsync. Their pixels must be equal before anything is reported. Short rounds alternate;
rates are images per second of CPU time in the best round of each, which is the throughput of one
core regardless of other processes on the machine.
"""

import os
import platform
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import PIL
from PIL import Image, features

from training.core import cli
from training.core.cli import means
from training.core.config import DataConfig
from training.core.progress import Progress
from training.data.archive import Folder, Tars, pack
from training.data.crop import FILTERS, crop_box
from training.data.shards import write_shard

main = cli.program("python benchmarks/preprocess.py", __doc__)


def plain(files: list[Path], kind: str, config: DataConfig, out: Path) -> None:
    rows = []
    for file in files:
        with Image.open(file) as image:
            square = crop_box(kind, *image.size, config)
            part = image.convert("RGB").crop(square)
        part = part.resize((config.size, config.size), FILTERS[config.interpolation])
        rows.append(np.asarray(part))
    np.save(out, np.stack(rows))


def packed(files: list[Path], folder: Path) -> Tars:
    """The images as the step receives them, in a tar."""
    (folder / "raw").mkdir()
    for file in files:
        shutil.copyfile(file, folder / "raw" / file.name)
    return Tars(pack(Folder(folder / "raw"), folder, "raw"))


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if platform.system() == "Linux" else []
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), "?")
    turbo_version = version("simplejpeg")
    return (
        f"{cpu}, {os.cpu_count()} cores, Python {platform.python_version()}, Pillow "
        f"{PIL.__version__} (libjpeg-turbo {features.version('libjpeg_turbo')}), "
        f"simplejpeg {turbo_version}, NumPy {np.__version__}"
    )


def compare(files: list[Path], kind: str, config: DataConfig, rounds: int) -> str:
    """One line of results: images/s per core of both, and their ratio."""
    names = [file.name for file in files]
    seconds: dict[str, list[float]] = {"plain": [], "ours": []}
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(1) as pool:
        folder = Path(name)
        tree = packed(files, folder)
        for _ in range(rounds):
            start = time.process_time()
            plain(files, kind, config, folder / "plain.npy")
            seconds["plain"].append(time.process_time() - start)
            progress = Progress("ours", len(files), "images")
            start = time.process_time()
            outcomes = write_shard(folder / "ours.npy", tree, names, kind, config, pool, progress)
            seconds["ours"].append(time.process_time() - start)
        bad = [outcome.reason for outcome in outcomes if outcome.reason]
        if bad or not np.array_equal(np.load(folder / "plain.npy"), np.load(folder / "ours.npy")):
            raise ValueError(f"{kind}: the pixels differ {bad[:1]}; nothing to compare")
    ratios = [p / o for p, o in zip(seconds["plain"], seconds["ours"], strict=True)]
    rates = {k: len(files) / min(v) for k, v in seconds.items()}
    ratio = rates["ours"] / rates["plain"]
    return (
        f"{kind} -> {config.size} px {config.interpolation}: plain {rates['plain']:.0f}, ours "
        f"{rates['ours']:.0f} images/s a core, ratio {ratio:.2f} (median of "
        f"{rounds} rounds of {len(files)}: {statistics.median(ratios):.2f}), pixels equal"
    )


@main.default
def command(
    *,
    images: Annotated[Path, means("folder with images")] = Path("data/celeba/img_align_celeba"),
    kind: Annotated[Literal["celeba", "rafd", "folders"], means("their layout")] = "celeba",
    size: Annotated[int, means("side of the resized images, px")] = 128,
    count: Annotated[int, means("images of a round")] = 64,
    rounds: Annotated[int, means("rounds of each filter")] = 60,
) -> None:
    files = sorted(p for p in images.iterdir() if p.suffix.lower() in (".jpg", ".png"))
    files = files[:count]
    if not files:
        raise SystemExit(f"{images}: no images; name a folder with --images")
    print(machine())
    for interpolation in ("bilinear", "bicubic", "lanczos"):
        config = DataConfig(size=size, interpolation=interpolation)
        print(compare(files, kind, config, rounds), flush=True)


if __name__ == "__main__":
    main()

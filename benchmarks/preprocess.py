"""Benchmark our preprocessing against a plain Pillow loop: same images, crop and filter.

    python benchmarks/preprocess.py --images data/celeba/img_align_celeba
    python benchmarks/preprocess.py --images data/rafd --kind rafd

The plain loop opens, converts to RGB, crops, resizes, collects arrays, stacks and saves them.
`exact` and `fast` (`data.resize`) are the step's code on one worker: read from a tar, hash (the
plain loop hashes nothing), crop, write into a shard, fsync. Nothing is reported unless the pixels
of `exact` equal the plain loop's; how far those of `fast` are from them is reported.

Short rounds alternate in one process. Rates are the medians of images per second of CPU time,
ratios the medians of the rounds' ratios, so that they are those of one core regardless of other
processes on the machine.
"""

import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import PIL
import torch
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
        f"{PIL.__version__} (libjpeg-turbo {features.version('libjpeg_turbo')}), simplejpeg "
        f"{turbo_version}, NumPy {np.__version__}, torch {torch.__version__} "
        f"({torch.backends.cpu.get_cpu_capability()})"
    )


def difference(pixels: np.ndarray, wanted: np.ndarray) -> str:
    """How far uint8 pixels are from others."""
    off = np.abs(pixels.astype(np.int16) - wanted)
    if not off.any():
        return "pixels equal"
    noise = 10 * np.log10(255**2 / np.square(off, dtype=float).mean())
    share = (off > 0).mean()
    return f"{share:.2%} of the values differ by at most {off.max()}, PSNR {noise:.1f} dB"


def compare(files: list[Path], kind: str, config: DataConfig, rounds: int) -> list[str]:
    """The lines of one filter: images/s per core of each way, its ratio to plain, its pixels."""
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(1) as pool:
        folder = Path(name)
        tree = packed(files, folder)

        def ours(config: DataConfig, out: Path) -> None:
            progress = Progress(out.stem, len(files), "images")
            names = [file.name for file in files]
            outcomes = write_shard(out, tree, names, kind, config, pool, progress)
            if bad := [outcome.reason for outcome in outcomes if outcome.reason]:
                raise ValueError(f"{kind}: {len(bad)} unusable images, {bad[0]}; leave them out")

        ways: dict[str, Callable[[Path], None]] = {
            "plain": lambda out: plain(files, kind, config, out),
            "exact": lambda out: ours(config, out),
        }
        if config.interpolation != "lanczos":
            ways["fast"] = lambda out: ours(replace(config, resize="fast"), out)
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(rounds + 1):
            for way, run in ways.items():
                start = time.process_time()
                run(folder / f"{way}.npy")
                if turn:  # the first round imports and warms up
                    seconds[way].append(time.process_time() - start)
        pixels = {way: np.load(folder / f"{way}.npy") for way in ways}
    if not np.array_equal(pixels["plain"], pixels["exact"]):
        raise ValueError(f"{kind}: the pixels differ; nothing to compare")
    return [
        f"{kind} -> {config.size} px {config.interpolation}, {way}: "
        f"{len(files) / statistics.median(taken):.0f} images/s a core, ratio "
        f"{statistics.median(p / t for p, t in zip(seconds['plain'], taken, strict=True)):.2f}, "
        f"{difference(pixels[way], pixels['plain'])}"
        for way, taken in seconds.items()
    ]


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
    print(f"medians of {rounds} rounds of {len(files)} images")
    for interpolation in ("bilinear", "bicubic", "lanczos"):
        config = DataConfig(size=size, interpolation=interpolation)
        print("\n".join(compare(files, kind, config, rounds)), flush=True)


if __name__ == "__main__":
    main()

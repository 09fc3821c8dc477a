"""Benchmark the data path on large synthetic sets: time and peak memory of each stage.

    python benchmarks/large.py labels --rows 1000000
    python benchmarks/large.py images --count 200000 --folder /tmp/large

`labels` has CelebA's three tables with a row for each image but no image: read, split, written,
unified, opened, drawn from. `images` packs copies of a few drawn faces that differ in the bytes of
a JPEG comment, then runs the steps on them, each in a process of its own. Seconds are given on the
clock and of all the process's cores; a stage's peak is its own (VmHWM, reset before it).
"""

import json
import resource
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch

from training.core import cli
from training.core.cli import means
from training.core.config import DataConfig, to_json
from training.core.files import sha256_bytes
from training.data.archive import pack
from training.data.dataset import Faces
from training.data.labels import ATTRIBUTES
from training.data.layouts import read_layout
from training.data.order import Order
from training.data.preprocess import plan, preprocess
from training.data.sources import read_source
from training.data.unify import unify
from training.data.validate import validate
from training.data.validation.frames import frames
from training.data.validation.images import COLUMNS
from training.data.validation.rules import rules
from training.data.validation.runner import open_context, run_rules
from training.storage.meta import ImageSet, ImagesMeta, RawMeta, RawSet
from training.storage.store import FolderStore, Manifest

main = cli.program("python benchmarks/large.py", __doc__)
FACES = 61  # drawn, of which the others are copies; a prime number, so that no two shards are equal
PERSON = 20  # images of one person
SHARD = 8192


def stage(name: str, work: Callable[[], Any], rows: int) -> Any:
    """Run `work`; print its seconds, its rate and its peak of memory; return its result."""
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before, wall, cpu = _memory("VmRSS"), time.monotonic(), time.process_time()
    result = work()
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    peak = _memory("VmHWM")
    print(
        f"{name:28s} {wall:8.2f} s  CPU {cpu:8.2f} s  {rows / max(cpu, 1e-9):10,.0f} /s/core  "
        f"peak {peak:6.0f} MB (from {before:.0f})",
        flush=True,
    )
    return result


def _memory(field: str) -> float:
    """A field of /proc/self/status in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(x for x in lines if x.startswith(field)).split()[1]) / 1e3


class Tables:
    """A tree with the names of CelebA's images and the bytes of its tables only."""

    def __init__(self, rows: int) -> None:
        digits = max(6, len(str(rows)))
        self.images = [f"img_align_celeba/{i:0{digits}d}.jpg" for i in range(1, rows + 1)]
        self.files = tables([name.rpartition("/")[2] for name in self.images])

    def names(self) -> list[str]:
        return [*self.images, *sorted(self.files)]

    def read(self, name: str) -> bytes:
        return self.files[name]

    def size(self, name: str) -> int:
        return len(self.files[name])


def tables(names: list[str]) -> dict[str, bytes]:
    """CelebA's label, partition and identity tables of these images, with random labels."""
    random = np.random.default_rng(0).random((len(names), len(ATTRIBUTES))) < 0.3
    texts = (" ".join(" 1" if on else "-1" for on in row) for row in random.tolist())
    parts = [0 if i % 10 < 8 else i % 10 - 7 for i in range(-(-len(names) // PERSON))]
    rows = [f"{len(names)}\r\n{' '.join(ATTRIBUTES)} \r\n"]
    rows += [f"{name} {text}\r\n" for name, text in zip(names, texts, strict=True)]
    split = [f"{name} {parts[i // PERSON]}\r\n" for i, name in enumerate(names)]
    people = [f"{name} {i // PERSON + 1}\r\n" for i, name in enumerate(names)]
    return {
        "list_attr_celeba.txt": "".join(rows).encode(),
        "list_eval_partition.txt": "".join(split).encode(),
        "identity_CelebA.txt": "".join(people).encode(),
    }


class Copies:
    """A tree of drawn faces, each many times with another number in a JPEG comment."""

    def __init__(self, drawn: Path, count: int) -> None:
        self.faces = [p.read_bytes() for p in sorted((drawn / "img_align_celeba").iterdir())]
        self.tables = Tables(count)

    def names(self) -> list[str]:
        return self.tables.names()

    def read(self, name: str) -> bytes:
        if not name.endswith(".jpg"):
            return self.tables.read(name)
        number = int(Path(name).stem)
        face, text = self.faces[number % len(self.faces)], f"copy {number:012d}".encode()
        return face[:2] + b"\xff\xfe" + struct.pack(">H", len(text) + 2) + text + face[2:]

    def size(self, name: str) -> int:
        return len(self.read(name))


@main.command
def labels(*, rows: Annotated[int, means("rows of the label table")] = 1_000_000) -> None:
    config = DataConfig(shard_rows=SHARD)
    with tempfile.TemporaryDirectory() as name:
        folder, tree = Path(name), Tables(rows)
        store = FolderStore(folder / "store")
        stage("validation's rules", lambda: _rules(tree, config), rows)
        source = stage("read_source", lambda: read_source("celeba", tree, config), rows)
        planned = stage("plan", lambda: plan(source.frame, "celeba", "celeba", config), rows)
        stage("label table of images", lambda: _images(*planned, config, folder, store), rows)
        out = folder / "dataset.json"
        stage(
            "unify",
            lambda: unify(images=folder / "images.json", data_config=to_json(config), out=out,
                          store=store),
            rows,
        )  # fmt: skip
        _train_on(out, store)


def _rules(tree: Tables, config: DataConfig) -> None:
    """Validation without reading images: one plausible row for each of them."""
    raw = read_layout("celeba", tree, config)
    values = {"bytes": 6_000, "format": "jpeg", "width": 178, "height": 218, "pixels": 38_804,
              "size": "178x218", "aspect": 178 / 218, "side": 178, "mode": "RGB", "alpha": False,
              "frames": False, "error": ""}  # fmt: skip
    images = pd.DataFrame({"file": raw.images, **values})
    images["sha256"] = [sha256_bytes(file.encode()) for file in raw.images]
    found = frames(raw, images[list(COLUMNS)].astype(COLUMNS))
    run_rules(open_context(), "celeba", found, rules(raw, found, config))


def _images(
    frame: pd.DataFrame, by: str, config: DataConfig, folder: Path, store: FolderStore
) -> None:
    """What preprocessing would write, with images of one pixel."""
    frame["sha256"] = [sha256_bytes(file.encode()) for file in frame["file"]]
    numbers = np.arange(len(frame))
    frame["shard"] = [f"celeba-{n:05d}.npy" for n in numbers // SHARD]
    frame["row"] = (numbers % SHARD).astype("int32")
    files, rows = {}, {}
    for name, part in frame.groupby("shard"):
        files[name], rows[name] = folder / str(name), len(part)
        np.save(files[name], np.zeros((len(part), 1, 1, 3), np.uint8))
    files["celeba.parquet"] = folder / "celeba.parquet"
    frame.drop(columns="part").to_parquet(files["celeba.parquet"], compression="zstd")
    splits = frame["split"].value_counts().to_dict()
    image_set = ImageSet(name="celeba", kind="celeba", split_by=by, images=len(frame),
                         kept=len(frame), splits=splits, dropped={})  # fmt: skip
    meta = ImagesMeta(data=json.loads(to_json(config)), source="", datasets=(image_set,), md5="")
    manifest = Manifest.build("images", files, meta, rows=rows, store=store)
    manifest.write(folder / "images.json", store)


def _train_on(dataset: Path, store: FolderStore) -> None:
    """Open a data set as training does; draw first and later batches."""
    faces = stage("Faces.open", lambda: Faces.open(dataset, "train", store), 1)
    count = len(faces.parts[0])
    print(f"{count} training images")
    stage("Faces.digest", lambda: faces.digest, count)
    cpu = torch.device("cpu")
    order = Order(faces, 0, 16, flip=True, length=count)
    stage("first batch", lambda: order.batch(0, 0, 0, slice(None), cpu), 16)
    stage("100 batches", lambda: _batches(order, 100), 1600)
    order = Order(faces, 0, 16, flip=True, length=count, references=2)
    stage("100 batches with references", lambda: _batches(order, 100), 1600)


def _batches(order: Order, count: int) -> None:
    for i in range(count):
        order.batch(0, 16 * i, 16 * i, slice(None), torch.device("cpu"))


STEPS = ("pack", "validate", "preprocess", "unify", "train")


@main.command
def images(
    *,
    count: Annotated[int, means("number of images")] = 200_000,
    folder: Annotated[Path, means("for all files, some 60 kB an image")],
    size: Annotated[int, means("side of the training images, px")] = 128,
    steps: Annotated[str, means("the steps to run, comma-separated")] = ",".join(STEPS),
) -> None:
    for name in steps.split(","):
        this = [sys.executable, __file__, "step", name, "--count", str(count)]
        subprocess.run([*this, "--size", str(size), "--folder", str(folder)], check=True)
    print(f"largest process: {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3:.0f} MB")


@main.command
def step(
    name: Annotated[str, means("validate, preprocess, unify or train")],
    /,
    *,
    count: Annotated[int, means("images of the data set")],
    folder: Annotated[Path, means("of the data set and its store")],
    size: Annotated[int, means("side of the cropped images, px")],
) -> None:
    """One step of `images`."""
    config = DataConfig(size=size, shard_rows=SHARD)
    text, store = to_json(config), FolderStore(folder / "store")
    raw, shards, out = (folder / f"{kind}.json" for kind in ("raw", "images", "dataset"))
    if name == "pack":
        stage("pack", lambda: _pack(count, folder, raw, store), count)
    elif name == "validate":
        report = folder / "report.html"
        stage("validate", lambda: validate(raw, data_config=text, report=report, store=store),
              count)  # fmt: skip
    elif name == "preprocess":
        work = folder / "work"
        stage(
            "preprocess",
            lambda: preprocess(raw=raw, data_config=text, out=shards, work=work, store=store),
            count,
        )
    elif name == "unify":
        stage("unify", lambda: unify(images=shards, data_config=text, out=out, store=store), count)
    else:
        _train_on(out, store)


def _pack(count: int, folder: Path, out: Path, store: FolderStore) -> None:
    from training.data.synthetic.faces import draw_celeba

    drawn = folder / "drawn"
    if not drawn.is_dir():
        draw_celeba(drawn, FACES)
    paths = pack(Copies(drawn, count), folder / "tars", "celeba")
    meta = RawMeta(datasets=(RawSet(name="celeba", kind="celeba"),), md5="", nfiles=count + 3,
                   source="drawn", note="")  # fmt: skip
    manifest = Manifest.build("raw", {p.name: p for p in paths}, meta, store=store)
    manifest.write(out, store)
    for path in paths:
        path.unlink()


if __name__ == "__main__":
    main()

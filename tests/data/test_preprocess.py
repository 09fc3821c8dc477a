"""Preprocessing whole data sets, compared with Pillow: pixels, rows, splits, kills, workers."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from training.core.config import DataConfig, to_json
from training.core.files import sha256_bytes, write_json
from training.data import preprocess as module
from training.data import shards
from training.data.archive import Folder, pack
from training.data.dataset import Faces, to_uint8
from training.data.export import write_folders
from training.data.layouts import ATTRIBUTES, EXPRESSIONS
from training.data.order import Order
from training.data.preprocess import PreprocessError, preprocess
from training.data.resize import resize
from training.data.unify import unify
from training.storage.meta import RawMeta, RawSet
from training.storage.store import Manifest, Store, open_store

SHARED = Path(os.environ.get("SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
SMALL = DataConfig(size=32, shard_rows=10)
FAST = replace(SMALL, resize="fast")


def jpeg(width: int, height: int, seed: int) -> bytes:
    small = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(small).resize((width, height)).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def celeba(root: Path, count: int = 60) -> None:
    """The CelebA layout: two images per person, 2/3 of them train, 1/6 val, 1/6 test."""
    (root / "img_align_celeba").mkdir(parents=True)
    names = [f"{i + 1:06d}.jpg" for i in range(count)]
    for i, name in enumerate(names):
        (root / "img_align_celeba" / name).write_bytes(jpeg(178, 218, i))
    bits = np.random.default_rng(1).integers(0, 2, (count, 40)) * 2 - 1
    rows = "".join(f"{n} {' '.join(map(str, b))}\r\n" for n, b in zip(names, bits, strict=True))
    text = f"{count}\r\n{' '.join(ATTRIBUTES)} \r\n{rows}"
    (root / "list_attr_celeba.txt").write_bytes(text.encode())
    part = [0 if i < count * 2 // 3 else 1 if i < count * 5 // 6 else 2 for i in range(count)]
    for file, column in (
        ("list_eval_partition.txt", part),
        ("identity_CelebA.txt", [i // 2 for i in range(count)]),
    ):
        text = "".join(f"{n} {v}\r\n" for n, v in zip(names, column, strict=True))
        (root / file).write_bytes(text.encode())


def rafd(root: Path, subjects: int = 20) -> None:
    """The RaFD layout at half size, two expressions; one in three images has a side camera."""
    root.mkdir(parents=True)
    for i in range(1, subjects + 1):
        for camera in ("000", "045", "090"):
            for k, expression in enumerate(EXPRESSIONS[:2]):
                gaze = ("frontal", "left")[k]
                name = f"Rafd{camera}_{i:02d}_Caucasian_male_{expression}_{gaze}.jpg"
                (root / name).write_bytes(jpeg(340, 512, 1000 + i * 10 + k))


def raw(tmp_path: Path, store: Store, **kinds: str) -> Path:
    """A "raw" manifest of the folders tmp_path/<name>."""
    files, packed = {}, tmp_path / "packed"
    for name in kinds:
        for path in pack(Folder(tmp_path / name), packed, name):
            files[path.name] = path
    datasets = tuple(RawSet(name=name, kind=kind) for name, kind in kinds.items())
    meta = RawMeta(datasets=datasets, md5="", nfiles=0, source="folder", note="")
    out = tmp_path / "raw.json"
    Manifest.build("raw", files, meta, store=store).write(out, store)
    return out


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(f"file://{tmp_path / 'store'}")


@pytest.fixture
def go(tmp_path: Path, store: Store) -> Callable[..., Manifest]:
    """Preprocess a raw manifest with a fresh work folder."""

    def call(path: Path, config: DataConfig = SMALL, workers: int = 2) -> Manifest:
        return preprocess(
            raw=path, data_config=to_json(config), out=tmp_path / "images.json", workers=workers,
            work=tmp_path / "work", store=store,
        )  # fmt: skip

    return call


def pixels(manifest: Manifest, row: pd.Series, store: Store) -> np.ndarray:
    return np.load(manifest.local(row["shard"], store), mmap_mode="r")[row["row"]]


def test_celeba_rows_shards_and_pixels(tmp_path: Path, store: Store, go: Callable) -> None:
    celeba(tmp_path / "celeba")
    manifest = go(raw(tmp_path, store, celeba="celeba"))
    assert [(e.name, e.rows) for e in manifest.entries] == [
        *((f"celeba-{i:05d}.npy", 10) for i in range(6)),
        ("celeba.parquet", 60),
    ]
    frame = pd.read_parquet(manifest.local("celeba.parquet", store))
    assert list(frame.columns) == [
        "file", "sha256", "shard", "row", "split", "identity", "reason", *ATTRIBUTES,
    ]  # fmt: skip
    assert frame["split"].value_counts().to_dict() == {"train": 40, "val": 10, "test": 10}
    assert (frame["reason"] == "").all()
    assert set(frame["Male"]) == {-1, 1}
    for _, row in frame.iterrows():
        data = (tmp_path / "celeba" / row["file"]).read_bytes()
        assert row["sha256"] == sha256_bytes(data)
        part = Image.open(io.BytesIO(data)).convert("RGB").crop((0, 20, 178, 198))
        expected = part.resize((32, 32), Image.Resampling.BICUBIC)
        assert np.array_equal(pixels(manifest, row, store), np.asarray(expected))
    assert manifest.meta.data == json.loads(to_json(SMALL))
    assert manifest.meta.datasets[0].kept == 60


def test_any_number_of_workers_and_a_second_run_give_the_same_bytes(
    tmp_path: Path, store: Store, go: Callable
) -> None:
    celeba(tmp_path / "celeba")
    path = raw(tmp_path, store, celeba="celeba")
    digests = {go(path, workers=n).digest for n in (1, 2, 7, 7)}
    assert len(digests) == 1
    assert not [p for p in (tmp_path / "work").iterdir() if p.is_dir()]


def test_a_fast_resize_gives_another_digest_and_the_same_for_any_number_of_workers(
    tmp_path: Path, store: Store, go: Callable
) -> None:
    celeba(tmp_path / "celeba")
    path = raw(tmp_path, store, celeba="celeba")
    exact = go(path)
    found = [go(path, FAST, workers=n) for n in (1, 2, 4)]
    assert len({manifest.digest for manifest in found}) == 1
    fast = found[0]
    assert fast.digest != exact.digest
    assert fast.meta.data == {**exact.meta.data, "resize": "fast"}
    assert "resize" not in exact.meta.data  # the digest of a manifest from before the setting
    frame = pd.read_parquet(fast.local("celeba.parquet", store))
    for _, row in frame.iterrows():
        part = Image.open(tmp_path / "celeba" / row["file"]).crop((0, 20, 178, 198))
        expected = resize(np.array(part), 32, "bicubic")
        assert np.array_equal(pixels(fast, row, store), expected)


def test_lanczos_with_a_fast_resize_is_refused_before_anything_is_read(
    tmp_path: Path, store: Store
) -> None:
    wrong = json.dumps({"interpolation": "lanczos", "resize": "fast"})
    with pytest.raises(ValueError, match=r"^data\.resize=fast has no data\.interpolation=lanczos"):
        preprocess(raw=tmp_path / "none.json", data_config=wrong, out=tmp_path / "out.json")


def test_rafd_selects_cameras_and_splits_by_subject(
    tmp_path: Path, store: Store, go: Callable
) -> None:
    rafd(tmp_path / "rafd")
    manifest = go(raw(tmp_path, store, rafd="rafd"))
    frame = pd.read_parquet(manifest.local("rafd.parquet", store))
    side = frame["camera"] == "000"
    assert (frame.loc[side, "reason"] == "camera not selected: 000").all()
    assert set(frame.loc[side, "row"]) == {-1}
    kept = frame[~side]
    assert (kept["reason"] == "").all()
    assert (kept.groupby("identity")["split"].nunique() == 1).all()
    sizes = kept.groupby("split")["identity"].nunique().to_dict()
    assert sizes == {"train": 17, "val": 1, "test": 2}
    row = kept.iloc[5]
    part = Image.open(tmp_path / "rafd" / row["file"]).crop((106, 156, 234, 284))
    expected = np.asarray(part.resize((32, 32), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(pixels(manifest, row, store) - expected).mean() < 3, "not around rafd_centre"
    facts = manifest.meta.datasets[0]
    assert facts.dropped == {"camera not selected": 40}
    assert facts.split_by == "identity"


def test_gazes_can_be_selected_and_nothing_selected_is_refused(
    tmp_path: Path, store: Store, go: Callable
) -> None:
    rafd(tmp_path / "rafd")
    path = raw(tmp_path, store, rafd="rafd")
    manifest = go(path, DataConfig(size=32, gazes=("left",), cameras=("090",)))
    assert manifest.meta.datasets[0].kept == 20
    with pytest.raises(PreprocessError, match="none of 120 images is selected; cameras=180"):
        go(path, DataConfig(cameras=("180",)))


def test_bad_images_are_quarantined_with_their_reason(
    tmp_path: Path, store: Store, go: Callable
) -> None:
    root = tmp_path / "celeba"
    celeba(root)
    broken = {
        "000003.jpg": b"<html>quota exceeded</html>",
        "000004.jpg": jpeg(178, 218, 3)[:900],
        "000037.jpg": b"",
        **{f"{i:06d}.jpg": b"version https://git-lfs" for i in range(11, 21)},  # a whole shard
    }
    for name, data in broken.items():
        (root / "img_align_celeba" / name).write_bytes(data)
    manifest = go(
        raw(tmp_path, store, celeba="celeba"), DataConfig(size=32, shard_rows=10, bad_share=0.3)
    )
    frame = pd.read_parquet(manifest.local("celeba.parquet", store))
    bad = frame[frame["reason"] != ""]
    assert {Path(f).name for f in bad["file"]} == set(broken)
    assert bad["reason"].iloc[0].startswith("not a picture (JPEG, PNG,")
    assert "truncated" in bad["reason"].iloc[1]
    assert set(bad["row"]) == {-1}
    assert (bad["sha256"] != "").all()
    names = [e.name for e in manifest.entries]
    assert "celeba-00001.npy" not in names
    assert manifest.entry("celeba-00000.npy").rows == 8
    for _, row in frame[frame["reason"] == ""].iterrows():
        part = Image.open(root / row["file"]).crop((0, 20, 178, 198))
        expected = np.asarray(part.resize((32, 32), Image.Resampling.BICUBIC))
        assert np.array_equal(pixels(manifest, row, store), expected), row["file"]


def test_the_step_fails_with_the_count_above_the_bad_share(
    tmp_path: Path, store: Store, go: Callable
) -> None:
    celeba(tmp_path / "celeba")
    (tmp_path / "celeba" / "img_align_celeba" / "000009.jpg").write_bytes(b"GIF89a")
    path = raw(tmp_path, store, celeba="celeba")
    with pytest.raises(
        PreprocessError, match=r"1 of 60 .*1\.67%.*000009\.jpg: does not decode: a damaged header"
    ):
        go(path)
    assert not (tmp_path / "images.json").exists()


def test_a_split_without_images_is_refused(tmp_path: Path, store: Store, go: Callable) -> None:
    root = tmp_path / "celeba"
    celeba(root)
    for i in range(41, 51):
        (root / "img_align_celeba" / f"{i:06d}.jpg").write_bytes(b"nothing")
    path = raw(tmp_path, store, celeba="celeba")
    with pytest.raises(PreprocessError, match="celeba: no image in the val split"):
        go(path, DataConfig(size=32, bad_share=0.5))


def test_a_limit_uses_the_first_images_of_each_split(
    tmp_path: Path, store: Store, go: Callable
) -> None:
    celeba(tmp_path / "celeba")
    manifest = go(raw(tmp_path, store, celeba="celeba"), DataConfig(size=32, limit=12))
    frame = pd.read_parquet(manifest.local("celeba.parquet", store))
    kept = frame[frame["reason"] == ""]
    assert kept["split"].value_counts().to_dict() == {"train": 8, "val": 2, "test": 2}
    assert set(frame.loc[frame["reason"] != "", "reason"]) == {"beyond limit=12"}
    assert [Path(f).stem for f in kept["file"]][:8] == [f"{i:06d}" for i in range(1, 9)]


def test_written_folders_have_the_layout_of_the_reference_code(
    tmp_path: Path, store: Store, go: Callable
) -> None:
    rafd(tmp_path / "rafd")
    manifest = go(raw(tmp_path, store, rafd="rafd"))
    assert write_folders(manifest, tmp_path / "out", store) == 80
    for part, count in (("train", 72), ("test", 8)):
        assert sorted(p.name for p in (tmp_path / "out" / part).iterdir()) == [
            "angry",
            "contemptuous",
        ]
        assert len(list((tmp_path / "out" / part).glob("*/*.png"))) == count
    frame = pd.read_parquet(manifest.local("rafd.parquet", store))
    row = frame[frame["split"] == "test"].iloc[-1]
    file = tmp_path / "out" / "test" / row["expression"] / f"{Path(row['file']).stem}.png"
    assert np.array_equal(np.asarray(Image.open(file)), pixels(manifest, row, store))
    with pytest.raises(ValueError, match="out: not empty; name another folder, or delete this"):
        write_folders(manifest, tmp_path / "out", store)


@pytest.mark.parametrize("word", ["../../escaped", "/tmp/escaped", "..", "a/b", "c\\d"])
def test_a_class_that_is_no_folders_name_is_not_written(
    word: str, tmp_path: Path, store: Store, go: Callable
) -> None:
    """A word of a label table, which may be somebody else's."""
    (tmp_path / "own").mkdir()
    for i in range(40):
        (tmp_path / "own" / f"{i}.jpg").write_bytes(jpeg(40, 40, i))
    rows = [f"{i}.jpg,{('sad', word)[i % 2]}" for i in range(40)]
    (tmp_path / "own" / "labels.csv").write_text("\n".join(["file,mood", *rows]))
    manifest = go(raw(tmp_path, store, own="csv"), DataConfig(size=32, attributes=("mood",)))
    with pytest.raises(ValueError, match=r"own: class .* cannot be a folder's name; rename it"):
        write_folders(manifest, tmp_path / "out", store)
    assert not (tmp_path / "out").exists()


def test_own_folders_and_csv_with_pngs(tmp_path: Path, store: Store, go: Callable) -> None:
    for seed, kind in ((0, "cats"), (20, "dogs")):
        (tmp_path / "own" / kind).mkdir(parents=True)
        for i in range(20):
            image = Image.open(io.BytesIO(jpeg(90, 60, seed + i)))
            image.save(tmp_path / "own" / kind / f"{i}.png")
    shutil.copytree(tmp_path / "own", tmp_path / "listed" / "images")
    rows = [f"images/{k}/{i}.png,{i % 2},{i // 2}" for k in ("cats", "dogs") for i in range(20)]
    head = "file,Young,identity,camera"  # a label of the user's own, not RaFD's
    rows = [f"{row},{i % 2}" for i, row in enumerate(rows)]
    (tmp_path / "listed" / "labels.csv").write_text("\n".join([head, *rows]))
    config = DataConfig(size=32, attributes=("Young",))
    path = raw(tmp_path, store, own="folders", listed="csv")
    manifest = go(path, config)
    own, listed = (
        pd.read_parquet(manifest.local(f"{n}.parquet", store)) for n in ("own", "listed")
    )
    assert own["class"].value_counts().to_dict() == {"cats": 20, "dogs": 20}
    assert own["split"].value_counts().to_dict() == {"train": 34, "test": 4, "val": 2}
    assert (listed.groupby("identity")["split"].nunique() == 1).all()
    part = Image.open(tmp_path / "own" / own["file"][0]).crop((15, 0, 75, 60)).resize((32, 32), 3)
    assert np.array_equal(pixels(manifest, own.iloc[0], store), np.asarray(part))


def test_unified_faces_can_be_opened(tmp_path: Path, store: Store, go: Callable) -> None:
    celeba(tmp_path / "celeba")
    rafd(tmp_path / "rafd")
    go(raw(tmp_path, store, celeba="celeba", rafd="rafd"))
    images, out = tmp_path / "images.json", tmp_path / "set.json"
    dataset = unify(images=images, data_config=to_json(SMALL), out=out, store=store)
    faces = Faces.open(dataset, "train", store)
    assert [(p.name, len(p)) for p in faces.parts] == [("celeba", 40), ("rafd", 68)]
    assert faces.space.dim_g == 5 + 2 + 2
    assert faces.parts[1].images([0, 67]).shape == (2, 32, 32, 3)


def test_larger_pictures_are_stored_beside_the_others_and_cut_in_whole_pixels(
    tmp_path: Path, store: Store, go: Callable
) -> None:
    """`load` adds shards of Pillow's pixels at that side and leaves the others as they are."""
    celeba(tmp_path / "celeba")
    source, config = raw(tmp_path, store, celeba="celeba"), replace(SMALL, load=36)
    plain, manifest = go(source), go(source, config)
    larger = [e for e in manifest.entries if ".load." in e.name]
    assert [e.name for e in larger] == [f"celeba-{i:05d}.load.npy" for i in range(6)]
    assert [e for e in manifest.entries if e not in larger] == list(plain.entries)
    out = tmp_path / "set.json"
    unify(images=tmp_path / "images.json", data_config=to_json(config), out=out, store=store)
    small, large = (Faces.open(out, "train", store, load=load) for load in (False, True))
    assert (small.size, small.parts[0].side) == (32, 32)
    assert (large.size, large.parts[0].side) == (32, 36)
    assert large.digest == small.digest
    order = Order(large, 0, 8, flip=False, length=64, crop="shift")
    shown = to_uint8(order.batch(0, 0, 0, slice(0, 8), torch.device("cpu")).image)
    places = set()
    for row, window in zip(order.rows(0, 0).tolist(), shown.numpy(), strict=True):
        part = Image.open(tmp_path / "celeba" / large.parts[0].files[row]).crop((0, 20, 178, 198))
        picture = np.asarray(part.convert("RGB").resize((36, 36), Image.Resampling.BICUBIC))
        cut = np.lib.stride_tricks.sliding_window_view(picture, (32, 32, 3))[:, :, 0]
        (place,) = np.argwhere((cut == window).all((2, 3, 4))).tolist()
        places.add(tuple(place))
    assert len(places) > 4


# One process forks a child for every attempt, so that the imports are paid once.
KILL = """
import os, shutil, sys
from pathlib import Path
import pandas, pyarrow.parquet
from PIL import Image
Image.init()
import training.core.files, training.storage.store, training.data.preprocess as module
import training.data.shards as shards
from training.storage.store import Manifest, Store, open_store
clean, config, before = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "before"
left = 0

def deadly(function):
    def inner(*a, **k):
        global left
        if before and (left := left - 1) < 0:
            os._exit(9)
        result = function(*a, **k)
        if not before and (left := left - 1) < 0:
            os._exit(9)
        return result
    return inner

for name in ("fsync", "rename", "write_bytes", "write_json"):
    wrapped = deadly(getattr(training.core.files, name))
    for place in (training.core.files, training.storage.store, module, shards):
        if hasattr(place, name):
            setattr(place, name, wrapped)

def attempt(folder, writes):
    global left
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    left, code = writes, 1
    try:
        module.preprocess(raw=folder / "raw.json", data_config=config, workers=2,
                          out=folder / "images.json", work=folder / "work",
                          store=open_store(f"file://{folder / 'store'}"))
        code = 0
    finally:
        os._exit(code)

def snapshot(folder):
    files = sorted(p for p in (folder / "store").rglob("*") if p.is_file())
    kept = {p.name: p.read_bytes() for p in files if p.suffix not in (".lock", ".tmp")}
    return kept | {"digest": Manifest.read(folder / "images.json").digest}

# The labels are read once: that part writes nothing but the index of the tar.
left = 10**9
tree = module.open_raw(Manifest.read(clean / "raw.json"), open_store(f"file://{clean / 'store'}"))
source = module.read_source("celeba", tree["celeba"], module.from_json(module.DataConfig, config))
module.read_source = lambda *_: source
start, folder = clean.with_name("start"), clean.with_name("try")
shutil.copytree(clean, start)
assert attempt(clean, 10**9) == 0
expected = snapshot(clean)
for writes in range(200):
    shutil.copytree(start, folder)
    code = attempt(folder, writes)
    if code == 9 and (folder / "images.json").exists():
        assert Manifest.read(folder / "images.json").digest == expected["digest"]
    if code == 9:
        code = attempt(folder, 10**9) or 9
    assert snapshot(folder) == expected, writes
    shutil.rmtree(folder)
    if code == 0:
        break
print(writes)
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_run_killed_at_any_write_resumes_to_the_same_bytes(tmp_path: Path, moment: str) -> None:
    """os._exit around every write, fsync and rename; the next run finishes with the same bytes."""
    clean = tmp_path / "clean"
    celeba(clean / "celeba", 24)
    raw(clean, open_store(f"file://{clean / 'store'}"), celeba="celeba")
    config = to_json(DataConfig(size=16, shard_rows=12))
    command = [sys.executable, "-c", KILL, str(clean), config, moment]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert 10 < int(result.stdout.split()[-1]) < 199


# Ends, as by a kill, after the third shard is recorded.
THREE_SHARDS = """
import os, sys
from pathlib import Path
import training.data.preprocess as module
from training.storage.store import FolderStore, open_store
refer, done = FolderStore.refer, []

def deadly(store, name, value):
    result = refer(store, name, value)
    done.extend([name] if name.startswith("shards/") else [])
    if len(done) == 3:
        os._exit(9)
    return result

FolderStore.refer, folder = deadly, Path(sys.argv[1])
module.preprocess(raw=folder / "raw.json", data_config=sys.argv[2], workers=2,
                  out=folder / "images.json", work=folder / "work",
                  store=open_store(f"file://{folder / 'store'}"))
"""


def test_a_killed_fast_run_resumes_to_the_bytes_of_an_uninterrupted_one(
    tmp_path: Path, store: Store, go: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    celeba(tmp_path / "celeba")
    path = raw(tmp_path, store, celeba="celeba")
    expected = go(path, FAST).digest
    shutil.rmtree(tmp_path / "store" / "refs" / "shards")  # its finished shards
    command = [sys.executable, "-c", THREE_SHARDS, str(tmp_path), to_json(FAST)]
    assert subprocess.run(command, check=False).returncode == 9
    calls: list[int] = []
    crop_image = shards.crop_image
    monkeypatch.setattr(shards, "crop_image", lambda *a: calls.append(1) or crop_image(*a))
    assert go(path, FAST).digest == expected
    assert len(calls) == 30


def test_finished_shards_are_reused(
    tmp_path: Path, store: Store, go: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    celeba(tmp_path / "celeba")
    path = raw(tmp_path, store, celeba="celeba")
    done: list[str] = []
    write, crop_image = module.write_shard, shards.crop_image

    def watched(path: Path, *rest: object) -> object:
        if len(done) == 3:
            raise OSError("disk full")
        done.append(path.name)
        return write(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "write_shard", watched)
    with pytest.raises(OSError, match="disk full"):
        go(path)
    monkeypatch.setattr(module, "write_shard", write)
    calls: list[int] = []
    monkeypatch.setattr(shards, "crop_image", lambda *a: calls.append(1) or crop_image(*a))
    resumed = go(path)
    assert len(calls) == 30, "finished shards were cropped again"
    calls.clear()
    assert go(path).digest == resumed.digest
    assert not calls
    monkeypatch.setattr(module, "current_code", lambda: "other code")
    assert go(path).digest == resumed.digest
    assert len(calls) == 60, "shards of other code were taken"


def test_an_altered_finished_shard_is_written_again(
    tmp_path: Path, store: Store, go: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    celeba(tmp_path / "celeba")
    path = raw(tmp_path, store, celeba="celeba")
    expected = go(path)

    def stop(*_: object, **__: object) -> None:
        raise OSError("stop")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", stop)  # the code after the shards
    with pytest.raises(OSError, match="stop"):
        go(path)
    monkeypatch.undo()
    victim = store.path(expected.entries[2].sha256)
    victim.write_bytes(victim.read_bytes()[:-1] + b"x")
    assert go(path).digest == expected.digest
    assert expected.intact(store)


@pytest.mark.skipif(
    not (SHARED / "celeba").is_dir(), reason="no genuine CelebA next to the project"
)
def test_genuine_celeba(tmp_path: Path, store: Store, go: Callable) -> None:
    (tmp_path / "celeba").symlink_to(SHARED / "celeba")
    manifest = go(raw(tmp_path, store, celeba="celeba"), DataConfig(size=64))
    assert manifest.meta.datasets[0].splits == {"train": 1100, "val": 200, "test": 200}
    frame = pd.read_parquet(manifest.local("celeba.parquet", store))
    assert (frame["reason"] == "").all()
    for _, row in frame.iloc[::100].iterrows():
        part = Image.open(SHARED / "celeba" / row["file"]).crop((0, 20, 178, 198))
        expected = np.asarray(part.resize((64, 64), Image.Resampling.BICUBIC))
        assert np.array_equal(pixels(manifest, row, store), expected)


def test_the_program_reports_a_fault_in_one_line(tmp_path: Path) -> None:
    write_json(tmp_path / "raw.json", {"schema": 1})
    command = [sys.executable, "-m", "training.data.preprocess", "--raw", str(tmp_path / "no.json")]
    result = subprocess.run(
        [*command, "--out", str(tmp_path / "out.json")], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1

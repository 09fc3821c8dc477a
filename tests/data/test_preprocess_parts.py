"""Preprocessing in parts that share nothing but the store gives the bytes of a single run."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steps import draw
from training.core.config import DataConfig, PreprocessConfig, from_json, to_json
from training.core.progress import Progress
from training.core.provenance import code_hash
from training.data import preprocess as module
from training.data.archive import Folder, Tars, pack
from training.data.parts import parts
from training.data.preprocess import PreprocessError, preprocess, preprocess_part
from training.data.shards import write_shard
from training.storage.meta import RawMeta, RawSet
from training.storage.store import FolderStore, Manifest, StoreError

FILES = [f"{kind}/{number:02d}.png" for kind in ("cat", "dog") for number in range(12)]


def config(rows: int) -> str:
    return to_json(DataConfig(datasets=("pets:folders",), size=16, shard_rows=rows, bad_share=0.5))


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, FolderStore]]:
    """A "raw" manifest of two classes, of which one picture is damaged, and its store."""
    folder = tmp_path_factory.mktemp("raw")
    draw(folder / "pets", FILES, (64, 64))
    (folder / "pets" / FILES[3]).write_bytes(b"no picture")
    store = FolderStore(folder / "store")
    files = {path.name: path for path in pack(Folder(folder / "pets"), folder / "tars", "pets")}
    sets = (RawSet(name="pets", kind="folders"),)
    meta = RawMeta(datasets=sets, md5="", nfiles=len(FILES), source="folder", note="")
    out = folder / "raw.json"
    Manifest.build("raw", files, meta, store=store).write(out, store)
    return out, store


def whole(raw: Path, text: str, folder: Path, store: FolderStore, code: str) -> Manifest:
    return preprocess(
        raw=raw, data_config=text, out=folder / "images.json", code_hash=code,
        work=folder / "work", store=store,
    )  # fmt: skip


def test_the_plan_has_the_arguments_of_each_part() -> None:
    """One part as well: no Kubeflow version has to end an empty loop."""
    for count in (1, 3):
        items = parts(to_json(PreprocessConfig(workers=count)), "{}", "code")
        assert [item.pop("part") for item in items] == list(range(count))
        assert items == [{"data_config": "{}", "code_hash": "code", "parts": count}] * count


NUMBERS = iter(range(10**6))  # another code hash, and so other records, for each example


@settings(deadline=None, max_examples=15)
@given(data=st.data(), count=st.integers(1, 5), rows=st.integers(1, 30))
def test_any_parts_in_any_order_give_the_bytes_of_one_run(
    raw: tuple[Path, FolderStore],
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
    count: int,
    rows: int,
) -> None:
    """Also if some of them did not run: the last step then does their work."""
    ran = data.draw(st.lists(st.integers(0, count - 1), unique=True))
    (path, store), text = raw, config(rows)
    folder = tmp_path_factory.mktemp("parts")
    alone = whole(path, text, folder, store, f"alone {next(NUMBERS)}")
    code = f"parts {next(NUMBERS)}"
    for number in ran:
        part = {"part": float(number), "parts": float(count)}  # as kfp passes numbers
        preprocess_part(raw=path, data_config=text, **part, code_hash=code,
                        work=folder / f"pod-{number}", store=store)  # fmt: skip
    assert whole(path, text, folder, store, code).digest == alone.digest


def test_the_last_step_crops_nothing_that_a_part_has_cropped(
    raw: tuple[Path, FolderStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, store = raw
    for part in (0, 1):
        preprocess_part(raw=path, data_config=config(5), part=part, parts=2, code_hash="whole",
                        work=tmp_path / f"pod-{part}", store=store)  # fmt: skip
    monkeypatch.setattr(module, "write_shard", None)
    assert whole(path, config(5), tmp_path, store, "whole").meta.datasets[0].kept == 23


def test_a_part_without_a_shard_says_so(
    raw: tuple[Path, FolderStore], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preprocess_part(raw=raw[0], data_config=config(20), part=2, parts=3, code_hash="few",
                    work=tmp_path, store=raw[1])  # fmt: skip
    assert "pets: no shard for part 3 of 3: there are 2" in capsys.readouterr().out


def test_two_runs_of_one_part_at_once_both_end(
    raw: tuple[Path, FolderStore], tmp_path: Path
) -> None:
    """The second waits for the first, finds its shards, and has a folder of its own to remove."""
    arguments = {"raw": raw[0], "data_config": config(5), "part": 0, "parts": 2,
                 "code_hash": "twice", "work": tmp_path, "store": raw[1]}  # fmt: skip
    with ThreadPoolExecutor(3) as pool:
        for run in [pool.submit(preprocess_part, **arguments) for _ in range(3)]:
            run.result()
    assert not list(tmp_path.glob("preprocess-*/"))


def test_a_tar_that_is_cut_meanwhile_stops_the_run_and_is_no_fault_of_its_images(
    raw: tuple[Path, FolderStore], tmp_path: Path
) -> None:
    """Otherwise the record of the shard would keep them out for ever."""
    path, _ = raw
    (tar,) = pack(Folder(path.parent / "pets"), tmp_path / "tars", "pets")
    tars = Tars([tar])
    tar.write_bytes(tar.read_bytes()[:9_000])
    with (
        ThreadPoolExecutor(2) as pool,
        Progress("preprocess", 24, "images") as progress,
        pytest.raises(StoreError, match="truncated inside"),
    ):
        write_shard(
            tmp_path / "x.npy", tars, FILES, "folders", from_json(DataConfig, config(30)), pool,
            progress,
        )  # fmt: skip


def test_a_lost_record_or_shard_is_written_again(
    raw: tuple[Path, FolderStore], tmp_path: Path
) -> None:
    """References are set once; the bytes that they name come back."""
    path, store = raw
    first = whole(path, config(6), tmp_path, store, "lost")
    for entry in first.entries[:2]:
        store.path(entry.sha256).unlink()
    (reference,) = list((store.root / "refs" / "shards").rglob("*/pets-00002.npy"))[-1:]
    store.path(reference.read_text().partition(" ")[0]).unlink()
    assert whole(path, config(6), tmp_path, store, "lost").digest == first.digest
    assert first.intact(store)


def test_a_damaged_raw_tar_stops_a_part(raw: tuple[Path, FolderStore], tmp_path: Path) -> None:
    """Its pictures are not left out as if they were damaged themselves."""
    path, store = raw
    (tar,) = Manifest.read(path, "raw").entries
    place = store.path(tar.sha256)
    whole_bytes = place.read_bytes()
    place.write_bytes(whole_bytes[:-1] + b"x")
    try:
        with pytest.raises(StoreError, match=r"pets-00000\.tar is not the"):
            preprocess_part(raw=path, data_config=config(9), part=0, parts=1, code_hash="torn",
                            work=tmp_path, store=store)  # fmt: skip
    finally:
        place.write_bytes(whole_bytes)


def test_too_many_bad_pictures_are_refused_whatever_the_parts(
    raw: tuple[Path, FolderStore], tmp_path: Path
) -> None:
    strict = to_json(DataConfig(datasets=("pets:folders",), size=16, shard_rows=5))
    preprocess_part(raw=raw[0], data_config=strict, part=0, parts=1, work=tmp_path, store=raw[1])
    with pytest.raises(PreprocessError, match=r"1 of 24 .*cat/03\.png"):
        whole(raw[0], strict, tmp_path, raw[1], code_hash())


KILLED = """
import os, sys
from pathlib import Path
from training.data import preprocess, shards
from training.storage.store import FolderStore
crop, done = shards.crop_image, []
def slow(*arguments):
    done.append(1)
    if len(done) == 15:
        Path(sys.argv[3]).touch()
        __import__("time").sleep(60)
    return crop(*arguments)
shards.crop_image = slow
preprocess.preprocess_part(
    raw=Path(sys.argv[1]), data_config=sys.argv[4], part=0, parts=1, code_hash="killed", workers=1,
    work=Path(sys.argv[3]).parent, store=FolderStore(Path(sys.argv[2])))
"""


def test_a_killed_part_resumes_after_its_last_shard(
    raw: tuple[Path, FolderStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another pod, whose disk is empty."""
    path, store = raw
    (tmp_path / "pod").mkdir()
    reached = tmp_path / "pod" / "reached"
    line = [sys.executable, "-c", KILLED, path, store.root, reached, config(5)]
    process = subprocess.Popen(list(map(str, line)), start_new_session=True)
    end = time.monotonic() + 240
    while not reached.exists() and time.monotonic() < end:
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    written: list[str] = []
    write = module.write_shard

    def watched(path: Path, *rest: object) -> object:
        written.append(path.name)
        return write(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "write_shard", watched)
    preprocess_part(raw=path, data_config=config(5), part=0, parts=1, code_hash="killed",
                    work=tmp_path / "other", store=store)  # fmt: skip
    assert written == [f"pets-{number:05d}.npy" for number in (2, 3, 4)]
    resumed = whole(path, config(5), tmp_path, store, "killed")
    frame = pd.read_parquet(resumed.local("pets.parquet", store))
    assert frame["reason"].ne("").sum() == 1
    assert resumed.digest == whole(path, config(5), tmp_path, store, "not killed").digest

"""The demo data: drawn faces in the layouts of CelebA and RaFD, reproducible to the byte.

    python -m training.data.synthetic.faces OUT [--workers N] [--pixel-hash]

writes atomically, and goes on where a killed process stopped:

    OUT/celeba/img_align_celeba/000001.jpg …   178×218
    OUT/celeba/list_attr_celeba.txt, list_eval_partition.txt, identity_CelebA.txt, openface.csv
    OUT/rafd/Rafd090_01_Caucasian_male_angry_frontal.jpg …   681×1024
    OUT/rafd/openface.csv

The text files have CelebA's format (CRLF, count line, values two wide). `openface.csv` has
OpenFace's (headers with a leading space, 17 intensities AU01_r … AU45_r in 0…5, 18 presences
AU01_c …), one row per image in the order of the names, and an additional last column ` file` with
the image's file name.

All pictures are drawn by this code; they show no real person.
"""

import hashlib
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing.connection import wait
from pathlib import Path
from typing import Annotated, NamedTuple

import PIL

from training.core import cli
from training.core.cli import means
from training.core.environment import cores
from training.core.files import read_json, sha256_bytes, sha256_file, write_json
from training.core.progress import Progress
from training.core.temporary import check_free, kept_folder
from training.data.synthetic import paint
from training.data.synthetic.people import (
    ATTRIBUTES,
    EXPRESSIONS,
    UNITS,
    Draws,
    Face,
    attributes,
    person,
    portrait,
    snapshot,
)

CELEBA_COUNT, SUBJECTS, SEED = 2_400, 20, 20_181_201
IMAGES = "img_align_celeba"
PARTS = (
    (2_000, 0),
    (2_150, 1),
    (2_400, 2),
)  # end index and CelebA split, of 2,400 images: train, validation, test
QUALITY = 92  # of the JPEGs
CHUNK = 8  # images per task
CAMERAS = {"090": 0.0, "045": -0.32, "135": 0.32}  # sine of the head's turn in the picture
GAZES = {"frontal": 0.0, "left": -1.0, "right": 1.0}
PRESENCES = tuple(sorted({*UNITS, 28}))  # OpenFace's AUxx_c; unit 28 is never drawn


class Job(NamedTuple):
    """One picture to draw: its path in the output folder, and the face."""

    name: str
    kind: str  # "celeba" or "rafd"
    face: Face


class Drawn(NamedTuple):
    """The result of drawing: the number of files and their `pixel_hash`."""

    files: int
    pixel_hash: str


def pixel_hash(digests: Mapping[str, str]) -> str:
    """Hex sha256 over the names in order, each with its content's sha256.

    A picture's content is its RGB bytes before JPEG encoding, so that the hash does not depend
    on the encoder; a table's content is its bytes.
    """
    lines = [f"{name}\0{digests[name]}\n" for name in sorted(digests)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def draw(out: Path, workers: int = 0) -> Drawn:
    """Write `out/celeba` (2,400 images) and `out/rafd` (480); `workers` 0 = one per core.

    An existing `out` is replaced when everything is drawn.
    """
    jobs, tables = _under("celeba", *celeba_jobs(CELEBA_COUNT, SEED))
    more, others = _under("rafd", *rafd_jobs(SUBJECTS, SEED))
    return _write(out, jobs + more, {**tables, **others}, workers)


def draw_celeba(out: Path, count: int = CELEBA_COUNT, seed: int = SEED, workers: int = 0) -> Drawn:
    """Write a CelebA layout of `count` images into `out`."""
    return _write(out, *celeba_jobs(count, seed), workers)


def draw_rafd(out: Path, subjects: int = SUBJECTS, seed: int = SEED, workers: int = 0) -> Drawn:
    """Write a RaFD layout into `out`: 8 expressions × 3 cameras of each subject.

    Each camera is combined with each gaze equally often over subjects and expressions.
    """
    return _write(out, *rafd_jobs(subjects, seed), workers)


def celeba_jobs(count: int, seed: int) -> tuple[list[Job], dict[str, bytes]]:
    """The pictures and tables of the CelebA layout; identities of 4–6 images, each in one split."""
    if count < 1:
        raise ValueError(f"count={count}: at least one image is needed")
    shots: list[tuple[int, float, int, Face]] = []  # split, sort key within it, identity, face
    identity = 0
    while len(shots) < count:
        identity += 1
        who = person(Draws(seed, "person", identity), male=identity % 2 == 0)
        part = next(p for end, p in PARTS if len(shots) * PARTS[-1][0] < end * count)
        for i in range(min(4 + Draws(seed, "shots", identity).whole(3), count - len(shots))):
            d = Draws(seed, "shot", identity, i)
            shots.append((part, d.next(), identity, snapshot(d, who)))
    shots.sort(key=lambda s: s[:3])
    names = [f"{i:06d}.jpg" for i in range(1, count + 1)]
    rows = list(zip(names, shots, strict=True))
    tables = {
        "list_attr_celeba.txt": _attributes([(name, shot[3]) for name, shot in rows]),
        "list_eval_partition.txt": _lines(f"{name} {shot[0]}" for name, shot in rows),
        "identity_CelebA.txt": _lines(f"{name} {shot[2]}" for name, shot in rows),
        "openface.csv": _openface([(name, shot[3]) for name, shot in rows]),
    }
    return [Job(f"{IMAGES}/{name}", "celeba", shot[3]) for name, shot in rows], tables


def rafd_jobs(subjects: int, seed: int) -> tuple[list[Job], dict[str, bytes]]:
    """The pictures and the table of the RaFD layout."""
    if not 1 <= subjects <= 72:
        raise ValueError(f"subjects={subjects}: 1 to 72 are possible with RaFD's file names")
    jobs = []
    numbers = [n for n in range(1, 74) if n != 6][:subjects]  # RaFD has no subject 06
    for position, number in enumerate(numbers):
        group = ("Caucasian", "Moroccan", "Caucasian", "Caucasian", "Kid")[position % 5]
        male = position % 2 == 1
        skins = (3, 3, 2) if group == "Moroccan" else (0, 1, 1, 2)
        who = person(Draws(seed, "subject", number), male, group == "Kid", skins)
        hair = ("Brown_Hair", "Black_Hair", "Blond_Hair")[position % 3]
        hair = "Black_Hair" if group == "Moroccan" else hair
        for e, name in enumerate(EXPRESSIONS):
            for c, (camera, turn) in enumerate(CAMERAS.items()):
                gaze = list(GAZES)[(c + e + position) % 3]
                d = Draws(seed, "portrait", number, name, camera)
                still = Draws(seed, "still", number)
                face = portrait(d, still, who, hair, name, GAZES[gaze], turn)
                sex = "male" if male else "female"
                file = f"Rafd{camera}_{number:02d}_{group}_{sex}_{name}_{gaze}.jpg"
                jobs.append(Job(file, "rafd", face))
    jobs.sort()
    return jobs, {"openface.csv": _openface([(job.name, job.face) for job in jobs])}


def _under(
    folder: str, jobs: Sequence[Job], tables: Mapping[str, bytes]
) -> tuple[list[Job], dict[str, bytes]]:
    named = [job._replace(name=f"{folder}/{job.name}") for job in jobs]
    return named, {f"{folder}/{name}": data for name, data in tables.items()}


def _lines(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\r\n" for line in lines).encode()


def _attributes(faces: Sequence[tuple[str, Face]]) -> bytes:
    rows = [str(len(faces)), " ".join(ATTRIBUTES) + " "]
    for name, face in faces:
        values = [1 if shown else -1 for shown in attributes(face).values()]
        rows.append(f"{name} {values[0]} " + " ".join(f"{v:2d}" for v in values[1:]))
    return _lines(rows)


def _openface(faces: Sequence[tuple[str, Face]]) -> bytes:
    header = ["frame", "face_id", "timestamp", "confidence", "success"]
    header += [f"AU{unit:02d}_r" for unit in UNITS]
    header += [f"AU{unit:02d}_c" for unit in PRESENCES]
    lines = [", ".join([*header, "file"])]
    for frame, (name, face) in enumerate(faces, 1):
        cells = [str(frame), "0", "0.000", "0.98", "1"]
        cells += [f"{face.units[unit]:.2f}" for unit in UNITS]
        cells += [f"{face.units.get(unit, 0) >= 1:d}.00" for unit in PRESENCES]
        lines.append(", ".join([*cells, name]))
    return "".join(f"{line}\n" for line in lines).encode()


class Digests(NamedTuple):
    """Hex sha256 of one picture's pixels and of its file."""

    pixels: str
    file: str


def _picture(folder: Path, job: Job) -> Digests:
    """Draw and store one picture."""
    image = paint.celeba(job.face) if job.kind == "celeba" else paint.rafd(job.face)
    image.save(folder / job.name, "JPEG", quality=QUALITY)
    return Digests(sha256_bytes(image.tobytes()), sha256_file(folder / job.name))


def _pictures(folder: Path, notes: Path, jobs: Sequence[Job]) -> dict[str, str]:
    """Draw some pictures, unless an earlier process has; the sha256 of each one's pixels."""
    note = notes / f"{sha256_bytes(jobs[0].name.encode())}.json"
    done = {k: Digests(*v) for k, v in (read_json(note) if note.is_file() else {}).items()}
    paths = {job.name: folder / job.name for job in jobs}
    if done.keys() != paths.keys() or not all(
        path.is_file() and sha256_file(path) == done[name].file for name, path in paths.items()
    ):
        done = {job.name: _picture(folder, job) for job in jobs}
        write_json(note, done)
    return {name: each.pixels for name, each in done.items()}


def _key(jobs: Sequence[Job], tables: Mapping[str, bytes]) -> str:
    """Hash of all that the drawn files depend on: the faces, this package and the encoder."""
    sources = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]
    what = [repr(jobs), repr(sorted(tables.items())), repr(sources), PIL.__version__]
    return sha256_bytes("\0".join(what).encode())[:16]


def _end_with_parent() -> None:
    """End this worker when the process that started it has ended, even by a kill."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=[parent.sentinel], daemon=True).start()


def _end_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def _parallel(
    folder: Path, notes: Path, chunks: Sequence[Sequence[Job]], workers: int
) -> Iterator[dict[str, str]]:
    """Yield the chunks' digests as they finish; the first failure cancels the rest."""
    # spawn: no inherited threads or locks, the same on all platforms
    context = multiprocessing.get_context("spawn")
    workers = min(workers, len(chunks))
    with ProcessPoolExecutor(workers, context, _end_with_parent) as pool:
        tasks = [pool.submit(_pictures, folder, notes, chunk) for chunk in chunks]
        try:
            for task in as_completed(tasks):
                yield task.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _write(out: Path, jobs: Sequence[Job], tables: Mapping[str, bytes], workers: int) -> Drawn:
    if workers < 0:
        raise ValueError(f"workers={workers}: 0 (one per core) or more is needed")
    workers = workers or cores()
    digests = {name: sha256_bytes(data) for name, data in tables.items()}
    chunks = [jobs[i : i + CHUNK] for i in range(0, len(jobs), CHUNK)]
    with (
        kept_folder(out, _key(jobs, tables)) as (folder, notes),
        Progress("draw", len(jobs), "images") as progress,
    ):
        if before := sum(1 for _ in notes.iterdir()):
            sys.stdout.write(f"draw: {before} of {len(chunks)} parts were drawn before\n")
        for name in {str(Path(n).parent) for n in [*tables, *(job.name for job in jobs)]}:
            (folder / name).mkdir(parents=True, exist_ok=True)
        for name, data in tables.items():
            (folder / name).write_bytes(data)
        if workers == 1:
            for chunk in chunks:
                digests.update(_pictures(folder, notes, chunk))
                progress.step(len(chunk))
        else:
            for done in _parallel(folder, notes, chunks, workers):
                digests.update(done)
                progress.step(len(done))
    return Drawn(len(digests), pixel_hash(digests))


main = cli.program("python -m training.data.synthetic.faces", __doc__)


@main.default
def command(
    out: Annotated[Path, means("new folder; there when everything is drawn")],
    /,
    *,
    workers: Annotated[int, means("processes; 0: one per core")] = 0,
    pixel_hash: Annotated[bool, means("print the hash of the pixels")] = False,
) -> str | None:
    check_free(out)
    drawn = draw(out, workers)
    return drawn.pixel_hash if pixel_hash else None


if __name__ == "__main__":
    cli.entry_point(main)

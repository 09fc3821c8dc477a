"""Add a downloaded data set to DVC: check it, pack it into a few tar shards and version them.

DVC then tracks a few large files in raw/<name>/, and only `<name>.dvc` is committed.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from training.core.cli import means
from training.core.config import DataConfig
from training.core.files import write_bytes
from training.core.progress import Progress
from training.data import archive as tree
from training.data.layouts import SOURCES, read_layout
from training.data.pictures import ARCHIVES, FORMATS, UnusableError, content, is_read, open_picture
from training.data.sources import read_source
from training.data.tables import sniff
from training.data.versions import KINDS, split_datasets
from training.storage import dvc as remote

RAW = Path("raw")
LISTED = 3  # faulty files listed in a message


@dataclass(frozen=True)
class Terms:
    """A data set's download page, licence, and the content of a complete download."""

    title: str
    source: str
    licence: str
    files: str
    counts: tuple[int, ...] = ()  # images of a complete download
    size: tuple[int, int] | None = None  # of every image, px
    md5s: dict[str, str] = field(default_factory=dict)  # of the official label files


TERMS = {
    "celeba": Terms(
        "CelebA, aligned and cropped",
        "the authors' page, https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        "for non-commercial research only; it may not be redistributed",
        "img_align_celeba/000001.jpg … 202599.jpg (unpacked from img_align_celeba.zip), "
        "list_attr_celeba.txt, list_eval_partition.txt, identity_CelebA.txt",
        (202_599,),
        (178, 218),
        {
            "list_attr_celeba.txt": "75e246fa4810816ffd6ee81facbd244c",
            "list_eval_partition.txt": "d32c9cbf5e040fd4025c592c306e6668",
            "identity_CelebA.txt": "32bd1bd63d3c78cd57e08160ec5ed1e2",
        },
    ),
    "rafd": Terms(
        "Radboud Faces Database",
        "on request from its authors at Radboud University, https://rafd.socsci.ru.nl",
        "available on request for research; it may not be redistributed",
        "Rafd090_01_Caucasian_female_angry_frontal.jpg …, all in one folder",
        (8_040, 4_824),  # all five cameras; the three used in the paper
        (681, 1024),
    ),
}
OWN_DATA = Terms("Your own data", "", "its licence is unknown here; check that you may use it", "")


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def info(name: Annotated[str, means(" or ".join(TERMS))], /) -> None:
    """Print a data set's download page, licence and files. Downloads nothing."""
    if name not in TERMS:
        raise ValueError(f"unknown data set {name!r}; one of {', '.join(TERMS)}, or your own")
    terms = TERMS[name]
    say(f"{terms.title}\n  where: {terms.source}\n  terms: {terms.licence}\n  files: {terms.files}")
    if terms.md5s:
        say("  md5:   " + "\n         ".join(f"{md5}  {file}" for file, md5 in terms.md5s.items()))
    say(f"After downloading: python -m training.data adopt {name} PATH")


class SelectedFiles(tree.Folder):
    """The usable images and the tables of a folder; archives and other files are left out."""

    def __init__(self, root: Path, images: list[str]) -> None:
        super().__init__(root)
        self._keep = set(images)

    def names(self) -> list[str]:
        tables = (".txt", ".csv")
        return [n for n in super().names() if n in self._keep or n.lower().endswith(tables)]


def adopt(
    name: Annotated[str, means("celeba, rafd, or a name for your own data")],
    path: Annotated[Path, means("the folder with the images and label files")],
    /,
    *,
    kind: Annotated[str, means("layout; empty: the name", choices=("", *KINDS))] = "",
    subset: Annotated[bool, means("accept fewer images or other label files")] = False,
) -> Path:
    """Check a downloaded data set, pack it and version it as NAME.dvc; returns that path.

    Raises ValueError (what, where, how many, the fix) if the data cannot be used; nothing is
    written then. With `subset`, fewer images or other label files than the official ones are a
    warning.
    """
    [(name, kind)] = split_datasets(f"{name}:{kind}" if kind else name)
    if not kind:
        raise ValueError(f"{name}: pass --kind, one of {', '.join(SOURCES)}")
    if not Path(".dvc").is_dir():
        raise ValueError(
            f"{Path.cwd()}: not a DVC repository; run this in a clone, or run `dvc init` first"
        )
    terms = TERMS.get(kind, OWN_DATA)
    say(f"{terms.title}: {terms.licence}.")
    images = check(kind, path, subset)
    for shard in tree.pack(SelectedFiles(path, images), RAW / name, name):
        say(f"packed {shard} ({shard.stat().st_size / 1e6:.0f} MB)")
    _ignore(f"/{RAW}/")
    pinned = _version(name, kind, len(images), terms)
    labels = " data.attributes=COLUMN,COLUMN" if kind == "csv" else ""
    say(
        f"Versioned as {pinned}. Next:\n"
        f"  git add {pinned} .gitignore && git commit -m 'Data: {name}'\n"
        f"  python -m training.data push {name}   (to DVC_REMOTE_URL, or .dvc/config's remote)\n"
        f"  python -m pipelines run datasets={name}{labels}"
    )
    return pinned


def check(kind: str, path: Path, subset: bool) -> list[str]:
    """The images of a usable download, in order. Raises ValueError with the fault and its fix."""
    folder = tree.Folder(path)
    config = DataConfig(attributes=())
    images = read_layout(kind, folder, config).images
    archives = [n for n in folder.names() if n.lower().endswith(ARCHIVES)]
    if not images:
        fix = f"unpack {archives[0]} there" if archives else "name the folder that holds them"
        raise ValueError(f"{path}: no images; {fix}")
    for note in read_source(kind, folder, config).notes:
        say(note)
    terms = TERMS.get(kind, OWN_DATA)
    _check_pictures(path, images, terms)
    differences = _differences(path, folder.names(), len(images), terms)
    if differences and not subset:
        raise ValueError(
            f"{path}: {'; '.join(differences)}; download it again, or accept it with --subset"
        )
    for text in differences:
        say(f"warning: {text}")
    say(f"checked {len(images)} images of kind {kind}")
    return images


def _differences(path: Path, names: list[str], count: int, terms: Terms) -> list[str]:
    """How a consistent download differs from the complete official one."""
    differences = []
    if terms.counts and count not in terms.counts:
        counts = " or ".join(f"{n:,}" for n in terms.counts)
        differences.append(f"{count:,} images, a complete download has {counts}")
    for file, md5 in terms.md5s.items():
        matches = [n for n in names if n.rpartition("/")[2].lower() == file.lower()]
        if not matches:
            differences.append(f"{file} is missing")
        elif remote.file_md5(path / matches[0]) != md5:
            differences.append(f"{matches[0]} is not the official file (md5 {md5})")
    return differences


def _check_pictures(path: Path, images: list[str], terms: Terms) -> None:
    """Raise ValueError unless all images have a format that is read, and the official size."""
    wrong: list[str] = []
    with Progress("check", len(images), "images") as bar:
        for name in images:
            with (path / name).open("rb") as stream:
                head = stream.read(1024)
            form = content(head) or sniff(head)
            if not is_read(form):
                wrong.append(f"{name}: {form}")
            elif terms.size:
                size = _size(path / name)
                if size != terms.size:
                    wrong.append(f"{name}: {size[0]}x{size[1]} px")
            bar.step()
    if wrong:
        size_text = f"{terms.size[0]}x{terms.size[1]} px " if terms.size else ""
        raise ValueError(
            f"{path}: {len(wrong)} files are not {size_text}pictures ({', '.join(FORMATS)}): "
            f"{'; '.join(wrong[:LISTED])}; download them again, or save them as JPEG"
        )


def _size(path: Path) -> tuple[int, int]:
    """Width and height from the header; (0, 0) if it cannot be read."""
    try:
        return open_picture(path.read_bytes()).size
    except UnusableError:
        return 0, 0


def _ignore(line: str) -> None:
    """Add a line to .gitignore, so that git ignores the packed data."""
    path = Path(".gitignore")
    lines = path.read_text().splitlines() if path.is_file() else []
    if line not in lines:
        write_bytes(path, "".join(f"{text}\n" for text in [*lines, line]).encode())


def _version(name: str, kind: str, count: int, terms: Terms) -> Path:
    """Commit raw/<name> to DVC and return `<name>.dvc`; on failure restore the old file."""
    path = Path(f"{name}.dvc")
    old = path.read_bytes() if path.is_file() else None
    text = (
        f"outs:\n- path: {(RAW / name).as_posix()}\n"
        f"meta:\n  kind: {kind}\n  images: {count}\n  licence: '{terms.licence}'\n"
    )
    write_bytes(path, text.encode())
    try:
        remote.dvc("commit", "--force", "--quiet", str(path))
    except ValueError:
        if old is None:
            path.unlink()
        else:
            write_bytes(path, old)
        raise
    return path

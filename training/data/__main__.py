"""Draw and pin the demo faces; describe, check and version real data sets.

    python -m training.data info celeba        its download page, licence and files
    python -m training.data adopt celeba PATH  check a download, pack it, version it with DVC
    python -m training.data push celeba        its version to the remote that runs pull from
    python -m training.data drift DATASET new/ whether new pictures are like the training data
    python -m training.data forget 1234        leave people out of the next data version

Each command has its own `--help`.
"""

from pathlib import Path
from typing import Annotated

from training.core import cli
from training.core.cli import means
from training.core.config import DataConfig
from training.core.files import write_bytes
from training.core.temporary import check_free
from training.data.adopt import adopt, info
from training.data.versions import DEMO, DEMO_SETS, project_root
from training.data.versions import pin as pinned_version
from training.storage import dvc as remote

app = cli.program("python -m training.data", __doc__)
app.command(info)
app.command(adopt)
# On higher layers, and imported when they are called.
app.command(
    "training.drift:drift", name="drift", help="Compare new pictures with the training data."
)
app.command(
    "training.forget:forget", name="forget", help="Leave people out of every further data version."
)
Out = Annotated[Path, means("new folder to write")]


def _draw(out: Path) -> str:
    """Draw the demo faces into `out`; returns their pixel hash."""
    from training.data.synthetic import faces

    drawn = faces.draw(out)
    print(f"drew {drawn.files} files into {out}; pixel hash {drawn.pixel_hash}")
    return drawn.pixel_hash


@app.command
def draw(out: Out = Path(DEMO), /) -> None:
    """Draw the demo faces."""
    check_free(out)
    _draw(out)


@app.command
def scenes(
    out: Out = Path("scenes"),
    /,
    *,
    seasons: Annotated[
        str, means("comma-separated: spring, summer, autumn, winter")
    ] = "summer,winter",
    count: Annotated[int, means("pictures per season")] = 300,
) -> str:
    """Draw landscapes in several seasons."""
    from training.data.synthetic import scenes

    return f"drew {scenes.draw(out, tuple(seasons.split(',')), count)} pictures into {out}"


@app.command
def pin() -> None:
    """Redraw ./data, check it, and write data.dvc and data.pixels."""
    from training.data.archive import Folder
    from training.data.sources import read_source

    pixels = _draw(Path(DEMO))
    for name in DEMO_SETS:
        read_source(name, Folder(Path(DEMO) / name), DataConfig())
    remote.dvc("add", "--quiet", DEMO)
    write_bytes(Path(f"{DEMO}.pixels"), f"{pixels}\n".encode())
    pinned = pinned_version(DEMO, root=Path.cwd())
    expected = remote.tree_md5(Path(DEMO))
    if pinned is None or (pinned.md5, pinned.nfiles) != expected:
        raise ValueError(f"data.dvc pins {pinned}, but the files are {expected}; run it again")
    print(f"data.dvc pins {pinned.md5}, {pinned.nfiles} files, {pinned.size / 1e6:.0f} MB. Next:")
    print("  git add data.dvc data.pixels && git commit -m 'Data: drawn demo faces'")
    print("  python -m training.data push")


@app.command
def push(
    name: Annotated[str, means("an adopted data set; default: the demo faces")] = DEMO, /
) -> str:
    """Push a data set to the remote: DVC_REMOTE_URL, else the default one of .dvc/config.

    The demo faces are drawn first if ./data does not exist.
    """
    pinned = pinned_version(name)
    if pinned is None:
        again = "run this in a clone of the project" if name == DEMO else f"adopt {name} first"
        raise ValueError(f"no {name}.dvc in {project_root()}; {again}")
    folder = project_root() / pinned.path
    if name == DEMO and not folder.is_dir():
        _draw(folder)
    if remote.tree_md5(folder)[0] != pinned.md5:
        again = "delete it and run this again" if name == DEMO else f"adopt {name} again"
        raise ValueError(f"{folder} is not the version in {name}.dvc; {again}")
    md5, sent = remote.push(folder, root=project_root())
    target = remote.configured(root=project_root()).url
    return f"{md5}: {'pushed to' if sent else 'already in'} {target}"


def main(argv: list[str] | None = None) -> None:
    app(cli.renamed(argv, {"fetch": "info"}))


if __name__ == "__main__":
    cli.entry_point(main)

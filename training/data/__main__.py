"""Commands for raw data: python -m training.data {draw,scenes,pin,push,info,adopt} …"""

import argparse
from pathlib import Path

from training.core import cli
from training.core.config import DataConfig
from training.core.files import write_bytes
from training.data.adopt import TERMS, adopt, print_info
from training.data.versions import DEMO, DEMO_SETS, KINDS, pin
from training.storage import dvc as remote


def draw(out: Path) -> str:
    """Draw the demo faces into `out`; returns their pixel hash."""
    from training.data.synthetic import faces

    drawn = faces.draw(out)
    print(f"drew {drawn.files} files into {out}; pixel hash {drawn.pixel_hash}")
    return drawn.pixel_hash


def pin_demo() -> None:
    """Redraw ./data, check it, and write data.dvc and data.pixels."""
    from training.data.archive import Folder
    from training.data.sources import read_source

    pixels = draw(Path(DEMO))
    for name in DEMO_SETS:
        read_source(name, Folder(Path(DEMO) / name), DataConfig())
    remote.dvc("add", "--quiet", DEMO)
    write_bytes(Path(f"{DEMO}.pixels"), f"{pixels}\n".encode())
    pinned = pin(DEMO, root=Path.cwd())
    expected = remote.tree_md5(Path(DEMO))
    if pinned is None or (pinned.md5, pinned.nfiles) != expected:
        raise ValueError(f"data.dvc pins {pinned}, but the files are {expected}; run it again")
    print(f"data.dvc pins {pinned.md5}, {pinned.nfiles} files, {pinned.size / 1e6:.0f} MB. Next:")
    print("  git add data.dvc data.pixels && git commit -m 'Data: drawn demo faces'\n  dvc push")


def push_demo() -> None:
    """Push the demo faces to the configured remote; draw them first if ./data does not exist."""
    pinned = pin(DEMO)
    if pinned is None:
        raise ValueError(f"no {DEMO}.dvc here; run this in a clone of the project")
    if not Path(DEMO).is_dir():
        draw(Path(DEMO))
    if remote.tree_md5(Path(DEMO))[0] != pinned.md5:
        raise ValueError(f"./{DEMO} is not the version in {DEMO}.dvc; delete it and run this again")
    md5, sent = remote.push(Path(DEMO))
    print(f"{md5}: {'pushed to' if sent else 'already in'} the remote")


def main(argv: list[str] | None = None) -> None:
    """Draw and pin the demo faces; describe, check and version real data sets."""
    parser = argparse.ArgumentParser(prog="python -m training.data", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("draw", help="draw the demo faces")
    one.add_argument("out", type=Path, nargs="?", default=Path(DEMO), help="default: ./data")
    one = commands.add_parser("scenes", help="draw landscapes in several seasons")
    one.add_argument("out", type=Path, nargs="?", default=Path("scenes"), help="default: ./scenes")
    one.add_argument(
        "--seasons",
        default="summer,winter",
        help="comma-separated, of spring, summer, autumn, winter",
    )
    one.add_argument("--count", type=int, default=300, help="pictures per season")
    commands.add_parser("pin", help="redraw the demo faces and write data.dvc, data.pixels")
    commands.add_parser("push", help="push the demo faces to the remote")
    one = commands.add_parser("info", help="a data set's download page, licence and files")
    one.add_argument("name", help=" or ".join(TERMS))
    one = commands.add_parser("adopt", help="check a download and version it as NAME.dvc")
    one.add_argument("name", help="celeba, rafd, or a name for your own data")
    one.add_argument("path", type=Path, help="the folder with the images and label files")
    one.add_argument("--kind", default="", choices=("", *KINDS), help="layout; default: the name")
    one.add_argument(
        "--subset", action="store_true", help="accept fewer images or other label files"
    )
    args = parser.parse_args(cli.renamed(argv, {"fetch": "info"}))
    if args.command == "draw":
        draw(args.out)
    elif args.command == "scenes":
        from training.data.synthetic import scenes

        count = scenes.draw(args.out, tuple(args.seasons.split(",")), args.count)
        print(f"drew {count} pictures into {args.out}")
    elif args.command == "pin":
        pin_demo()
    elif args.command == "push":
        push_demo()
    elif args.command == "info":
        print_info(args.name)
    else:
        adopt(args.name, args.path, args.kind, args.subset)


if __name__ == "__main__":
    cli.entry_point(main)

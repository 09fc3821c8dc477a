"""Pages and pictures that were copied out of runs: which show forgotten people."""

import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from training.core.files import read_json, sha256_file
from training.retention.people import Search
from training.retention.seen import Seen

SHOWN = (".html", ".png")


def pages(search: Search, seen: Sequence[Seen], folders: Sequence[Path]) -> Iterator[str]:
    """Commands for `runs/report`, the pages of a search's trials and that of a drift test.

    `folders`: those of the pipeline runs that have seen them. A copy is known by its bytes, as the
    report of a step of these runs or a picture of their evaluations; "#" begins the command for one
    that is neither theirs nor of another run here.
    """
    places = {one.where for one in seen}
    theirs = _of_steps(folders) | {e.sha256 for one in seen for e in one.objects}
    kfp = search.runs / "kfp"
    others = _of_steps(one for one in kfp.glob("*") if one not in folders) | {
        entry.sha256
        for one in search.kept
        if one.where not in places
        for entry in one.manifest.entries
    }
    for place in sorted((search.runs / "report").glob("*")):
        files = [p for p in (place, *place.rglob("*")) if p.suffix in SHOWN and p.is_file()]
        digests = {sha256_file(path) for path in files}
        line = f"rm -rf -- {shlex.quote(str(place))}"
        if digests & theirs:
            yield line
        elif digests and not digests & others:
            yield f"# whom it shows is not known, as its run is gone or is a comparison: {line}"
    yield from _of_drift(search.runs / "drift.json", {Path(one).resolve() for one in places})
    for path in sorted({Path(one.where).with_name("report.html") for one in seen}):
        if path.is_relative_to(search.runs / "search") and path.is_file():
            yield f"rm -f -- {shlex.quote(str(path))}"


def _of_drift(record: Path, places: set[Path]) -> Iterator[str]:
    """The command for the page of the last drift test, which shows pictures of both its sides."""
    page = record.with_suffix(".html")
    if not page.is_file():
        return
    line = f"rm -f -- {shlex.quote(str(page))}"
    try:
        found = read_json(record)
        sides = {Path(found[side]).resolve() for side in ("reference", "compared")}
    except (OSError, ValueError, KeyError, TypeError):
        sides = set()
    if sides & places:
        yield line
    elif not sides or not all(side.is_file() for side in sides):
        yield f"# whom it shows is not known, as its pictures are of no data set: {line}"


def _of_steps(folders: Iterable[Path]) -> set[str]:
    """SHA-256 of the pages that the steps of pipeline runs wrote."""
    return {sha256_file(path) for one in folders for path in one.rglob("report") if path.is_file()}

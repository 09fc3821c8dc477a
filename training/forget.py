"""Leave people out of every further data version, and find what has seen them.

    python -m training.data forget 1234 5678 --dataset celeba

Nothing is deleted: the page lists the commands that do.
"""

from pathlib import Path
from typing import Annotated

from training.core import cli, environment
from training.core.cli import means
from training.core.files import write_bytes, write_json
from training.data import forgotten as tombstones
from training.rendering import html
from training.retention.erasure import commands
from training.retention.people import Search
from training.retention.seen import Seen
from training.storage.store import open_store
from training.tracking import client as tracking

RUNS = environment.runs()
OUT, REPORT = environment.runs("forgotten.json"), environment.runs("forgotten.html")
main = cli.program("python -m training.forget", __doc__)


@main.default
@tracking.answered()
def forget(
    *identities: Annotated[str, means("people, as the data set's identities name them")],
    dataset: Annotated[str, means("the data set, if several have these identities")] = "",
    runs: Annotated[Path, means("folder of the runs whose manifests are searched")] = RUNS,
    out: Annotated[Path, means("JSON to write")] = OUT,
    report: Annotated[Path, means("self-contained HTML to write")] = REPORT,
) -> str:
    """Leave people out of every further data version; list what has seen them.

    The list of forgotten people is in the store; every run that starts afterwards reads it. The
    report names people by their hashes. Raises ValueError for unknown identities, before anything
    is written.
    """
    if not identities:
        raise ValueError("no identity given; name at least one person")
    store = open_store()
    search = Search(runs, store)
    wanted = search.wanted(identities, dataset)
    lists = {name: tombstones.add(name, people, store) for name, people in wanted.items()}
    seen = search.trace(wanted)
    todo = commands(search, seen)
    people = sorted(person for group in wanted.values() for person in group)
    found = {
        "people": people,
        "lists": {name: entry.reference for name, entry in lists.items()},
        "seen": [one.to_json() for one in seen],
        "commands": todo,
        "notes": search.notes,
    }
    write_json(out, found)
    write_bytes(report, html.render("forgotten", **{**found, "seen": seen}).encode())
    return "\n".join([
        f"{len(people)} people of {', '.join(wanted)} are left out of every further data version",
        *(f"  {titled(one)}: {said(one.images)}" for one in seen),
        *(f"note: {text}" for text in search.notes),
        *(["to delete what has seen them:", *(f"  {line}" for line in todo)] if todo else []),
        str(report),
    ])  # fmt: skip


def titled(one: Seen) -> str:
    """What and where it is, and the model through which it has seen them."""
    return f"{one.what} {one.where}" + (f", started from {one.start}" if one.start else "")


def said(images: dict[str, int]) -> str:
    """Numbers of images by data set and split as text."""
    return ", ".join(f"{count} {name}" for name, count in images.items())


if __name__ == "__main__":
    cli.entry_point(main)

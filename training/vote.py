"""People's choice among several models' edits: a page to vote on, and the count of the votes.

    python -m training.vote build study dataset.json --model A stargan@champion \\
        --model B attgan/2 --model C model.json --edits Hair,Male,Young,H+G
    python -m training.vote count study/key.json votes/ --out counted

`build` writes vote.html, one file without names to give to voters, and key.json, which stays with
you. Each voter sends back a file; `count` checks them and writes tables in the form of the StarGAN
paper's tables 1 and 2.
"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from training.core import cli, options
from training.core.cli import means
from training.core.files import write_bytes, write_json
from training.core.temporary import whole_folder
from training.tracking import client as tracking

if TYPE_CHECKING:
    from training.inference.translator import Translator

PAGE, KEY, COUNT = "vote.html", "key.json", "votes"
Whole = Annotated[int, Field(ge=0, le=1_000)]
Share = Annotated[float, Field(ge=0, le=1)]
MODEL = means(
    "a model's name in the tables, and a manifest, a checkpoint's folder, NAME/VERSION or "
    "NAME@ALIAS; 2 to 6 of them",
    metavar="NAME MODEL",
)
main = cli.program("python -m training.vote", __doc__)


@main.command
@tracking.answered()
def build(
    out: Annotated[Path, means("new folder for vote.html and key.json")],
    dataset: options.Dataset,
    /,
    *,
    model: Annotated[list[tuple[str, str]], MODEL],
    edits: Annotated[str, means("columns of the tables, comma-separated; empty: all")] = "",
    labels: Annotated[str, means("data set of a joint one; empty: the first", "--set")] = "",
    split: Annotated[str, means("images of this split")] = "test",
    images: Annotated[int, Field(ge=1, le=1_000), means("faces of each row")] = 4,
    traps: Annotated[Whole, means("questions with one obviously right answer")] = 6,
    repeats: Annotated[Whole, means("questions that are asked twice")] = 6,
    title: Annotated[str, means("title of the page")] = "Which edit is best?",
    seed: Annotated[int, Field(ge=0, lt=2**32), means("seed of the choice of faces")] = 0,
) -> str:
    """Make the page to vote on, and its key."""
    from training.data.dataset import Faces
    from training.registry.references import pin
    from training.storage.store import Manifest
    from training.voting import page
    from training.voting.questions import Wanted
    from training.voting.study import Compared

    if out.exists():
        raise ValueError(f"{out} exists; votes may belong to it: name a new folder")
    compared = [Compared(name, reference) for name, reference in model]
    page.check_models(compared)
    compared = [Compared(one.name, pin(one.reference)) for one in compared]
    data = Manifest.read(dataset, "dataset")
    faces = Faces.open(data, split)
    wanted = Wanted([e for e in edits.split(",") if e], images, traps, repeats, seed)
    loads = [(one, partial(_load, one.reference)) for one in compared]
    index = faces.space.index(labels) if labels else 0
    made, key = page.make(faces, index, loads, wanted, title, data.digest)
    with whole_folder(out) as folder:
        write_bytes(folder / PAGE, made.encode())
        write_json(folder / KEY, key.to_json())
    size = f"{len(key.questions)} questions, {len(made) / 2**20:.1f} MiB"
    return (
        f"{out / PAGE}: {size}, for the voters\n"
        f"{out / KEY}: which picture is whose; keep it from the voters"
    )


def _load(reference: str) -> "Translator":
    from training.inference.translator import translator_from_files
    from training.registry.references import model_files

    return translator_from_files(model_files(reference))


@main.command
@tracking.answered()
def count(
    key: Annotated[Path, means("key.json of the page")],
    /,
    *votes: Annotated[Path, means("vote files, and folders of them")],
    out: Annotated[Path, means("folder for votes.txt, votes.json and votes.html")],
    min_traps: Annotated[Share, means("lowest share of traps passed")] = 0.8,
    min_repeats: Annotated[Share, means("lowest share of repeats answered alike")] = 0.3,
    draws: Annotated[int, Field(ge=100, le=100_000), means("bootstrap samples")] = 2_000,
    experiment: Annotated[str, means("MLflow experiment; empty: none")] = "",
) -> str:
    """Check and count vote files; voters below the bounds are left out and named."""
    from training.voting import ballots, results
    from training.voting.study import Key

    if out.resolve() in {path.resolve() for path in votes}:
        raise ValueError(f"--out {out}: the votes are there; name another folder")
    opened = Key.read(key)
    found = results.count(
        opened, ballots.read_ballots(votes, opened), ballots.Bounds(min_traps, min_repeats), draws
    )
    text = results.text(found)
    files = {f"{COUNT}.{kind}": out / f"{COUNT}.{kind}" for kind in ("txt", "json", "html")}
    write_bytes(files[f"{COUNT}.txt"], f"{text}\n".encode())
    write_json(files[f"{COUNT}.json"], results.to_json(found))
    write_bytes(files[f"{COUNT}.html"], results.page(found).encode())
    if experiment:
        results.record(found, experiment, files)
    return text


if __name__ == "__main__":
    cli.entry_point(main)

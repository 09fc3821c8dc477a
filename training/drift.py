"""Whether new pictures come from where the training data come from.

    python -m training.data drift DATASET new/ --judge JUDGE
    python -m training.data drift DATASET mine --judge JUDGE          # the version in mine.dvc
    python -m training.data drift DATASET OTHER --judge JUDGE         # another data set's manifest

Exit code 0: no drift found; 3: drift; 2: a mistake, such as too few people to tell.
"""

import sys
from pathlib import Path
from typing import Annotated, Any

from training.core import cli
from training.core.cli import means
from training.core.config import DataConfig, Positive, Rate, from_json
from training.core.environment import runs
from training.core.files import canonical_json, write_bytes, write_json
from training.core.temporary import temporary_folder
from training.data.archive import Folder, open_raw
from training.data.crop import decisive
from training.data.dataset import Faces
from training.data.labels import LabelSpace
from training.data.pull import pull
from training.data.versions import KINDS, find_pin, is_md5
from training.evaluation.drift import PERMUTATIONS
from training.evaluation.drift_report import Compared, compare, page
from training.evaluation.drift_sides import Pictures, of_files, of_splits
from training.evaluation.judges.judge import load_judge
from training.evaluation.records import DRIFT_LEVEL
from training.storage.meta import DatasetMeta
from training.storage.store import Manifest, Store, open_store

EXIT_DRIFT = 3  # exit code if drift was found
HELD_OUT = ("val", "test")
OUT, REPORT = runs("drift.json"), runs("drift.html")
main = cli.program("python -m training.drift", __doc__)


@main.default
def drift(
    dataset: Annotated[Path, means('the training data: manifest of kind "dataset"')],
    other: Annotated[
        str,
        means('a folder of pictures, NAME of NAME.dvc, a data md5, a "dataset" or "raw" manifest'),
    ],
    /,
    *,
    judge: Annotated[Path, means('manifest of kind "judge", of the training data')],
    name: Annotated[str, means("the data set, if the training data have several")] = "",
    kind: Annotated[
        str, means("layout of OTHER's files; empty: as the data set's", choices=("", *KINDS))
    ] = "",
    train: Annotated[
        bool, means("compare with the train split, not with images that the judge has never seen")
    ] = False,
    level: Annotated[Rate, means("p-values up to it are drift")] = DRIFT_LEVEL,
    permutations: Annotated[Positive, means("of the people")] = PERMUTATIONS,
    out: Annotated[Path, means("JSON to write")] = OUT,
    report: Annotated[Path, means("self-contained HTML to write")] = REPORT,
) -> None:
    """Compare pictures with the training data; the exit code is 3 if they differ.

    At most 1,000 images of each side. By default the training data's held-out images (validation
    and test) are compared, since the judge has learned its training images by heart. Raises
    ValueError for too few people, for labels or a size that do not fit the judge, and for a data
    set whose images were cropped otherwise.
    """
    store = open_store()
    manifest = Manifest.read(dataset, "dataset")
    splits = _splits(manifest, ("train",) if train else HELD_OUT, store)
    index = _chosen(splits[0].space, name)
    labels = splits[0].space.sets[index]
    frozen = load_judge(judge, store)
    if frozen.size != splits[0].size:
        raise ValueError(
            f"{judge}: it judges images of {frozen.size} px, data set {labels.name} has "
            f"{splits[0].size} px; give the judge of the run that made {dataset}"
        )
    known = of_splits(splits, labels.name)
    given = _other(other, manifest, labels.name, kind, store)
    for text in given.notes:
        sys.stdout.write(f"{other}: {text}\n")
    found = compare(labels, known, given, frozen, permutations=permutations, level=level)
    about = f"{dataset}, {'the train split' if train else 'its held-out images'}"
    write_json(out, {"reference": str(dataset), "compared": other, **found.to_json()})
    write_bytes(report, page(found, about, other).encode())
    sys.stdout.write(f"{verdict(found)}\n{report}\n")
    if found.found:
        raise SystemExit(EXIT_DRIFT)


def verdict(found: Compared) -> str:
    """One line."""
    one = found.drift
    what = "different from" if found.found else "no difference found from"
    return (
        f"{what} the training set: p = {one.p:.3f} ± {one.error:.3f}, {one.permutations} "
        f"permutations; {one.images} images of {one.people} people, {one.reference_images} of "
        f"{one.reference_people}"
    )


def _splits(manifest: Manifest[DatasetMeta], names: tuple[str, ...], store: Store) -> list[Faces]:
    """The splits that have images of every data set."""
    found = []
    for name in names:
        try:
            found.append(Faces.open(manifest, name, store))
        except ValueError as error:
            problem = error
    if not found:
        raise problem
    return found


def _chosen(space: LabelSpace, name: str) -> int:
    """The index of the compared data set. Raises ValueError unless it is clear which."""
    if not name and len(space.sets) > 1:
        names = ", ".join(one.name for one in space.sets)
        raise ValueError(f"the training data have several data sets; --name is one of {names}")
    return space.index(name or space.sets[0].name)


def _other(
    other: str, manifest: Manifest[DatasetMeta], name: str, kind: str, store: Store
) -> Pictures:
    """The compared pictures, cropped as the training images were.

    Raises ValueError for a data set that was made with other settings.
    """
    config = from_json(DataConfig, canonical_json(dict(manifest.meta.data)).decode())
    layout = kind or next((d.kind for d in manifest.meta.datasets if d.name == name), "folders")
    path = Path(other)
    if path.is_dir():
        return of_files(Folder(path), name, layout, config)
    if path.is_file():
        given = Manifest.read(path)
        if given.kind == "dataset":
            return _of_dataset(given, other, name, manifest, store)
        return _of_raw(given, other, name, layout, config, store)
    versions, entry = (other, name) if is_md5(other) else (find_pin(other).md5, other)
    with temporary_folder() as folder:
        raw = pull(
            datasets=f"{entry}:{layout}", revision=versions, md5=versions, out=folder / "raw.json"
        )
    return _of_raw(raw, other, name, layout, config, store)


def _of_dataset(
    given: Manifest[DatasetMeta], other: str, name: str, manifest: Manifest[DatasetMeta],
    store: Store,
) -> Pictures:  # fmt: skip
    """Its images as they are. Raises ValueError if they were not cropped as the training's."""
    splits = _splits(given, ("train", *HELD_OUT), store)
    names = [one.name for one in splits[0].space.sets]
    chosen = name if name in names or len(names) > 1 else names[0]
    theirs, ours = _crop(given, chosen), _crop(manifest, name)
    differ = [key for key, value in theirs.items() if ours.get(key, value) != value]
    if differ:
        said = [", ".join(f"data.{key}={one[key]}" for key in differ) for one in (theirs, ours)]
        raise ValueError(
            f"{other}: its images were cropped with {said[0]}, the training images with {said[1]}; "
            'give its raw data, which are cropped alike: their folder, or a manifest of kind "raw"'
        )
    return of_splits(splits, chosen)


def _crop(manifest: Manifest[DatasetMeta], name: str) -> dict[str, Any]:
    """The settings of the pixels of a data set."""
    config = from_json(DataConfig, canonical_json(dict(manifest.meta.data)).decode())
    kinds = {one.name: one.kind for one in manifest.meta.datasets}
    return decisive(kinds.get(name, ""), config)


def _of_raw(
    given: Manifest[Any], other: str, name: str, kind: str, config: DataConfig, store: Store
) -> Pictures:
    """Its pictures, cropped as the training's."""
    if given.kind != "raw":
        raise ValueError(
            f'{other}: a manifest of kind {given.kind!r}; a folder, or one of "dataset" or "raw"'
        )
    trees = open_raw(given, store)
    tree = trees[name] if name in trees else next(iter(trees.values()))
    return of_files(tree, name, kind, config)


if __name__ == "__main__":
    cli.entry_point(main)

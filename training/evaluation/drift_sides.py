"""The two sets of pictures that drift is measured between, from manifests and from raw files."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from training.core.config import DataConfig
from training.data.archive import Tree
from training.data.crop import crop_image
from training.data.dataset import Faces, Part, to_float
from training.data.labels import LabelSet
from training.data.layouts import pictures
from training.data.pictures import UnusableError, check_bytes, open_picture
from training.data.preprocess import unselected
from training.data.sources import SourceError, read_source
from training.data.unify import UnifyError, read_labels
from training.evaluation.drift import (
    MOST,
    Difference,
    Side,
    TooFewError,
    difference,
    drift,
)
from training.evaluation.frechet import cluster_names
from training.evaluation.judges.judge import Judge
from training.evaluation.records import Drift, Untold
from training.evaluation.score import position, spread
from training.inference.paste import find_faces

CHUNK = 64
FACES = 100  # images of each side in which a face is looked for; each takes some 50 ms
FACE_SIDE = 128  # px to which crops are resized before a face is looked for
LUMA = (0.299, 0.587, 0.114)  # of R, G and B, ITU-R BT.601
READ = 5  # reasons listed for pictures that are left out


@dataclass(frozen=True)
class Pictures:
    """At most `MOST` images of one side, cropped as for training: uint8 (n, s, s, 3).

    people (n,): whom each shows, else the image itself; labels: values (n,) by name, empty if
    unknown; sides: shorter sides of the original pictures, px, where they were read; total: the
    number of images that these were chosen from.
    """

    images: Tensor
    people: np.ndarray
    files: tuple[str, ...]
    labels: Mapping[str, np.ndarray]
    total: int
    sides: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    def features(self, judge: Judge, judged: int) -> Side:
        """The second judge's features of the images."""
        return Side(features_of(judge, judged, self.images), self.people)


def features_of(judge: Judge, judged: int, images: Tensor) -> np.ndarray:
    """The second judge's features (n, 128) of uint8 images (n, s, s, 3)."""
    chunks = [
        judge.features(judged, to_float(images[i : i + CHUNK])).float().cpu().numpy()
        for i in range(0, len(images), CHUNK)
    ]
    return np.concatenate(chunks)


def of_splits(splits: Sequence[Faces], name: str) -> Pictures:
    """Images of data set `name` in these splits, chosen at random with a fixed seed."""
    index = splits[0].space.index(name)
    labels = splits[0].space.sets[index]
    parts = [split.parts[index] for split in splits]
    places = [(p, row) for p, part in enumerate(parts) for row in range(len(part))]
    rows = spread(len(places), MOST)
    chosen = [places[i] for i in rows]
    people = np.concatenate([cluster_names(split, index) for split in splits])
    values = torch.cat([part.labels for part in parts]).numpy()
    return Pictures(
        torch.cat([_read(parts[p], [r for q, r in chosen if q == p]) for p in range(len(parts))]),
        people[rows],
        tuple(parts[p].files[row] for p, row in chosen),
        _by_name(labels, values[rows]),
        len(places),
    )


def of_scored(
    judge: Judge,
    faces: Faces,
    train: Faces | None,
    scored: Callable[[int], np.ndarray] | None = None,
) -> list[Drift | Untold]:
    """The drift of the scored split from the train split, of each data set.

    `scored` gives the second judge's features of a data set's scored images where they are known.
    """
    found: list[Drift | Untold] = []
    for i, labels in enumerate(faces.space.sets):
        if train is None:
            found.append(Untold(labels.name, "there are no training images"))
            continue
        judged = position(judge.space, labels, "the judge")
        if scored:
            rows = spread(len(faces.parts[i]), MOST)
            mine = Side(scored(i)[rows], cluster_names(faces, i, rows))
        else:
            mine = of_splits([faces], labels.name).features(judge, judged)
        try:
            reference = of_splits([train], labels.name).features(judge, judged)
            found.append(drift(labels.name, reference, mine))
        except TooFewError as error:
            found.append(Untold(labels.name, str(error)))
    return found


def _read(part: Part, rows: list[int]) -> Tensor:
    return part.images(rows) if rows else torch.empty(0, part.side, part.side, 3).byte()


def _by_name(labels: LabelSet, values: np.ndarray) -> dict[str, np.ndarray]:
    return {name: values[:, i].astype(float) for i, name in enumerate(labels.names)}


def of_files(tree: Tree, name: str, kind: str, config: DataConfig) -> Pictures:
    """Pictures of a raw data set of `kind`, or of a folder that only has pictures.

    `name` and `config` are those of the data set that they are compared with. Labels and people
    are unknown, and a note says why, where the files are no data set of this kind. Raises
    ValueError if no picture can be read.
    """
    frame, values, notes = _listed(tree, name, kind, config)
    if not len(frame):
        raise ValueError(f"no picture among {len(tree.names())} files; give a folder of pictures")
    rows = spread(len(frame), MOST)
    images, sides, kept, faults = [], [], [], Counter[str]()
    for row in rows:
        file = str(frame["file"].iloc[row])
        try:
            check_bytes(tree.size(file))
            data = tree.read(file)
            images.append(np.array(crop_image(data, kind, config)))
            sides.append(min(open_picture(data).size))
            kept.append(row)
        except UnusableError as error:
            faults[f"{error} ({file})"] += 1
    if not images:
        raise ValueError(f"none of {len(rows)} pictures can be read: {'; '.join(list(faults)[:3])}")
    if faults:
        some = "; ".join(list(faults)[:READ])
        notes = [*notes, f"{len(rows) - len(kept)} of {len(rows)} pictures left out: {some}"]
    known = frame["identity"].iloc[kept].to_numpy(str)
    files = tuple(frame["file"].iloc[kept])
    people = [f"{name}/{who or f'file {file}'}" for who, file in zip(known, files, strict=True)]
    return Pictures(
        torch.from_numpy(np.stack(images)),
        np.array(people),
        files,
        {label: column[kept] for label, column in values.items()},
        len(frame),
        tuple(sides),
        tuple(notes),
    )


def _listed(
    tree: Tree, name: str, kind: str, config: DataConfig
) -> tuple[pd.DataFrame, dict[str, np.ndarray], list[str]]:
    """Rows with file and identity, their label values, and notes."""
    try:
        source = read_source(kind, tree, config)
    except SourceError as error:
        found = pictures(tree.names())
        note = f"only the pictures are compared, not labels or people: {error}"
        return pd.DataFrame({"file": found, "identity": ""}), {}, [note]
    frame, notes = source.frame, list(source.notes)
    reasons = unselected(frame, kind, config)
    frame = frame[reasons == ""].reset_index(drop=True)
    if len(frame) < len(reasons):
        notes.append(
            f"{len(reasons) - len(frame)} pictures of other cameras or gazes than the training's "
            "left out"
        )
    try:
        labels, values = read_labels(name, kind, frame.assign(reason=""), config)
    except UnifyError as error:
        return frame, {}, [*notes, f"labels are not compared: {error}"]
    known = ~np.isnan(values).any(1)
    if not known.all():
        notes.append(f"{int((~known).sum())} pictures without a label value left out")
    return frame[known].reset_index(drop=True), _by_name(labels, values[known]), notes


def image_facts(reference: Pictures, compared: Pictures) -> list[Difference]:
    """Brightness, contrast, sharpness and the share without a found face of both sides."""
    sides = (reference, compared)
    measured = [_levels(side.images) for side in sides]
    out = [
        difference(
            name, (measured[0][name], reference.people), (measured[1][name], compared.people),
            share=False,
        )
        for name in measured[0]
    ]  # fmt: skip
    rows = [spread(len(side.people), FACES) for side in sides]
    without = [
        (np.array([not _shows_face(side.images[i]) for i in chosen], float), side.people[chosen])
        for side, chosen in zip(sides, rows, strict=True)
    ]
    return [*out, difference("share without a found face", *without, share=True)]


def _levels(images: Tensor) -> dict[str, np.ndarray]:
    """Numbers of each image by name; images uint8 (n, s, s, 3)."""
    grey = images.numpy().astype(np.float32) @ np.array(LUMA, np.float32)  # (n, s, s)
    inner = grey[:, 1:-1, 1:-1]
    edges = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    return {
        "brightness, mean grey level": grey.mean((1, 2)),
        "contrast, standard deviation of grey levels": grey.std((1, 2)),
        "sharpness, standard deviation of the Laplacian": (4 * inner - edges).std((1, 2)),
    }


def _shows_face(image: Tensor) -> bool:
    picture = Image.fromarray(image.numpy())
    return bool(find_faces(picture.resize((FACE_SIDE, FACE_SIDE), Image.Resampling.BICUBIC)))


def short_names(files: Sequence[str]) -> list[str]:
    """The files' base names, for titles."""
    return [PurePosixPath(file).name for file in files]

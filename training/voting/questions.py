"""The questions of a study: which faces and edits, the models' pictures, traps and repeats."""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from training.core.progress import Progress
from training.data.dataset import Faces, to_float
from training.data.labels import HAIR, TOLERANCE, LabelSet, Task
from training.data.order import generator
from training.evaluation.frechet import cluster_names
from training.evaluation.score import BATCH, position, run
from training.inference.translator import Translator
from training.voting.study import DESTROYED, REAL, Question, token

WORDS = {"Male": ("female", "male"), "Young": ("old", "young")}  # of a label's 0 and 1
MOST = 6  # models: as many ways to destroy a picture, and keys under one hand


@dataclass(frozen=True)
class Asked:
    """One face and the edit that is asked for."""

    row: str
    task: Task
    index: int  # of the face in the split


@dataclass(frozen=True)
class Wanted:
    """How many questions a study has; `edits`: columns of the tables, all if empty."""

    edits: Sequence[str]
    images: int  # of each row
    traps: int
    repeats: int
    seed: int


def rows_of(labels: LabelSet, tasks: Sequence[Task]) -> dict[str, list[Task]]:
    """The tasks of each row of the tables: members of one group share a row, as hair colours."""
    rows: dict[str, list[Task]] = {}
    for task in tasks:
        group = next((g for g in labels.groups if task.single and task.edits[0] in g), None)
        name = (
            task.name if group is None else "Hair" if set(group) <= set(HAIR) else "/".join(group)
        )
        rows.setdefault(name, []).append(task)
    return rows


def ask(faces: Faces, dataset: int, wanted: Wanted) -> list[Asked]:
    """The faces of each row, drawn by the seed; tasks that share a row take turns.

    Raises ValueError for an unknown row, and one with too few faces that the edit would change.
    """
    labels, part = faces.space.sets[dataset], faces.parts[dataset]
    rows = rows_of(labels, faces.space.tasks(part.labels, dataset))
    unknown = [name for name in wanted.edits if name not in rows]
    if unknown:
        raise ValueError(f"--edits: {', '.join(unknown)} unknown; use {', '.join(rows)}")
    found = []
    for name in wanted.edits or rows:
        changed = torch.stack([task.changed for task in rows[name]])
        able = changed.any(0).nonzero().flatten()
        if len(able) < wanted.images:
            raise ValueError(
                f"{name}: {len(able)} faces of {labels.name}, split {faces.split}, can be edited; "
                f"--images {wanted.images} needs as many: lower it or leave the edit out"
            )
        order = torch.randperm(len(able), generator=generator(wanted.seed, "faces", name))
        for turn, index in enumerate(able[order[: wanted.images]].tolist()):
            usable = changed[:, index].nonzero().flatten().tolist()
            found.append(Asked(name, rows[name][usable[turn % len(usable)]], index))
    return found


def describe(labels: LabelSet, source: Tensor, target: Tensor) -> str:
    """An edit in words, from labels (k,) to labels (k,): "Blond Hair, female"."""
    words = {}
    for name, before, after in zip(labels.names, source, target, strict=True):
        if abs(after - before) < TOLERANCE:
            continue
        places = labels.group(name) if labels.kind == "binary" else range(len(labels.names))
        rivals = [labels.names[i] for i in places if target[i] > 0 and labels.kind != "continuous"]
        # a colour that makes room for another goes without saying
        said = name if after > 0 or not rivals else rivals[0]
        words[said] = _state(labels, said, float(target[labels.names.index(said)]))
    return ", ".join(words.values())


def _state(labels: LabelSet, name: str, value: float) -> str:
    if labels.kind == "continuous":
        return f"{name} {value:.1f}"
    text = name.replace("_", " ")
    return WORDS.get(name, (f"not {text}", text))[int(value > 0)]


def own_state(labels: LabelSet, row: Tensor, turn: int) -> str:
    """One label of a face in words; `turn` chooses among those that can be seen on it."""
    grouped = {name for group in labels.exclusive for name in group}
    seen = [
        name
        for name, value in zip(labels.names, row, strict=True)
        if value >= TOLERANCE or (labels.kind == "binary" and name not in grouped)
    ]
    name = (seen or labels.names)[turn % len(seen or labels.names)]
    return _state(labels, name, float(row[labels.names.index(name)]))


def destroyed(image: np.ndarray, kind: int, random: torch.Generator) -> np.ndarray:
    """A picture (H, W, 3) that nobody would choose; five kinds."""
    size = len(image)

    def mosaic(blocks: int) -> np.ndarray:
        small = Image.fromarray(image).resize((blocks, blocks), Image.Resampling.BOX)
        return np.asarray(small.resize((size, size), Image.Resampling.NEAREST))

    def tiles() -> np.ndarray:
        side = size // 4
        order = torch.randperm(16, generator=random).tolist()
        out = image.copy()
        for to, at in enumerate(order):
            (i, j), (k, m) = (divmod(n, 4) for n in (to, at))
            out[i * side : (i + 1) * side, j * side : (j + 1) * side] = image[
                k * side : (k + 1) * side, m * side : (m + 1) * side
            ]
        return out

    def noise() -> np.ndarray:
        dots = torch.randint(0, 256, image.shape, generator=random, dtype=torch.uint8).numpy()
        return np.asarray(0.2 * image + 0.8 * dots).astype(np.uint8)

    def rows() -> np.ndarray:
        return image[torch.randperm(size, generator=random).numpy()]

    ways: list[Callable[[], np.ndarray]] = [
        lambda: mosaic(4), tiles, noise, rows, lambda: 255 - mosaic(8),
    ]  # fmt: skip
    return ways[kind]()


def png(image: np.ndarray) -> str:
    """PNG of uint8 (H, W, 3) in base64."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def edited(
    translator: Translator, faces: Faces, dataset: int, asked: Sequence[Asked]
) -> np.ndarray:
    """One model's edits, uint8 (n, H, W, 3), in the order of `asked`.

    Raises ValueError if the model has other labels or another image size, or its output is not
    finite.
    """
    if translator.size != faces.size:
        raise ValueError(
            f"the model takes images of {translator.size} px; the data set holds {faces.size} px"
        )
    part, space = faces.parts[dataset], translator.space
    mine = position(space, faces.space.sets[dataset])
    out = []
    for start in range(0, len(asked), BATCH):
        here = asked[start : start + BATCH]
        rows = [one.index for one in here]
        target = torch.stack([one.task.target[one.index] for one in here])
        source = space.encode(part.labels[rows], mine)
        out.append(run(translator, to_float(part.images(rows)), source, space.encode(target, mine)))
    return torch.cat(out).numpy()


def study_of(
    faces: Faces,
    dataset: int,
    models: Sequence[tuple[str, Callable[[], Translator]]],
    wanted: Wanted,
) -> tuple[list[str], list[list[Question]], dict[str, str]]:
    """Rows of the tables, questions in three blocks, and the pictures (id -> PNG in base64).

    Questions that are repeated are in the first block, repeats in the last. Raises ValueError as
    `ask` and `edited` do, the latter with the model's name.
    """
    asked = ask(faces, dataset, wanted)
    if wanted.repeats >= len(asked):  # one at least has to be between a question and its repeat
        raise ValueError(
            f"--repeats {wanted.repeats}: there are {len(asked)} questions; fewer than these are "
            "needed"
        )
    edits, pictures = _edits(faces, dataset, asked, wanted.seed)
    with Progress("vote", len(models), "models") as bar:
        for name, load in models:
            try:
                made = edited(load(), faces, dataset, asked)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            for question, image in zip(edits, made, strict=True):
                option = token(wanted.seed, question.id, name)
                question.options[option] = name
                pictures[option] = png(image)
            bar.step()
    traps = _traps(faces, dataset, len(models), wanted, pictures)
    rows = list(dict.fromkeys(one.row for one in asked))
    return rows, _blocks(edits, traps, wanted), pictures


def _edits(
    faces: Faces, dataset: int, asked: Sequence[Asked], seed: int
) -> tuple[list[Question], dict[str, str]]:
    """The questions, still without options, and the inputs' pictures."""
    labels, part = faces.space.sets[dataset], faces.parts[dataset]
    people = cluster_names(faces, dataset)
    found, pictures = [], {}
    for number, one in enumerate(asked):
        shown = token(seed, "input", number)
        pictures[shown] = png(part.images([one.index])[0].numpy())
        wanted = describe(labels, part.labels[one.index], one.task.target[one.index])
        found.append(
            Question(
                token(seed, "edit", number), "edit", one.row, one.task.single, one.task.name,
                wanted, part.files[one.index], str(people[one.index]), shown, {},
            )
        )  # fmt: skip
    return found, pictures


def _traps(
    faces: Faces, dataset: int, count: int, wanted: Wanted, pictures: dict[str, str]
) -> list[Question]:
    """Questions about what a face already shows: itself beside `count` − 1 destroyed copies."""
    labels, part, seed = faces.space.sets[dataset], faces.parts[dataset], wanted.seed
    people, found = cluster_names(faces, dataset), []
    order = torch.randperm(len(part), generator=generator(seed, "traps")).tolist()
    for number in range(wanted.traps):
        index = order[number % len(order)]
        image, random = part.images([index])[0].numpy(), generator(seed, "destroyed", number)
        kinds = torch.randperm(MOST - 1, generator=random).tolist()[: count - 1]
        options = {}
        for kind in (None, *kinds):
            option = token(seed, "trap", number, kind)
            options[option] = REAL if kind is None else DESTROYED
            pictures[option] = png(image if kind is None else destroyed(image, kind, random))
        shown = token(seed, "trap's input", number)
        pictures[shown] = png(image)
        text = own_state(labels, part.labels[index], number)
        found.append(
            Question(
                token(seed, "trap", number), "trap", "", True, "", text, part.files[index],
                str(people[index]), shown, options,
            )
        )  # fmt: skip
    return found


def _blocks(
    edits: Sequence[Question], traps: Sequence[Question], wanted: Wanted
) -> list[list[Question]]:
    order = torch.randperm(len(edits), generator=generator(wanted.seed, "repeats")).tolist()
    repeated = [edits[i] for i in order[: wanted.repeats]]
    again = [
        replace(one, kind="repeat", id=token(wanted.seed, "repeat", one.id), of=one.id)
        for one in repeated
    ]
    blocks = [list(repeated), [], again]
    others = [*(edits[i] for i in order[wanted.repeats :]), *traps]
    for question in others:  # to the shortest block, the middle one first
        min((blocks[1], blocks[0], blocks[2]), key=len).append(question)
    return blocks

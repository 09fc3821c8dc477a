"""Pictures of a comparison: the same images by every model, and quality against cost."""

from collections.abc import Sequence
from typing import Any

import torch

from training.data.dataset import Faces, to_float
from training.data.labels import Task
from training.evaluation.comparison.runs import ComparedRun, named
from training.evaluation.score import position, run, space_of, spread
from training.inference.translator import load_translator
from training.rendering.grids import grid

WALL = 3  # images on the picture wall


def _held_out(run: ComparedRun) -> Faces:
    return Faces.open(run.dataset, run.evaluation.meta.split or "test")


def _singles(faces: Faces, rows: list[int]) -> dict[str, Task]:
    """The single edits of the first data set, of these rows."""
    tasks = faces.space.tasks(faces.parts[0].labels[rows], 0)
    return {task.name: task for task in tasks if task.single}


@torch.no_grad()
def wall(names: dict[str, list[ComparedRun]]) -> bytes:
    """PNG: the same held-out images under the same single edits, a row a model (its first seed).

    The images and edits are those that every model's data have, by file and by name; no edit in
    common raises ValueError.
    """
    opened = {name: _held_out(found[0]) for name, found in names.items()}
    files = [faces.parts[0].files for faces in opened.values()]
    shared = [file for file in files[0] if all(file in other for other in files[1:])]
    chosen = [shared[i] for i in spread(len(shared), WALL)]
    edits = [list(_singles(faces, [0])) for faces in opened.values()]
    asked = [name for name in edits[0] if all(name in other for other in edits[1:])]
    if not asked or not chosen:
        raise ValueError(f"{', '.join(names)}: no edit or no image in common")
    rows: list[list[Any]] = [[] for _ in range(len(chosen) * len(names))]
    for place, (name, faces) in enumerate(opened.items()):
        part, translator = faces.parts[0], load_translator(names[name][0].model)
        mine = [part.files.index(file) for file in chosen]
        space = space_of(translator, faces)
        where = position(space, faces.space.sets[0])
        before, tasks = part.images(mine), _singles(faces, mine)
        x, source = to_float(before), space.encode(part.labels[mine], where)
        columns = [before] + [
            run(translator, x, source, space.encode(tasks[edit].target, where)) for edit in asked
        ]
        for i in range(len(chosen)):
            rows[i * len(names) + place] = [column[i].numpy() for column in columns]
    return grid(rows, ["input", *asked], list(names) * len(chosen))


def across(groups: Sequence[list[ComparedRun]]) -> dict[str, list[ComparedRun]]:
    """Models of several groups that all share an edit and an image.

    Groups are taken in order, each that shares with all taken before; empty where the first shares
    with none.
    """
    near: list[list[ComparedRun]] = []
    edits: set[str] = set()
    files: set[str] = set()
    size = 0
    for group in groups:
        faces = _held_out(group[0])
        known, held = set(_singles(faces, [0])), set(faces.parts[0].files)
        if not near:
            edits, files, size = known, held, faces.size
        elif not (edits & known and files & held and size == faces.size):
            continue
        edits, files = edits & known, files & held
        near.append(group)
    return named([one for group in near for one in group]) if len(near) > 1 else {}

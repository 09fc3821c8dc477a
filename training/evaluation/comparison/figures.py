"""Figures of a comparison: the same images edited by every model."""

from collections.abc import Sequence
from typing import Any

import torch

from training.data.dataset import Faces, to_float
from training.data.labels import Task
from training.evaluation.comparison.runs import ComparedRun, named
from training.evaluation.score import position, run, space_of, spread
from training.inference.translator import load_translator
from training.rendering.fonts import legend
from training.rendering.grids import grid

WALL_IMAGES = 3


def _held_out(run: ComparedRun) -> Faces:
    return Faces.open(run.dataset, run.evaluation.meta.split or "test")


def _singles(faces: Faces, rows: list[int]) -> dict[str, Task]:
    """Single edits of the given rows of the first data set, by name."""
    tasks = faces.space.tasks(faces.parts[0].labels[rows], 0)
    return {task.name: task for task in tasks if task.single}


@torch.no_grad()
def image_wall(names: dict[str, list[ComparedRun]]) -> tuple[bytes, str]:
    """PNG and legend: the same held-out images and single edits, one row per model (first seed).

    Images and edits are those that all data sets share, by file and by name. Raises ValueError if
    there is no common edit or image.
    """
    opened = {name: _held_out(found[0]) for name, found in names.items()}
    files = [faces.parts[0].files for faces in opened.values()]
    shared = [file for file in files[0] if all(file in other for other in files[1:])]
    chosen = [shared[i] for i in spread(len(shared), WALL_IMAGES)]
    edits = [list(_singles(faces, [0])) for faces in opened.values()]
    common_edits = [name for name in edits[0] if all(name in other for other in edits[1:])]
    if not common_edits or not chosen:
        raise ValueError(f"{', '.join(names)}: no common edit or no common image")
    rows: list[list[Any]] = [[] for _ in range(len(chosen) * len(names))]
    for model_index, (name, faces) in enumerate(opened.items()):
        part, translator = faces.parts[0], load_translator(names[name][0].model)
        rows_of_files = [part.files.index(file) for file in chosen]
        space = space_of(translator, faces)
        dataset_index = position(space, faces.space.sets[0])
        before, tasks = part.images(rows_of_files), _singles(faces, rows_of_files)
        x, source = to_float(before), space.encode(part.labels[rows_of_files], dataset_index)
        columns = [before] + [
            run(translator, x, source, space.encode(tasks[edit].target, dataset_index))
            for edit in common_edits
        ]
        for i in range(len(chosen)):
            rows[i * len(names) + model_index] = [column[i].numpy() for column in columns]
    titles, sides = ["input", *common_edits], list(names) * len(chosen)
    return grid(rows, titles, sides), legend(titles, sides)


def shared_models(groups: Sequence[list[ComparedRun]]) -> dict[str, list[ComparedRun]]:
    """Models of the groups that have an edit, an image and the image size in common.

    Groups are added in order if they share these with all added before; empty if only one is left.
    """
    selected: list[list[ComparedRun]] = []
    edits: set[str] = set()
    files: set[str] = set()
    size = 0
    for group in groups:
        faces = _held_out(group[0])
        group_edits, group_files = set(_singles(faces, [0])), set(faces.parts[0].files)
        if not selected:
            edits, files, size = group_edits, group_files, faces.size
        elif not (edits & group_edits and files & group_files and size == faces.size):
            continue
        edits, files = edits & group_edits, files & group_files
        selected.append(group)
    return named([one for group in selected for one in group]) if len(selected) > 1 else {}

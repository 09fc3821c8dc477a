"""Edit a picture with a registered model: target labels, intensities, a style.

    python -m training.translate stargan@champion face.png edited.png Blond_Hair
    python -m training.translate stgan@champion face.png edited.png Male --has Young --intensity 1.5
    python -m training.translate ganimation@champion face.png edited.png AU12=0.8 AU06=0.5
    python -m training.translate starganv2@champion face.png edited.png Blond_Hair --seed 7
    python -m training.translate ganimation@champion photo.jpg edited.png AU12=0.8 --find

The version is verified first; no code from the registry is run.
"""

import io
import logging
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from training.core import cli
from training.core.cli import means
from training.core.files import write_bytes
from training.data.crop import Box
from training.data.dataset import to_float, to_uint8
from training.data.pictures import read_picture
from training.inference.paste import find_faces, parse_box, paste, square_in
from training.inference.request import edit_labels
from training.inference.translator import Translator, translator_from_files
from training.models.base import EditOptions
from training.registry.references import registered_files
from training.tracking import client as tracking

main = cli.program("python -m training.translate", __doc__)
HAS = means(
    "a label of the input picture (NAME=0: absent); repeatable. The edit starts from these labels; "
    "without any, all labels not named as targets are removed",
)
log = logging.getLogger(__name__)


def load_picture(path: Path) -> Image.Image:
    """Load a picture as upright RGB; says what was changed. ValueError with the file's name."""
    picture, notes = read_picture(path)
    for note in notes:
        log.warning("%s: %s", path, note)
    return picture


def center_square(picture: Image.Image, size: int) -> Tensor:
    """Center-crop a picture to a square and resize it: (1, 3, size, size) in [-1, 1]."""
    fitted = ImageOps.fit(picture, (size, size))
    return to_float(torch.from_numpy(np.asarray(fitted).copy())[None])


def largest_face(picture: Image.Image) -> Box:
    """Box of the largest face, with a warning if there are several; ValueError if there is none."""
    faces = find_faces(picture)
    if not faces:
        raise ValueError("no face found; give its box with --box LEFT,TOP,RIGHT,BOTTOM")
    if len(faces) > 1:
        largest = ",".join(map(str, faces[0]))
        log.warning("%d faces found; the largest is edited, --box %s", len(faces), largest)
    return faces[0]


def edit_picture(
    translator: Translator, picture: Image.Image, box: Box | None, c: tuple[Tensor | None, Tensor]
) -> np.ndarray:
    """uint8 (H, W, 3): the center crop at the model's size, or the whole picture with `box` edited.

    `c` are the source (None if the model does not use them) and target label vectors.
    """
    if box is None:
        return to_uint8(translator(center_square(picture, translator.size), *c))[0].numpy()
    box = square_in(box, *picture.size)
    keep, paint = translator.paint(center_square(picture.crop(box), translator.size), *c)
    return paste(np.asarray(picture), box, keep, paint)


@main.default
@tracking.answered()
def translate(
    version: Annotated[str, means("NAME@champion or NAME/VERSION")],
    face: Annotated[Path, means("the input picture")],
    out: Annotated[Path, means("the picture to write")],
    /,
    *labels: Annotated[str, means("target labels: NAME, NAME=0 for absent, AU12=0.7")],
    has: Annotated[list[str] | None, HAS] = None,
    intensity: Annotated[float | None, means("factor on labels that change; 1: training's")] = None,
    seed: Annotated[int | None, means("seed of the latent style code")] = None,
    reference: Annotated[Path | None, means("a picture that provides the style")] = None,
    box: Annotated[str, means("LEFT,TOP,RIGHT,BOTTOM in px: edit only this box")] = "",
    find: Annotated[bool, means("edit only the largest face found")] = False,
) -> str:
    """Edit a picture, or only a box of it; the rest is kept.

    Raises ValueError for unknown labels, unsupported options or an unknown image format.
    """
    if box and find:
        raise ValueError("--box and --find: give one of them")
    area = parse_box(box) if box else None
    kind = Image.registered_extensions().get(out.suffix.lower())
    if kind is None:
        raise ValueError(f"{out}: unknown image format; use a suffix such as .png")
    translator = translator_from_files(registered_files(version))
    c = edit_labels(translator.space, list(labels), has, reads_source=translator.model.reads_source)
    style = None if reference is None else center_square(load_picture(reference), translator.size)
    translator = replace(translator, options=EditOptions(intensity, seed, style))
    picture = load_picture(face)
    face_box = largest_face(picture) if find else area
    buffer = io.BytesIO()
    Image.fromarray(edit_picture(translator, picture, face_box, c)).save(buffer, kind)
    write_bytes(out, buffer.getvalue())
    return f"synthetic image written to {out}"


if __name__ == "__main__":
    cli.entry_point(main)

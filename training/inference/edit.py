"""One edit of any picture or frame: the model, the labels, and which part is edited."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from training.data.crop import Box
from training.data.dataset import to_uint8
from training.data.pictures import read_picture
from training.inference.paste import center_square, find_faces, paste, square_in
from training.inference.translator import Translator

log = logging.getLogger(__name__)


def load_picture(path: Path) -> Image.Image:
    """Load a picture as upright RGB; says what was changed. ValueError with the file's name."""
    picture, notes = read_picture(path)
    for note in notes:
        log.warning("%s: %s", path, note)
    return picture


def largest_face(picture: Image.Image) -> Box:
    """Box of the largest face, with a warning if there are several; ValueError if there is none."""
    faces = find_faces(picture)
    if not faces:
        raise ValueError("no face found; give its box with --box LEFT,TOP,RIGHT,BOTTOM")
    if len(faces) > 1:
        largest = ",".join(map(str, faces[0]))
        log.warning("%d faces found; the largest is edited, --box %s", len(faces), largest)
    return faces[0]


@dataclass(frozen=True)
class Edit:
    """An edit by labels c̃ of the source (None: not used) and the target, and where.

    box: only this part, in px; find: only the largest face; else the center square.
    """

    translator: Translator
    c: tuple[Tensor | None, Tensor]
    box: Box | None = None
    find: bool = False

    def place(self, picture: Image.Image) -> Box | None:
        """The square of a picture that is edited in place, in px; None: its center, cropped.

        Raises ValueError for a box outside the picture and where there is no face.
        """
        box = largest_face(picture) if self.find else self.box
        return None if box is None else square_in(box, *picture.size)

    def __call__(self, picture: Image.Image, square: Box | None) -> np.ndarray:
        """uint8 (H, W, 3): the whole picture with `square` edited, or its center at the model's
        size. The style's noise is that of the options' seed, so that it is the same in each call.
        """
        size = self.translator.size
        if square is None:
            return to_uint8(self.translator(center_square(picture, size), *self.c))[0].numpy()
        keep, paint = self.translator.paint(center_square(picture.crop(square), size), *self.c)
        return paste(np.asarray(picture), square, keep, paint)

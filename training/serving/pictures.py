"""Pictures of requests: decoded within limits, their face found, the result written."""

import io
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from training.data.crop import Box
from training.data.dataset import to_uint8
from training.data.pictures import UnusableError, decode, open_picture
from training.inference.marks import marked, stated_sources
from training.inference.paste import center_square, find_faces, parse_box, paste, square_in
from training.serving.problems import Problem, refused

FACE, CENTRE = "face", "centre"
PNG = "image/png"


class Part(NamedTuple):
    """The part of a picture that is edited, at the model's size, and where it is."""

    picture: Image.Image
    square: Tensor  # (1, 3, size, size) in [-1, 1]
    box: Box | None  # a square, px; None: the picture's centre, which the result then is
    faces: int  # number of faces found

    @property
    def headers(self) -> dict[str, str]:
        """The box that was edited and how many faces were found, if one was looked for."""
        box = {"X-Box": ",".join(map(str, self.box))} if self.box else {}
        return box | ({"X-Faces": str(self.faces)} if self.faces else {})


def read(data: bytes, where: str, most: int) -> Image.Image:
    """Decode the bytes of a picture of at most `most` pixels, upright. Raises Problem."""
    try:
        header = open_picture(data)
        width, height = header.size
        if width * height > most:
            raise UnusableError(f"too large: {width}x{height} px")
        return decode(header, upright=True)
    except UnusableError as error:
        if str(error).startswith("too large"):  # Pillow's own limit is higher
            what = f"{str(error).partition(';')[0]}; the limit is {most:,} pixels"
            raise Problem(413, what, where, "scale it down") from error
        raise refused(error, where, "send a JPEG or PNG picture") from error


def part_of(picture: Image.Image, frame: str, size: int) -> Part:
    """The part that `frame` names: "face" (the largest), "centre", or LEFT,TOP,RIGHT,BOTTOM.

    Raises Problem, also if no face is found.
    """
    if frame == CENTRE:
        return Part(picture, center_square(picture, size), None, 0)
    if frame == FACE:
        faces = find_faces(picture)
        if not faces:
            raise Problem(
                422, "no face found", "image",
                f"send frame={CENTRE}, or frame=LEFT,TOP,RIGHT,BOTTOM in px; upright frontal "
                "faces are found",
            )  # fmt: skip
        box, count = faces[0], len(faces)
    else:
        box, count = _box(frame), 0
    try:
        box = square_in(box, *picture.size)
    except ValueError as error:
        raise refused(error, "frame", "give a box inside the picture") from error
    return Part(picture, center_square(picture.crop(box), size), box, count)


def _box(frame: str) -> Box:
    try:
        return parse_box(frame)
    except ValueError as error:
        raise refused(error, "frame", f"give {FACE}, {CENTRE} or a box in px") from error


def edited(part: Part, keep: Tensor | None, content: Tensor) -> np.ndarray:
    """The edit (see `Model.paint`), uint8 (H, W, 3): in the whole picture, or the centre alone."""
    if part.box is not None:
        return paste(np.asarray(part.picture), part.box, keep, content)
    return to_uint8(composed(part.square, keep, content))[0].numpy()


def composed(image: Tensor, keep: Tensor | None, content: Tensor) -> Tensor:
    """A∘image + (1 − A)∘C, with A = `keep` (n, 1, s, s); C if it is None."""
    return content if keep is None else keep * image + (1 - keep) * content


def png(pixels: np.ndarray, version: str, upload: bytes) -> bytes:
    """A synthetic picture, uint8 (H, W, 3), as PNG; every picture that leaves is written here.

    Its metadata say that `version` ("NAME/3") made it, and that the upload was synthetic already.
    """
    return marked(pixels, version, sources=stated_sources(io.BytesIO(upload)))

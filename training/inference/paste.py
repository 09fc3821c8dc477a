"""An edit inside a larger picture: where the face is, its square for the model, and back in place.

As in GANimation's full-image mode: the picture keeps its own pixels, at their own resolution, where
the model's attention keeps the input; of a model without one, a square with soft edges is put in.
"""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from training.data.crop import Box
from training.data.dataset import to_float, to_uint8

LOOKED_AT = 640  # px of the longer side of the picture in which faces are looked for
WIDER = 1.68  # of the square around a face that is found: as CelebA's crop shows it
HIGHER = 0.14  # of the found face's width, by which that square lies above its centre
SOFT = 1 / 8  # of the square's side, over which its edges fade


def parse_box(text: str) -> Box:
    """`left,top,right,bottom` in px. Raises ValueError in words."""
    try:
        left, top, right, bottom = (int(number) for number in text.split(","))
    except ValueError:
        raise ValueError(
            f"{text}: a box is LEFT,TOP,RIGHT,BOTTOM in px, as 40,30,168,158"
        ) from None
    return left, top, right, bottom


def square_in(box: Box, width: int, height: int) -> Box:
    """The central square of a box in a picture. Raises ValueError for one that leaves it."""
    left, top, right, bottom = box
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ValueError(
            f"box {left},{top},{right},{bottom}: LEFT,TOP,RIGHT,BOTTOM within the picture's "
            f"{width}x{height} px is needed"
        )
    side = min(right - left, bottom - top)
    x, y = left + (right - left - side) // 2, top + (bottom - top - side) // 2
    return x, y, x + side, y + side


def find(picture: Image.Image) -> list[Box]:
    """Squares around the faces of a picture, as models are shown faces, the largest first.

    By scikit-image's cascade of local binary patterns, which knows upright faces from the front.
    """
    from skimage.data import lbp_frontal_face_cascade_filename
    from skimage.feature import Cascade

    scale = max(1.0, max(picture.size) / LOOKED_AT)
    small = picture.resize(
        (max(1, int(picture.width / scale)), max(1, int(picture.height / scale)))
    )
    least = max(24, min(small.size) // 8)  # 24 px is the cascade's window
    if min(small.size) < least:
        return []
    found = Cascade(lbp_frontal_face_cascade_filename()).detect_multi_scale(
        img=np.asarray(small), scale_factor=1.2, step_ratio=1, min_size=(least, least),
        max_size=small.size[::-1],
    )  # fmt: skip
    boxes = []
    for face in sorted(found, key=lambda face: -face["width"]):
        side = min(round(WIDER * face["width"] * scale), *picture.size)
        middle = (face["c"] + face["width"] / 2, face["r"] + (0.5 - HIGHER) * face["width"])
        left, top = (
            int(min(max(0, at * scale - side / 2), end - side))
            for at, end in zip(middle, picture.size, strict=True)
        )
        boxes.append((left, top, left + side, top + side))
    return boxes


def soft(side: int) -> Tensor:
    """Weights (side, side) of what is put in: 1 within, to almost 0 at the edges."""
    place = torch.arange(side) + 0.5
    ramp = (torch.minimum(place, side - place) / (SOFT * side)).clamp(max=1)
    return torch.minimum(ramp[:, None], ramp[None])


def paste(whole: np.ndarray, box: Box, keep: Tensor | None, paint: Tensor) -> np.ndarray:
    """uint8 (H, W, 3) with `paint` (1, 3, s, s) put into the square `box`.

    `keep` (1, 1, s, s): 1 where the picture stays as it is. Nothing outside the box changes.
    """
    left, top, right, bottom = box
    size = (bottom - top, right - left)
    part = to_float(torch.from_numpy(whole[top:bottom, left:right].copy())[None])
    new = F.interpolate(paint, size, mode="bicubic", antialias=True).clamp(-1, 1)
    weight = soft(size[0])
    if keep is not None:
        weight = weight * (1 - F.interpolate(keep, size, mode="bilinear", antialias=True))
    out = whole.copy()
    out[top:bottom, left:right] = to_uint8(torch.lerp(part, new, weight.expand_as(part)))[0].numpy()
    return out

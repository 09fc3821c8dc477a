"""Edit a face inside a larger picture: detect it, crop a square, and paste the result.

As in GANimation's full-image mode, original pixels are kept where the model's attention mask keeps
the input. Without an attention mask, the square is blended in with soft edges.
"""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from training.data.crop import Box
from training.data.dataset import to_float, to_uint8

SEARCH_SIZE = 640  # longer side in px of the downscaled picture for face detection
CROP_SCALE = 1.68  # side of the crop / width of the detected face, as in CelebA's crop
CROP_SHIFT = 0.14  # upward shift of the crop / width of the detected face
FADE = 1 / 8  # width of the soft edge / side of the square
BAND = 256  # rows that are blended at once: a square of 16 million pixels would take a GiB


def parse_box(text: str) -> Box:
    """Parse `left,top,right,bottom` in px. Raises ValueError for any other text."""
    try:
        left, top, right, bottom = (int(number) for number in text.split(","))
    except ValueError:
        raise ValueError(
            f"{text}: a box is LEFT,TOP,RIGHT,BOTTOM in px, such as 40,30,168,158"
        ) from None
    return left, top, right, bottom


def square_in(box: Box, width: int, height: int) -> Box:
    """The central square of `box`, in px. Raises ValueError for a box outside the picture."""
    left, top, right, bottom = box
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ValueError(
            f"box {left},{top},{right},{bottom}: LEFT,TOP,RIGHT,BOTTOM within the picture's "
            f"{width}x{height} px is needed"
        )
    side = min(right - left, bottom - top)
    x, y = left + (right - left - side) // 2, top + (bottom - top - side) // 2
    return x, y, x + side, y + side


def find_faces(picture: Image.Image) -> list[Box]:
    """Detect faces: squares in px, framed like the training images, the largest first.

    Uses scikit-image's LBP cascade, which detects upright frontal faces.
    """
    from skimage.data import lbp_frontal_face_cascade_filename
    from skimage.feature import Cascade

    scale = max(1.0, max(picture.size) / SEARCH_SIZE)
    small = picture.resize(
        (max(1, int(picture.width / scale)), max(1, int(picture.height / scale)))
    )
    smallest = max(24, min(small.size) // 8)  # 24 px is the cascade's window
    if min(small.size) < smallest:
        return []
    detected = Cascade(lbp_frontal_face_cascade_filename()).detect_multi_scale(
        img=np.asarray(small), scale_factor=1.2, step_ratio=1, min_size=(smallest, smallest),
        max_size=small.size[::-1],
    )  # fmt: skip
    boxes = []
    for face in sorted(detected, key=lambda face: -face["width"]):
        side = min(round(CROP_SCALE * face["width"] * scale), *picture.size)
        centre = (face["c"] + face["width"] / 2, face["r"] + (0.5 - CROP_SHIFT) * face["width"])
        left, top = (
            int(min(max(0, middle * scale - side / 2), length - side))
            for middle, length in zip(centre, picture.size, strict=True)
        )
        boxes.append((left, top, left + side, top + side))
    return boxes


def center_square(picture: Image.Image, size: int) -> Tensor:
    """Center-crop a picture to a square and resize it: (1, 3, size, size) in [-1, 1]."""
    fitted = ImageOps.fit(picture, (size, size))
    return to_float(torch.from_numpy(np.asarray(fitted).copy())[None])


def edge_weights(side: int) -> Tensor:
    """Blending weights (side, side): 1 in the centre, falling to almost 0 at the edges."""
    position = torch.arange(side) + 0.5
    ramp = (torch.minimum(position, side - position) / (FADE * side)).clamp(max=1)
    return torch.minimum(ramp[:, None], ramp[None])


def paste(whole: np.ndarray, box: Box, keep: Tensor | None, paint: Tensor) -> np.ndarray:
    """Blend `paint` (1, 3, s, s) in [-1, 1] into the square `box` of `whole` uint8 (H, W, 3).

    `keep` (1, 1, s, s) is 1 where original pixels are kept. Returns a copy; pixels outside the box
    are unchanged.
    """
    left, top, right, bottom = box
    size = (bottom - top, right - left)
    new = F.interpolate(paint, size, mode="bicubic", antialias=True).clamp_(-1, 1)
    weight = edge_weights(size[0])
    if keep is not None:
        weight *= 1 - F.interpolate(keep, size, mode="bilinear", antialias=True)[0, 0]
    out = whole.copy()
    for y in range(0, size[0], BAND):
        rows = slice(y, y + BAND)
        band = out[top:bottom, left:right][rows]
        part = to_float(torch.from_numpy(band.copy())[None])
        made = torch.lerp(part, new[:, :, rows], weight[rows].expand_as(part))
        band[:] = to_uint8(made)[0].numpy()
    return out

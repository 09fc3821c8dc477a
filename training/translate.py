"""Edit a picture with a registered model: target labels, intensities, a style.

    python -m training.translate stargan@champion face.png edited.png Blond_Hair
    python -m training.translate stgan@champion face.png edited.png Male --has Young --intensity 1.5
    python -m training.translate ganimation@champion face.png edited.png AU12=0.8 AU06=0.5
    python -m training.translate starganv2@champion face.png edited.png Blond_Hair --seed 7
    python -m training.translate ganimation@champion photo.jpg edited.png AU12=0.8 --find

The version is verified first; no code from the registry is run.
"""

import argparse
import io
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from training.core import cli
from training.core.files import write_bytes
from training.data.crop import Box
from training.data.dataset import to_float, to_uint8
from training.inference.paste import find_faces, parse_box, paste, square_in
from training.inference.request import edit_labels
from training.inference.translator import Translator, translator_from_files
from training.models.base import EditOptions
from training.registry.references import registered_files
from training.tracking import client as tracking

log = logging.getLogger(__name__)


def load_picture(path: Path) -> Image.Image:
    """Load a picture as RGB, rotated by its EXIF orientation."""
    with Image.open(path) as picture:
        return ImageOps.exif_transpose(picture).convert("RGB")


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


@tracking.answered()
def translate(
    reference: str,
    face: Path,
    target: list[str],
    out: Path,
    *,
    has: list[str] | None = None,
    intensity: float | None = None,
    seed: int | None = None,
    style: Path | None = None,
    box: Box | Literal["find"] | None = None,
) -> None:
    """Edit `face` to the labels `target` with NAME@ALIAS or NAME/VERSION and write it to `out`.

    `has` are the labels of the input, from which the edit starts; without them every label that is
    not in `target` is off. With a `box` (px) only its content is edited and the rest kept. Raises
    ValueError for unknown labels, unsupported options or an unknown image format.
    """
    kind = Image.registered_extensions().get(out.suffix.lower())
    if kind is None:
        raise ValueError(f"{out}: unknown image format; use a suffix such as .png")
    translator = translator_from_files(registered_files(reference))
    c = edit_labels(translator.space, target, has, reads_source=translator.model.reads_source)
    style_image = None if style is None else center_square(load_picture(style), translator.size)
    translator = replace(translator, options=EditOptions(intensity, seed, style_image))
    picture = load_picture(face)
    face_box = largest_face(picture) if box == "find" else box
    buffer = io.BytesIO()
    Image.fromarray(edit_picture(translator, picture, face_box, c)).save(buffer, kind)
    write_bytes(out, buffer.getvalue())


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.translate", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("version", help="NAME@champion or NAME/VERSION")
    parser.add_argument("face", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "labels", nargs="*", help="target labels: NAME, NAME=0 for absent, AU12=0.7"
    )
    parser.add_argument(
        "--has", action="append",
        help="a label of the input picture (NAME=0: absent); repeatable. The edit starts from "
        "these labels; without any, all labels not named as targets are removed",
    )  # fmt: skip
    parser.add_argument(
        "--intensity", type=float, help="factor on labels that change; 1 as in training"
    )
    parser.add_argument("--seed", type=int, help="seed of the latent style code")
    parser.add_argument("--reference", type=Path, help="a picture that provides the style")
    whole = parser.add_mutually_exclusive_group()
    whole.add_argument("--box", help="LEFT,TOP,RIGHT,BOTTOM in px: edit only this box")
    whole.add_argument("--find", action="store_true", help="edit only the largest face found")
    args = parser.parse_args(argv)
    translate(
        args.version, args.face, args.labels, args.out, has=args.has, intensity=args.intensity,
        seed=args.seed, style=args.reference,
        box="find" if args.find else parse_box(args.box) if args.box else None,
    )  # fmt: skip
    sys.stdout.write(f"synthetic image written to {args.out}\n")


if __name__ == "__main__":
    cli.entry_point(main)

"""Edit a picture with a registered model, whatever it takes: labels, intensities, a style.

    python -m training.translate stargan@champion face.png edited.png Blond_Hair
    python -m training.translate stgan@champion face.png edited.png Male --has Young --intensity 1.5
    python -m training.translate ganimation@champion face.png edited.png AU12=0.8 AU06=0.5
    python -m training.translate starganv2@champion face.png edited.png Blond_Hair --seed 7
    python -m training.translate ganimation@champion photo.jpg edited.png AU12=0.8 --find

The version is verified first; no code out of the registry is run.
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


def upright(path: Path) -> Image.Image:
    """A picture as it was seen, whichever way its camera was held."""
    with Image.open(path) as picture:
        return ImageOps.exif_transpose(picture).convert("RGB")


def square(picture: Image.Image, size: int) -> Tensor:
    """A picture cut to its central square: (1, 3, size, size) in [-1, 1]."""
    fitted = ImageOps.fit(picture, (size, size))
    return to_float(torch.from_numpy(np.asarray(fitted).copy())[None])


def face_of(picture: Image.Image) -> Box:
    """Where the largest face is; a warning names it where there are more."""
    found = find_faces(picture)
    if not found:
        raise ValueError("no face found; say where it is with --box LEFT,TOP,RIGHT,BOTTOM")
    if len(found) > 1:
        place = ",".join(map(str, found[0]))
        log.warning("%d faces found; the largest is edited, --box %s", len(found), place)
    return found[0]


def edited(
    translator: Translator, picture: Image.Image, box: Box | None, c: tuple[Tensor | None, Tensor]
) -> np.ndarray:
    """uint8 (H, W, 3): the picture's central square at the model's size, or all with `box` edited.

    `c` are the labels that it has and is to have.
    """
    if box is None:
        return to_uint8(translator(square(picture, translator.size), *c))[0].numpy()
    box = square_in(box, *picture.size)
    keep, paint = translator.paint(square(picture.crop(box), translator.size), *c)
    return paste(np.asarray(picture), box, keep, paint)


@tracking.answered()
def translate(
    reference: str,
    face: Path,
    asked: list[str],
    out: Path,
    *,
    has: list[str] | None = None,
    intensity: float | None = None,
    seed: int | None = None,
    style: Path | None = None,
    box: Box | Literal["find"] | None = None,
) -> None:
    """Write `face` as NAME@ALIAS or NAME/VERSION shows it with the labels `asked` to `out`.

    `has` are the labels that the face shows already, from which the edit starts; else all but what
    is asked for is off. With a `box` the picture stays whole and what lies within is edited.
    Raises ValueError in words for what the model does not know or take.
    """
    kind = Image.registered_extensions().get(out.suffix.lower())
    if kind is None:
        raise ValueError(f"{out}: a picture's ending is needed, as .png")
    translator = translator_from_files(registered_files(reference))
    c = edit_labels(translator.space, asked, has, reads_source=translator.model.reads_source)
    shown = None if style is None else square(upright(style), translator.size)
    translator = replace(translator, options=EditOptions(intensity, seed, shown))
    picture = upright(face)
    where = face_of(picture) if box == "find" else box
    buffer = io.BytesIO()
    Image.fromarray(edited(translator, picture, where, c)).save(buffer, kind)
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
        "labels", nargs="*", help="what it is to have: NAME, NAME=0 for not, AU12=0.7"
    )
    parser.add_argument(
        "--has", action="append",
        help="a label that the picture shows already (NAME=0: not), once for each: the edit starts "
        "from these; without any it starts from all off, and whatever is not named is removed",
    )  # fmt: skip
    parser.add_argument("--intensity", type=float, help="of what changes; 1 is that of training")
    parser.add_argument("--seed", type=int, help="another style of the same domain")
    parser.add_argument("--reference", type=Path, help="a picture whose style is taken")
    whole = parser.add_mutually_exclusive_group()
    whole.add_argument("--box", help="LEFT,TOP,RIGHT,BOTTOM in px: edit this, keep the rest as is")
    whole.add_argument("--find", action="store_true", help="the same, where a face is found")
    args = parser.parse_args(argv)
    translate(
        args.version, args.face, args.labels, args.out, has=args.has, intensity=args.intensity,
        seed=args.seed, style=args.reference,
        box="find" if args.find else parse_box(args.box) if args.box else None,
    )  # fmt: skip
    sys.stdout.write(f"synthetic image written to {args.out}\n")


if __name__ == "__main__":
    cli.entry_point(main)

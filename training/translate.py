"""Edit a picture with a registered model, whatever it takes: labels, intensities, a style.

    python -m training.translate stargan@champion face.png edited.png Blond_Hair
    python -m training.translate stgan@champion face.png edited.png Male --has Young --intensity 1.5
    python -m training.translate ganimation@champion face.png edited.png AU12=0.8 AU06=0.5
    python -m training.translate starganv2@champion face.png edited.png Blond_Hair --seed 7

The version is verified first; no code out of the registry is run.
"""

import argparse
import io
import sys
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor

from training import cli, tracking
from training.bundle import label_names
from training.checkpoint import translator_from_files
from training.data.dataset import to_float, to_uint8
from training.data.labels import LabelSpace
from training.files import write_bytes
from training.lineage import registered_files
from training.models.base import Ask


def label(space: LabelSpace, asked: list[str]) -> Tensor:
    """c̃ (1, dim_g) of `name`, `set/name` or `name=value` (in [0, 1]); all else is 0.

    Raises ValueError for an unknown name, a value outside, or labels of two data sets.
    """
    names = label_names(space)[: space.dim_d]
    out = torch.zeros(1, space.dim_g)
    sets = set()
    for text in asked:
        name, _, value = text.partition("=")
        hits = [i for i, known in enumerate(names) if name in (known, known.partition("/")[2])]
        if len(hits) != 1:
            raise ValueError(f"{name!r}: name one of the model's labels: {', '.join(names)}")
        try:
            amount = float(value or 1)
        except ValueError:
            amount = -1.0
        if not 0 <= amount <= 1:
            raise ValueError(f"{text}: a number between 0 and 1 is needed")
        out[0, hits[0]] = amount
        sets.add(names[hits[0]].partition("/")[0])
    if len(sets) > 1:
        raise ValueError(f"{', '.join(asked)}: the labels asked for are of {len(sets)} data sets")
    if len(space.sets) > 1:
        out[0, space.dim_d + (space.index(sets.pop()) if sets else 0)] = 1
    return out


def square(path: Path, size: int) -> Tensor:
    """A picture cut to its central square: (1, 3, size, size) in [-1, 1]."""
    with Image.open(path) as picture:
        fitted = ImageOps.fit(picture.convert("RGB"), (size, size))
    pixels = torch.frombuffer(bytearray(fitted.tobytes()), dtype=torch.uint8)
    return to_float(pixels.view(1, size, size, 3))


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
) -> None:
    """Write `face` as NAME@ALIAS or NAME/VERSION shows it with the labels `asked` to `out`.

    `has` are the labels that the face shows already, for models that read them. Raises ValueError
    in words for what the model does not know or take.
    """
    kind = Image.registered_extensions().get(out.suffix.lower())
    if kind is None:
        raise ValueError(f"{out}: a picture's ending is needed, as .png")
    translator = translator_from_files(registered_files(reference))
    target = label(translator.space, asked)
    source = None if has is None else label(translator.space, has)
    shown = None if style is None else square(style, translator.size)
    translator = replace(translator, ask=Ask(intensity, seed, shown))
    edited = translator(square(face, translator.size), source, target)
    buffer = io.BytesIO()
    Image.fromarray(to_uint8(edited)[0].numpy()).save(buffer, kind)
    write_bytes(out, buffer.getvalue())


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.translate", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("version", help="NAME@champion or NAME/VERSION")
    parser.add_argument("face", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("labels", nargs="*", help="what it is to have, NAME or NAME=0.7; else not")
    parser.add_argument("--has", action="append", help="a label that the face shows already")
    parser.add_argument("--intensity", type=float, help="of what changes; 1 is that of training")
    parser.add_argument("--seed", type=int, help="another style of the same domain")
    parser.add_argument("--reference", type=Path, help="a picture whose style is taken")
    args = parser.parse_args(argv)
    translate(
        args.version, args.face, args.labels, args.out, has=args.has, intensity=args.intensity,
        seed=args.seed, style=args.reference,
    )  # fmt: skip
    sys.stdout.write(f"synthetic image written to {args.out}\n")


if __name__ == "__main__":
    cli.run(main)

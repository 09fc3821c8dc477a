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

from training import cli, tracking
from training.bundle import label_names
from training.checkpoint import translator_from_files
from training.data.cut import Box
from training.data.dataset import to_float, to_uint8
from training.data.labels import LabelSet, LabelSpace
from training.files import write_bytes
from training.lineage import registered_files
from training.models.base import Ask, Translator
from training.paste import find, parse_box, paste, square_in

log = logging.getLogger(__name__)


def read(space: LabelSpace, texts: list[str]) -> tuple[int, dict[str, float]]:
    """The data set that `name`, `set/name` or `name=value` are of, and the values by name.

    Raises ValueError for a name that is unknown or given twice, labels of no or two data sets,
    two that exclude each other, and a value that the labels cannot have.
    """
    known = [(i, name) for i, part in enumerate(space.sets) for name in part.names]
    values: dict[str, float] = {}
    sets = set() if texts or len(space.sets) > 1 else {0}
    for text in texts:
        name, _, value = text.partition("=")
        hits = [(i, n) for i, n in known if name in (n, f"{space.sets[i].name}/{n}")]
        if len(hits) != 1:
            names = ", ".join(label_names(space)[: space.dim_d])
            raise ValueError(f"{name!r}: name one of the model's labels: {names}")
        ((index, name),) = hits
        if name in values:
            raise ValueError(f"{name}: given twice; leave one out")
        values[name] = _amount(text, value, space.sets[index])
        sets.add(index)
    if len(sets) != 1:
        raise ValueError(
            f"{', '.join(texts) or 'no label'}: of {len(sets)} data sets; name labels of one of "
            f"{', '.join(part.name for part in space.sets)}"
        )
    index = sets.pop()
    part = space.sets[index]
    for group in [part.names] if part.kind == "onehot" else part.groups:
        if len(both := [name for name in group if values.get(name)]) > 1:
            raise ValueError(f"{', '.join(both)}: a picture has one of these at most; name one")
    return index, values


def _amount(text: str, value: str, part: LabelSet) -> float:
    try:
        amount = float(value or 1)
    except ValueError:
        amount = -1.0
    if not 0 <= amount <= 1:
        raise ValueError(f"{text}: a number between 0 and 1 is needed")
    if part.kind == "onehot" and amount != 1:
        raise ValueError(f"{text}: a class is had whole; name the one that is wanted")
    if part.kind == "binary" and amount not in (0, 1):
        raise ValueError(f"{text}: {part.name} knows on and off; NAME or NAME=0 is needed")
    return amount


def _switched(part: LabelSet, row: Tensor, values: dict[str, float]) -> Tensor:
    """Labels (k,) with `values`; what comes on switches off what it excludes."""
    out = row.clone()
    for name, value in values.items():
        if value:
            out[list(range(len(out)) if part.kind == "onehot" else part.group(name))] = 0
        out[part.names.index(name)] = value
    return out


def labels(
    space: LabelSpace, asked: list[str], has: list[str] | None, *, reads: bool
) -> tuple[Tensor | None, Tensor]:
    """c̃ (1, dim_g) of what a picture has (None: not said) and of what it is to have.

    The edit starts from `has`, else from labels that all are off. `reads`: whether the model looks
    at the first; where it does not, a `has` that changes nothing is refused too (ValueError).
    """
    before = None if has is None else read(space, has)
    index, wanted = read(space, asked) if asked or before is None else (before[0], {})
    part = space.sets[index]
    shown, source = torch.zeros(len(part.names)), None
    if before is not None:
        own = space.sets[before[0]]
        row = _switched(own, torch.zeros(len(own.names)), before[1])
        _require_class(own, row)
        source = space.encode(row[None], before[0])
        if before[0] == index:
            shown = row
        if not reads and (before[0] != index or part.kind == "onehot"):
            raise ValueError(
                f"{', '.join(has or ())}: the model does not look at what a picture has already, "
                "and the target takes nothing from it; leave it out"
            )
    target = _switched(part, shown, wanted)
    _require_class(part, target)
    return source, space.encode(target[None], index)


def _require_class(part: LabelSet, row: Tensor) -> None:
    if part.kind == "onehot" and not row.any():
        raise ValueError(f"{part.name}: no class is named; name one of {', '.join(part.names)}")


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
    found = find(picture)
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
    keep, paint = translator.painted(square(picture.crop(box), translator.size), *c)
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
    reads = getattr(translator.model, "reads_source", False)
    c = labels(translator.space, asked, has, reads=reads)
    shown = None if style is None else square(upright(style), translator.size)
    translator = replace(translator, ask=Ask(intensity, seed, shown))
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
    cli.run(main)

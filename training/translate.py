"""Edit pictures with a registered model: target labels, intensities, a style.

    python -m training.translate stargan@champion face.png edited.png Blond_Hair
    python -m training.translate stgan@champion face.png edited.png Male --has Young --intensity 1.5
    python -m training.translate ganimation@champion face.png edited.png AU12=0.8 AU06=0.5
    python -m training.translate starganv2@champion face.png edited.png Blond_Hair --seed 7
    python -m training.translate ganimation@champion photo.jpg edited.png AU12=0.8 --find
    python -m training.translate stargan@champion faces/ edited/ Blond_Hair
    python -m training.translate stargan@champion a.jpg edited/ Male --more b.jpg c.jpg faces/

The version is verified first; no code from the registry is run.
"""

import io
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from PIL import Image
from torch import Tensor

from training.core import cli
from training.core.cli import means
from training.core.files import write_bytes
from training.core.progress import Progress
from training.data.crop import Box
from training.data.dataset import to_uint8
from training.data.pictures import read_picture
from training.inference.files import Files, plan
from training.inference.paste import center_square, find_faces, parse_box, paste, square_in
from training.inference.request import edit_labels
from training.inference.translator import Translator, translator_from_files
from training.models.base import EditOptions, check_options
from training.registry.references import registered_files
from training.tracking import client as tracking

main = cli.program("python -m training.translate", __doc__)
HAS = means(
    "a label of the input picture (NAME=0: absent); repeatable. The edit starts from these labels; "
    "without any, all labels not named as targets are removed",
)
MORE = means(
    "further pictures and folders, such as --more b.jpg c.jpg; the results are written to the "
    "folder OUT",
    consume_multiple=(1, None),
)
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
    """One edit of any picture: c̃ of the source (None: not used) and the target, and where.

    Gives uint8 (H, W, 3): the center crop at the model's size, or the whole picture with `box`, or
    the largest face (`find`), edited. Raises ValueError for a box outside the picture and no face.
    """

    translator: Translator
    c: tuple[Tensor | None, Tensor]
    box: Box | None = None
    find: bool = False

    def __call__(self, picture: Image.Image) -> np.ndarray:
        size = self.translator.size
        box = largest_face(picture) if self.find else self.box
        if box is None:
            return to_uint8(self.translator(center_square(picture, size), *self.c))[0].numpy()
        box = square_in(box, *picture.size)
        keep, paint = self.translator.paint(center_square(picture.crop(box), size), *self.c)
        return paste(np.asarray(picture), box, keep, paint)


@main.default
@tracking.answered()
def translate(
    version: Annotated[str, means("NAME@champion or NAME/VERSION")],
    face: Annotated[Path, means("the input picture, or a folder of pictures")],
    out: Annotated[Path, means("the picture to write; with several pictures, the folder")],
    /,
    *labels: Annotated[str, means("target labels: NAME, NAME=0 for absent, AU12=0.7")],
    more: Annotated[list[Path] | None, MORE] = None,
    has: Annotated[list[str] | None, HAS] = None,
    intensity: Annotated[float | None, means("factor on labels that change; 1: training's")] = None,
    seed: Annotated[int | None, means("seed of the latent style code")] = None,
    reference: Annotated[Path | None, means("a picture that provides the style")] = None,
    box: Annotated[str, means("LEFT,TOP,RIGHT,BOTTOM in px: edit only this box")] = "",
    find: Annotated[bool, means("edit only the largest face found")] = False,
) -> str:
    """Edit pictures, or only a box of each; the rest is kept.

    The pictures of a folder, and several, are written as PNG into the folder `out`, which may not
    hold results of the same names.

    Raises ValueError for unknown labels, unsupported options, an unknown image format, and with the
    name and reason of each picture that failed, after the others were written.
    """
    if box and find:
        raise ValueError("--box and --find: give one of them")
    area = parse_box(box) if box else None
    files = plan([face, *(more or [])], out)
    picture = None if files.folder else load_picture(face)
    style = None if reference is None else load_picture(reference)
    translator = translator_from_files(registered_files(version))
    c = edit_labels(translator.space, list(labels), has, reads_source=translator.model.reads_source)
    styles = None if style is None else center_square(style, translator.size)
    options = EditOptions(intensity, seed, styles)
    check_options(translator.model, translator.config["name"], c[0], options)
    edit = Edit(replace(translator, options=options), c, area, find)
    if picture is not None:
        _write(out, edit(picture))
        return f"synthetic image written to {out}"
    failed = _edit_all(edit, files)
    written = f"{len(files.pairs) + len(files.unread) - len(failed)} synthetic images written"
    if failed:
        raise ValueError("\n".join([
            f"{len(failed)} pictures failed; {written} to {out}{files.left_out}",
            *(f"  {path}: {reason}" for path, reason in failed.items()),
        ]))  # fmt: skip
    return f"{written} to {out}{files.left_out}"


def _edit_all(edit: Edit, files: Files) -> dict[Path, str]:
    """Write the results; the pictures that failed, with the reason."""
    failed = dict(files.unread)
    with Progress("translate", len(files.pairs), "pictures") as bar:
        for path, result in files.pairs:
            try:
                made = edit(load_picture(path))
            except (ValueError, OSError) as error:
                failed[path] = str(error).removeprefix(f"{path}: ")
            else:
                _write(result, made)
            bar.step()
    return failed


def _write(out: Path, pixels: np.ndarray) -> None:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, Image.registered_extensions()[out.suffix.lower()])
    write_bytes(out, buffer.getvalue())


if __name__ == "__main__":
    cli.entry_point(main)

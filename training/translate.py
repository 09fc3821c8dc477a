"""Edit pictures and videos with a registered model: target labels, intensities, a style.

    python -m training.translate stargan@champion face.png edited.png Blond_Hair
    python -m training.translate stgan@champion face.png edited.png Male --has Young --intensity 1.5
    python -m training.translate ganimation@champion face.png edited.png AU12=0.8 AU06=0.5
    python -m training.translate starganv2@champion face.png edited.png Blond_Hair --seed 7
    python -m training.translate ganimation@champion photo.jpg edited.png AU12=0.8 --find
    python -m training.translate stargan@champion faces/ edited/ Blond_Hair
    python -m training.translate stargan@champion "faces/*/front*.jpg" edited/ Blond_Hair
    python -m training.translate stargan@champion a.jpg edited/ Male --more b.jpg c.jpg faces/
    python -m training.translate stargan@champion clip.mp4 edited.mp4 Blond_Hair

The version is verified first; no code from the registry is run. Every result carries a mark that a
model made it.
"""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from torch import Tensor

from training.core import cli
from training.core.cli import means
from training.core.files import canonical_json, sha256_bytes, sha256_file
from training.core.progress import Progress
from training.data.pictures import read_picture
from training.inference.credentials import check_suffixes, signer_of
from training.inference.edit import Edit, load_picture
from training.inference.files import Files, check_new, plan
from training.inference.marks import RELEASE
from training.inference.outputs import Made, Maker
from training.inference.paste import center_square, parse_box
from training.inference.record import NAME, Record, Row, alone, plain
from training.inference.request import edit_labels
from training.inference.translator import translator_from_files
from training.inference.video import is_video
from training.models.base import EditOptions, check_options
from training.registry.references import pin, registered_files
from training.tracking import client as tracking

main = cli.program("python -m training.translate", __doc__)
HAS = means(
    "a label of the input picture (NAME=0: absent); repeatable. The edit starts from these labels; "
    "without any, all labels not named as targets are removed",
)
MORE = means(
    "further pictures, videos, folders and patterns, such as --more b.jpg c.jpg; the results are "
    "written to the folder OUT",
    consume_multiple=(1, None),
)
RECURSIVE = means("with the folders in folders", negative="--no-recursive")
VISIBLE = means("a text in the corner of videos", negative="--no-visible-mark")
CERT = means("PEM file of a certificate chain: results carry a signed C2PA manifest")
KEY = means("PEM file of that certificate's private key")


@main.default
@tracking.answered()
def translate(
    version: Annotated[str, means("NAME@champion or NAME/VERSION")],
    face: Annotated[Path, means("the input picture or video, a folder, or a pattern in quotes")],
    out: Annotated[Path, means("the file to write; with several inputs, the folder")],
    /,
    *labels: Annotated[str, means("target labels: NAME, NAME=0 for absent, AU12=0.7")],
    more: Annotated[list[Path] | None, MORE] = None,
    has: Annotated[list[str] | None, HAS] = None,
    intensity: Annotated[float | None, means("factor on labels that change; 1: training's")] = None,
    seed: Annotated[int | None, means("seed of the latent style code")] = None,
    reference: Annotated[Path | None, means("a picture that provides the style")] = None,
    box: Annotated[str, means("LEFT,TOP,RIGHT,BOTTOM in px: edit only this box")] = "",
    find: Annotated[bool, means("edit only the largest face found; always so in videos")] = False,
    recursive: Annotated[bool, RECURSIVE] = True,
    visible_mark: Annotated[bool, VISIBLE] = True,
    c2pa_cert: Annotated[Path | None, CERT] = None,
    c2pa_key: Annotated[Path | None, KEY] = None,
) -> str:
    """Edit pictures and videos, or only a box of each; the rest is kept.

    The results of a folder, and of several inputs, are written into the folder `out` with a record,
    translate.csv. The same command again skips those that are done.

    Raises ValueError for unknown labels, unsupported options, an unknown image format, a key that
    cannot sign, and with the name and reason of each input that failed, after the others.
    """
    if box and find:
        raise ValueError("--box and --find: give one of them")
    area = parse_box(box) if box else None
    files = plan([face, *(more or [])], out, recursive)
    signer = signer_of(c2pa_cert, c2pa_key)
    if signer:
        check_suffixes([result for _, result in files.pairs])
    if files.folder:
        check_new(files.pairs, out, Record(out).knows)
    elif not is_video(face):
        read_picture(face)  # before the model
    style = None if reference is None else load_picture(reference)
    name = pin(version)
    weights = registered_files(name)
    translator = translator_from_files(weights)
    c = edit_labels(translator.space, list(labels), has, reads_source=translator.model.reads_source)
    styles = None if style is None else center_square(style, translator.size)
    options = EditOptions(intensity, seed, styles)
    check_options(translator.model, translator.config["name"], c[0], options)
    edit = Edit(replace(translator, options=options), c, area, find)
    changes = _as_text(list(labels), has, intensity, seed, reference)
    maker = Maker(edit, name, changes, signer, visible_mark)
    if files.folder:
        return _make_all(maker, files, out, _settings(maker, weights, reference))
    made = maker(face, out)
    if is_video(face):
        return f"synthetic video written to {out}: {made.note}"
    return f"synthetic image written to {out}"


def _as_text(
    labels: list[str], has: list[str] | None, intensity: float | None, seed: int | None,
    reference: Path | None,
) -> str:  # fmt: skip
    """The edit for people, in the record and in manifests; no path."""
    facts = {
        "has": ", ".join(has or []), "intensity": intensity, "seed": seed,
        "reference": reference and reference.name,
    }  # fmt: skip
    said = [f"{key} {value}" for key, value in facts.items() if value not in (None, "")]
    return "; ".join([", ".join(labels) or "no target", *said])


def _settings(maker: Maker, weights: Mapping[str, Path], reference: Path | None) -> str:
    """Hex SHA-256 of everything but the input on which a result depends."""

    def numbers(row: Tensor | None) -> list[float] | None:
        return None if row is None else row.flatten().tolist()

    edit, options = maker.edit, maker.edit.translator.options
    return sha256_bytes(canonical_json({
        "release": RELEASE,
        "version": maker.version,
        "files": {name: sha256_file(path) for name, path in weights.items()},
        "labels": [numbers(row) for row in edit.c],
        "options": [options.intensity, options.seed, reference and sha256_file(reference)],
        "place": [edit.box, edit.find],
        "visible": maker.visible,
        "signer": maker.signer and sha256_bytes(maker.signer.chain),
    }))  # fmt: skip


@dataclass(frozen=True)
class _Several:
    """The results of one call in a folder, with their record."""

    maker: Maker
    settings: str
    record: Record

    def one(self, source: Path, result: Path) -> str:
        """Make a result that is not done yet: "done", "video" or "image", what was made.

        Raises ValueError and OSError; then the record says why there is none.
        """
        name, digest = result.relative_to(self.record.path.parent).as_posix(), ""
        start = time.monotonic()

        def keep(made: Made) -> None:
            box = ",".join(map(str, made.box or ()))
            row = self._row(source, digest, name, output_sha256=made.sha256, box=box)
            spent = f"{time.monotonic() - start:.3f}"
            self.record.add(replace(row, seconds=spent, note=made.note))

        try:
            digest = sha256_file(source)
            if self.record.done(name, digest, self.settings):
                return "done"
            self.maker(source, result, keep)
        except (ValueError, OSError) as error:
            self.skip(source, str(error).removeprefix(f"{source}: "), digest, name)
            raise
        return "video" if is_video(source) else "image"

    def skip(self, source: Path, reason: str, digest: str = "", name: str = "") -> None:
        made = self.record.made(name) if name else ""  # still ours to replace
        self.record.add(self._row(source, digest, name, skipped=reason, output_sha256=made))

    def _row(self, source: Path, digest: str, name: str, **facts: str) -> Row:
        empty = dict.fromkeys(("output_sha256", "box", "seconds", "note", "skipped"), "")
        return Row(
            input=plain(source), sha256=digest, output=plain(name), version=self.maker.version,
            edit=self.maker.changes, settings=self.settings, **{**empty, **facts},
        )  # fmt: skip


def _make_all(maker: Maker, files: Files, out: Path, settings: str) -> str:
    """Make what is not done yet; what was done, as text. ValueError with what failed."""
    counts: Counter[str] = Counter()
    failed = dict(files.unread)
    with alone(out), Progress("translate", len(files.pairs), "files") as bar:
        several = _Several(maker, settings, Record(out))
        for path, reason in files.unread.items():
            several.skip(path, reason)
        for path, result in files.pairs:
            try:
                counts[several.one(path, result)] += 1
            except (ValueError, OSError) as error:
                failed[path] = str(error).removeprefix(f"{path}: ")
            bar.step()
        several.record.save()
    videos = f" and {counts['video']} videos" if counts["video"] else ""
    written = f"{counts['image']} synthetic images{videos} written"
    before = f"; {counts['done']} were done before" if counts["done"] else ""
    apart = f"; {files.renamed} keep their input's suffix in their names" if files.renamed else ""
    end = f"{before}{files.left_out}{apart}; {out / NAME} lists them"
    if failed:
        raise ValueError("\n".join([
            f"{len(failed)} files failed; {written} to {out}{end}",
            *(f"  {path}: {reason}" for path, reason in failed.items()),
        ]))  # fmt: skip
    return f"{written} to {out}{end}"


if __name__ == "__main__":
    cli.entry_point(main)

"""Make the result of one picture or video: edited, marked, signed if asked, whole or absent."""

import io
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from training.core.files import fsync, rename, sha256_bytes, sha256_file, write_bytes
from training.core.temporary import temporary_folder
from training.data.crop import Box
from training.inference.credentials import Signer
from training.inference.edit import Edit, load_picture
from training.inference.marks import format_of, marked, stated_sources
from training.inference.video import Edited, edit_video, is_video

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Made:
    """A result: its hex SHA-256, the square that was edited (px), what else there is to say."""

    sha256: str
    box: Box | None = None
    note: str = ""


@dataclass(frozen=True)
class Maker:
    """What every result of a call has in common. `changes`: the edit as text."""

    edit: Edit
    version: str
    changes: str
    signer: Signer | None = None
    visible: bool = True

    def __call__(
        self, source: Path, out: Path, before: Callable[[Made], None] = lambda made: None
    ) -> Made:
        """Write the result of the file `source`; `before` is called when it is about to appear.

        Raises ValueError and OSError that name the file, for what cannot be read or edited.
        """
        with source.open("rb") as file:
            stated = stated_sources(file)
        note = f"input already marked as {', '.join(stated)}" if stated else ""
        if note:
            log.warning("%s: %s", source, note)
        if is_video(source):
            return self._video(source, out, before, stated, note)
        picture = load_picture(source)
        square = self.edit.place(picture)
        data = marked(self.edit(picture, square), self.version, format_of(out), sources=stated)
        if self.signer:
            signed = io.BytesIO()
            self._sign(self.signer, source, io.BytesIO(data), signed, out)
            data = signed.getvalue()
        made = Made(sha256_bytes(data), square, note)
        before(made)
        write_bytes(out, data)
        return made

    def _video(
        self, source: Path, out: Path, before: Callable[[Made], None], stated: tuple[str, ...],
        note: str,
    ) -> Made:  # fmt: skip
        with temporary_folder(out.parent, f".{out.name}.") as folder:
            new = folder / f"edited{out.suffix}"
            done: Edited = edit_video(
                source, new, self.edit, self.version,
                box=self.edit.box, visible=self.visible, sources=stated,
            )  # fmt: skip
            if self.signer:
                signed = folder / f"signed{out.suffix}"
                with new.open("rb") as made_file, signed.open("w+b") as signed_file:
                    self._sign(self.signer, source, made_file, signed_file, out)
                fsync(signed)
                new = signed
            made = Made(sha256_file(new), None, "; ".join(filter(None, [str(done), note])))
            before(made)
            rename(new, out)
        return made

    def _sign(self, signer: Signer, source: Path, made: BinaryIO,
              out: BinaryIO, path: Path) -> None:  # fmt: skip
        with source.open("rb") as data:
            signer.sign(
                made, out, path.suffix, self.version, title=path.name,
                source=(source.name, data), sha256=sha256_file(source), changes=self.changes,
            )  # fmt: skip

"""The files of a translation: which pictures are read and where each result is written.

Everything is checked before a model is loaded: inputs that are no pictures, a format that cannot be
written, results that clash or exist.
"""

import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from training.core.entries import plain_files
from training.data.layouts import pictures
from training.data.pictures import UNREAD, VIDEOS, check_file, reason_of

FORMAT = ".png"  # of the results in a folder: without loss
SHOWN = 3  # names in a message


@dataclass(frozen=True)
class Files:
    """The pictures and their results, and what is left out of the input folders.

    pairs: source, result. unread: pictures and videos in formats that are not read -> reason.
    others: files that are neither, by suffix.
    """

    pairs: list[tuple[Path, Path]]
    unread: dict[Path, str]
    others: Counter[str]
    folder: bool  # whether the results go into a folder

    @property
    def left_out(self) -> str:
        """The other files as text, "" for none."""
        kinds = ", ".join(f"{suffix} {n}" for suffix, n in sorted(self.others.items()))
        return f"; left out: {self.others.total()} other files ({kinds})" if kinds else ""


def plan(inputs: Sequence[Path], out: Path) -> Files:
    """One picture into the file `out`; several, or folders, into the folder `out`.

    A folder's pictures keep their names below it, as PNG. Raises ValueError (what, where, how many,
    the fix) and OSError for a missing input.
    """
    folders = [path for path in inputs if path.is_dir()]
    for path in inputs:
        if not path.exists() and len(inputs) > 1:
            raise ValueError(f"{path}: no such picture or folder; labels are given before --more")
        if path not in folders:
            check_file(path)
    if len(inputs) == 1 and not folders and not out.is_dir():
        check_format(out)
        return Files([(inputs[0], out)], {}, Counter(), folder=False)
    if (out.exists() and not out.is_dir()) or out.suffix.lower() in Image.registered_extensions():
        raise ValueError(f"{out}: the results of several pictures need a folder; name one")
    pairs: list[tuple[Path, Path]] = []
    unread: dict[Path, str] = {}
    others: Counter[str] = Counter()
    for path in inputs:
        if path not in folders:
            pairs.append((path, out / path.with_suffix(FORMAT).name))
            continue
        if out.resolve().is_relative_to(path.resolve()):
            raise ValueError(f"{out}: inside the input folder {path}; name a folder outside it")
        names = list(plain_files(path))
        found = pictures(names)
        target = out / path.resolve().name if len(inputs) > 1 else out
        pairs += [(path / name, (target / name).with_suffix(FORMAT)) for name in found]
        rest = [path / name for name in names if name not in set(found)]
        unread |= {one: reason_of(one) for one in rest if one.suffix.lower() in UNREAD + VIDEOS}
        others.update(one.suffix.lower() or "no suffix" for one in rest if one not in unread)
    if not pairs:
        raise ValueError(
            f"{', '.join(map(str, inputs))}: no pictures that are read; {_first(unread)}"
        )
    _check_results(pairs, out)
    return Files(pairs, unread, others, folder=True)


def check_format(out: Path) -> None:
    """Raise ValueError unless Pillow can write an RGB picture with this suffix."""
    kind = Image.registered_extensions().get(out.suffix.lower())
    if kind is None:
        raise ValueError(f"{out}: unknown image format; use a suffix such as .png")
    try:
        Image.new("RGB", (16, 16)).save(io.BytesIO(), kind)
    except (KeyError, OSError, ValueError) as error:
        raise ValueError(
            f"{out}: a {kind} file cannot be written; use a suffix such as .png"
        ) from error


def _first(unread: dict[Path, str]) -> str:
    for path, reason in unread.items():
        return f"{len(unread)} are in other formats: {path}: {reason}"
    return "name the folder that holds them"


def _check_results(pairs: Iterable[tuple[Path, Path]], out: Path) -> None:
    """Refuse results of the same name (also but for case) and results that exist."""
    sources: dict[str, list[str]] = defaultdict(list)
    for source, result in pairs:
        sources[str(result).casefold()].append(str(source))
    clashes = [names for names in sources.values() if len(names) > 1]
    if clashes:
        raise ValueError(
            f"{out}: {len(clashes)} results would be written more than once: "
            f"{'; '.join(' and '.join(names) for names in clashes[:SHOWN])}; "
            "rename the pictures, or run once for each folder"
        )
    there = [str(result) for _, result in pairs if result.exists()]
    if there:
        raise ValueError(
            f"{out}: {len(there)} results exist: {', '.join(there[:SHOWN])}; "
            "name another folder, or remove them"
        )

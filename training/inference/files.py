"""The files of a translation: which pictures are read and where each result is written.

Everything is checked before a model is loaded: inputs that are no pictures, a format that cannot be
written, results that clash or exist.
"""

import glob
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from training.core.entries import plain_files
from training.data.layouts import visible
from training.data.pictures import PICTURES, UNREAD, VIDEOS, check_file, reason_of
from training.inference import video
from training.inference.marks import format_of, stated_sources

FORMAT = ".png"  # of the pictures in a folder: without loss
SHOWN = 3  # names in a message
Pairs = list[tuple[Path, Path]]


@dataclass(frozen=True)
class Files:
    """The pictures and videos with their results, and what is left out of the input folders.

    pairs: source, result. unread: pictures in formats that are not read -> reason. others: files
    that are neither, by suffix. renamed: results that keep their source's suffix, since another
    result has the same name without it.
    """

    pairs: Pairs
    unread: dict[Path, str]
    others: Counter[str]
    folder: bool  # whether the results go into a folder
    renamed: int = 0

    @property
    def left_out(self) -> str:
        """The other files as text, "" for none."""
        kinds = ", ".join(f"{suffix} {n}" for suffix, n in sorted(self.others.items()))
        return f"; left out: {self.others.total()} other files ({kinds})" if kinds else ""


def plan(inputs: Sequence[Path], out: Path, recursive: bool = True) -> Files:
    """One picture or video into the file `out`; several, folders and patterns into a folder.

    Pictures keep their names below the input folder, or below a pattern's part without wildcards,
    as PNG; videos as MP4 or MOV. Of results with one name each keeps its source's suffix
    (`a.jpg.png`). `recursive`: folders with those in them. Raises ValueError (what, where, how
    many, the fix) and OSError for a missing input.
    """
    plain = [path for path in inputs if not path.is_dir() and not _is_pattern(path)]
    _check_inputs(plain, alone=len(inputs) == 1)
    if len(inputs) == len(plain) == 1 and not out.is_dir():
        check_single(inputs[0], out)
        return Files([(inputs[0], out)], {}, Counter(), folder=False)
    written = (*Image.registered_extensions(), *video.WRITTEN)
    if (out.exists() and not out.is_dir()) or out.suffix.lower() in written:
        raise ValueError(f"{out}: the results of several pictures need a folder; name one")
    files = Files([], {}, Counter(), folder=True)
    for path in inputs:
        if path in plain:
            files.pairs.append((path, _result(out / path.name)))
        elif path.is_dir():
            _add_folder(files, path, out, out / path.resolve().name if len(inputs) > 1 else out,
                        recursive)  # fmt: skip
        else:
            files.pairs.extend((one, _result(out / name)) for one, name in _matches(path, out))
    if not files.pairs:
        raise ValueError(
            f"{', '.join(map(str, inputs))}: no pictures that are read; {_first(files.unread)}"
        )
    pairs, renamed = _apart(list(dict.fromkeys(files.pairs)))
    _check_names(pairs, out)
    _check_sources(pairs, out)
    return replace(files, pairs=pairs, renamed=renamed)


def _is_pattern(path: Path) -> bool:
    return not path.exists() and glob.has_magic(str(path))


def _check_inputs(paths: Iterable[Path], alone: bool) -> None:
    """Refuse inputs that are neither pictures nor videos, by their names."""
    for path in paths:
        if not path.exists() and not alone:
            raise ValueError(f"{path}: no such picture or folder; labels are given before --more")
        if not (path.is_file() and video.is_video(path)):
            check_file(path)


def _add_folder(files: Files, path: Path, out: Path, target: Path, recursive: bool) -> None:
    """Add what a folder holds; its results go below `target`."""
    if out.resolve().is_relative_to(path.resolve()):
        raise ValueError(f"{out}: inside the input folder {path}; name a folder outside it")
    names = [name for name in plain_files(path) if recursive or "/" not in name]
    found = _read(names)
    files.pairs.extend((path / name, _result(target / name)) for name in found)
    rest = [path / name for name in names if name not in set(found)]
    files.unread.update({one: reason_of(one) for one in rest if one.suffix.lower() in UNREAD})
    files.others.update(
        one.suffix.lower() or "no suffix" for one in rest if one not in files.unread
    )


def _read(names: Iterable[str]) -> list[str]:
    """The visible names of pictures that are read and of videos."""
    return [name for name in visible(names) if Path(name).suffix.lower() in PICTURES + VIDEOS]


def check_single(source: Path, out: Path) -> None:
    """Raise ValueError unless the result of `source` can be written to `out`, another file."""
    if out.exists() and out.samefile(source):
        raise ValueError(f"{out}: the input itself; name another file")
    if out.is_file():
        with out.open("rb") as file:
            if not stated_sources(file):
                raise ValueError(
                    f"{out}: exists and is no result of translate; name another file, delete this "
                    "one, or for several pictures give a folder as the last name"
                )
    if not video.is_video(source):
        format_of(out)
        return
    if out.suffix.lower() not in video.WRITTEN:
        raise ValueError(
            f"{source}: a video, and so is its result; name {out.with_suffix('.mp4')} (or "
            f"{', '.join(video.WRITTEN[1:])})"
        )
    video.require()


def _result(path: Path) -> Path:
    """The name of a result in a folder."""
    if not video.is_video(path):
        return path.with_suffix(FORMAT)
    return path if path.suffix.lower() == ".mov" else path.with_suffix(".mp4")


def _matches(pattern: Path, out: Path) -> list[tuple[Path, str]]:
    """The pictures and videos that a pattern names, and their names below its fixed part.

    Raises ValueError if there are none, and if some are in `out`: they may be earlier results.
    """
    end = next(n for n, part in enumerate(pattern.parts) if glob.has_magic(part))
    fixed = Path(*pattern.parts[:end])
    found = sorted(one for one in fixed.glob(str(Path(*pattern.parts[end:]))) if one.is_file())
    names = _read(one.relative_to(fixed).as_posix() for one in found)
    if not names:
        raise ValueError(f"{pattern}: no picture or video among the {len(found)} files it names")
    inside = [name for name in names if (fixed / name).resolve().is_relative_to(out.resolve())]
    if inside:
        raise ValueError(
            f"{out}: {pattern} names {len(inside)} files in it, such as {fixed / inside[0]}; "
            "name a folder outside of what it names"
        )
    return [(fixed / name, name) for name in names]


def _apart(pairs: Pairs) -> tuple[Pairs, int]:
    """The pairs with whole names for results that would have the same one, and their number."""
    names = Counter(str(result).casefold() for _, result in pairs)
    out = [
        (source, result.with_name(f"{source.name}{result.suffix}"))
        if names[str(result).casefold()] > 1
        else (source, result)
        for source, result in pairs
    ]
    return out, sum(a != b for a, b in zip(pairs, out, strict=True))


def _first(unread: dict[Path, str]) -> str:
    for path, reason in unread.items():
        return f"{len(unread)} are in other formats: {path}: {reason}"
    return "name the folder that holds them"


def _check_names(pairs: Pairs, out: Path) -> None:
    """Refuse results of the same name, also but for case."""
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


def _check_sources(pairs: Pairs, out: Path) -> None:
    """Refuse results that would replace an input, this one's or another's."""
    there = [result for _, result in pairs if result.exists()]
    inputs = {_identity(source) for source, _ in pairs} if there else set()
    replaced = [str(result) for result in there if _identity(result) in inputs]
    if replaced:
        raise ValueError(
            f"{out}: {len(replaced)} results would replace inputs: {', '.join(replaced[:SHOWN])}; "
            "name another folder"
        )


def _identity(path: Path) -> tuple[int, int]:
    """Of a file, whatever its path: also through links and in another case of letters."""
    found = path.stat()
    return found.st_dev, found.st_ino


def check_new(pairs: Pairs, out: Path, known: Callable[[str], bool]) -> None:
    """Refuse results that exist unless they are `known`, by names below `out`, as earlier ones."""
    there = [
        str(result)
        for _, result in pairs
        if result.exists() and not known(result.relative_to(out).as_posix())
    ]
    if there:
        raise ValueError(
            f"{out}: {len(there)} results exist: {', '.join(there[:SHOWN])}; "
            "name another folder, or remove them"
        )

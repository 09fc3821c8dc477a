"""Classes and parts from the folders of pictures: `<class>/…`, or parts above or below the classes.

Folders named like parts (train, Test, validation, trainA) never become classes where others are
parts too. What was taken for what is a note; what does not fit is a fault with its fix.
"""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

PARTS = {
    "train": "train", "training": "train", "trainset": "train", "val": "val", "valid": "val",
    "validation": "val", "valset": "val", "dev": "val", "eval": "val", "evaluation": "val",
    "test": "test", "testing": "test", "testset": "test",
}  # fmt: skip
NEUTRAL = {"", "set", "data", "dataset", "split", "image", "images", "img", "imgs", "pictures",
           "faces", "seg"}  # fmt: skip
DOMAIN = re.compile(rf"({'|'.join(PARTS)})[ _-]?([a-d])", re.IGNORECASE)  # CycleGAN's trainA
SHOWN = 5  # names in a message

Path = tuple[str, ...]  # the folders of one picture


@dataclass(frozen=True)
class Folders:
    """One class (None: none) and one part ("": none) for each picture; notes; the fault or ""."""

    classes: list[str | None]
    parts: list[str] = field(default_factory=list)
    notes: tuple[str, ...] = ()
    fault: str = ""


def part_of(folder: str) -> str:
    """The part that a folder's name means: train, val, test, or "" ."""
    words = [w for w in re.split(r"[^a-z]+", folder.lower()) if w not in NEUTRAL]
    return PARTS.get(words[0], "") if len(words) == 1 else ""


def arrange(names: Sequence[str]) -> Folders:
    """The classes and parts of pictures with these relative names."""
    paths = [tuple(name.split("/")[:-1]) for name in names]
    tops = Counter(path[0] for path in paths if path)
    loose = sum(not path for path in paths)
    domains = {top: m for top in tops if (m := DOMAIN.fullmatch(top.strip()))}
    letters = {m[2].upper() for m in domains.values()}
    if len(letters) > 1 or len({PARTS[m[1].lower()] for m in domains.values()}) > 1:
        return _domains(paths, tops, domains, loose)
    parts = [top for top in tops if part_of(top)]
    deep = {path[0] for path in paths if len(path) > 1}
    if len({part_of(top) for top in parts}) > 1 or deep & set(parts):
        return _parts_above(paths, tops, parts, loose)
    found = _classes(paths)
    if parts and not found.fault:
        if len(parts) == len(tops):
            return replace(found, fault=_no_classes(sorted(parts)))
        note = f"{_listed(parts)} taken for a class: no other folder is a part of the data"
        return replace(found, notes=(*found.notes, note))
    return found


def _domains(
    paths: list[Path], tops: Counter[str], domains: Mapping[str, re.Match[str]], loose: int
) -> Folders:
    """CycleGAN's layout: trainA, trainB, testA, testB are the classes A and B with parts."""
    if stray := _stray(tops, list(domains), loose):
        return _faulty(paths, stray)
    table = {top: (PARTS[m[1].lower()], m[2].upper()) for top, m in domains.items()}
    classes: list[str | None] = [table[path[0]][1] for path in paths]
    parts = [table[path[0]][0] for path in paths]
    what = "; ".join(f"{top}: class {c}, part {p}" for top, (p, c) in sorted(table.items()))
    nested = sum(len(path) > 1 for path in paths)
    below = f"; {nested} pictures are in their subfolders" if nested else ""
    return _with_parts(classes, parts, f"folders are parts of classes: {what}{below}")


def _parts_above(paths: list[Path], tops: Counter[str], parts: list[str], loose: int) -> Folders:
    """`train|val|test/<class>/…`."""
    if stray := _stray(tops, parts, loose):
        return _faulty(paths, stray)
    direct = Counter(path[0] for path in paths if len(path) == 1)
    if direct:
        return _faulty(paths, _no_classes(sorted(direct)))
    if inside := sorted({"/".join(path[:2]) for path in paths if part_of(path[1])}):
        return _faulty(
            paths,
            f"{_listed(inside)} are parts inside of parts; move their folders up by one level, or "
            "rename them if they are classes",
        )
    below = _classes([path[1:] for path in paths], raw=False)
    if below.fault:
        return below
    which = [part_of(path[0]) for path in paths]
    what = "; ".join(f"{top}: {part_of(top)}" for top in sorted(parts))
    found = _with_parts(below.classes, which, f"folders are parts: {what}")
    return replace(found, notes=(*found.notes, *below.notes))


def _classes(paths: list[Path], raw: bool = True) -> Folders:
    """`<class>/…`, or `<class>/train|val|test/…`; `raw`: the paths start at the data's folder."""
    classes = [path[0] if path else None for path in paths]
    common = os.path.commonprefix(paths)  # noqa: RUF071 - of tuples, part by part
    where, depth = "/".join(common), len(common)
    below = sorted({path[depth] for path in paths if len(path) > depth})
    if where and len(below) > 1:
        return _faulty(
            paths,
            f"all pictures are below {where}/, which makes one class; if its folders "
            f"{_listed(below)} are the classes or parts, "
            + (f"give that folder, raw=PATH/{where}" if raw else "move them up by one level"),
        )
    inner = [part_of(path[1]) if len(path) > 1 else "" for path in paths]
    if len(set(inner) - {""}) > 1:
        if not all(inner):
            lost = sorted({"/".join(p) for p, i in zip(paths, inner, strict=True) if not i})
            return _faulty(
                paths,
                f"some classes have folders of parts, such as train and test, and "
                f"{_listed(lost)} not; give every class the same parts",
            )
        names = _listed(sorted({path[1] for path in paths}))
        return _with_parts(classes, inner, f"folders below the classes are parts: {names}")
    nested = Counter(path[0] for path in paths if len(path) > 1)
    if not nested:
        return Folders(classes, [""] * len(paths))
    inside = sorted({path[1] for path in paths if len(path) > 1})
    note = (
        f"{nested.total()} pictures in subfolders ({_listed(inside)}) are of their first folder's "
        f"class ({_listed(sorted(nested))})"
    )
    return Folders(classes, [""] * len(paths), (note,))


def _with_parts(classes: list[str | None], parts: list[str], note: str) -> Folders:
    """Check the parts against the classes; a single part is no partition."""
    count = Counter(parts)
    if len(count) == 1:
        said = f"{note}; only one part is there, so that data.split divides it"
        return Folders(classes, [""] * len(parts), (said,))
    numbers = ", ".join(f"{part} {count[part]}" for part in PARTS if part in count)
    note = f"{note} ({numbers} pictures)"
    if "test" not in count:
        note += "; val is used as the test part"
    if "train" not in count:
        return Folders(classes, parts, (), f"{note}: a train part is missing; add it")
    by_part = {p: {c for c, q in zip(classes, parts, strict=True) if q == p} for p in count}
    only = sorted({str(c) for p in count for c in by_part[p] - by_part["train"]})
    if only:
        pictures = sum(c in only for c in classes)
        return Folders(
            classes, parts, (),
            f"{len(only)} classes are not in the train part: {_listed(only)} ({pictures} "
            f"pictures; it has {_listed(sorted(map(str, by_part['train'])))}); add pictures of "
            "them there, remove them, or correct the names",
        )  # fmt: skip
    absent = [f"{c} in {p}" for p in sorted(count) for c in sorted(
        map(str, by_part["train"] - by_part[p]))]  # fmt: skip
    notes = (f"classes without a picture in a part: {_listed(absent)}",) if absent else ()
    return Folders(classes, parts, (note, *notes))


def _stray(tops: Counter[str], parts: list[str], loose: int) -> str:
    """The fault of folders and pictures beside parts, "" for none."""
    strays = [f"{top}/ ({n} pictures)" for top, n in sorted(tops.items()) if top not in parts]
    strays += [f"{loose} pictures without a folder"] if loose else []
    if not strays:
        return ""
    return (
        f"{_listed(sorted(parts))} are parts of the data, and beside them are {_listed(strays)}; "
        "move these out of the folder, or rename the folders if they are classes"
    )


def _no_classes(parts: Sequence[str]) -> str:
    return (
        f"pictures are directly in {_listed(parts)}, a part of the data; put each into a folder of "
        f"its class there, such as {parts[0]}/CLASS/0001.jpg, or rename the folder if it is a class"
    )


def _faulty(paths: list[Path], fault: str) -> Folders:
    return Folders([path[0] if path else None for path in paths], [""] * len(paths), (), fault)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    shown = [name if name.isprintable() else repr(name) for name in names[:SHOWN]]
    return ", ".join(shown) + more

"""Find the image that a label file's row names."""

import re

from training.data.archive import check_name

DRIVE = re.compile(r"[A-Za-z]:/")


def stem(name: str) -> str:
    """The name without its last suffix."""
    return name.rpartition(".")[0] or name


def plain(file: str) -> str:
    """A name as written on Windows or with a leading `./`, as a POSIX path."""
    return file.replace("\\", "/").removeprefix("./")


class Images:
    """Find an image by path, by base name, or with another suffix; "" if there is none.

    beside: the label file, whose folder relative paths may start from. unique: of a base name that
    several images have, none is meant; else the first one.
    """

    def __init__(self, images: list[str], beside: str = "", *, unique: bool = False) -> None:
        self.paths = set(images)
        self.folder = f"{beside.rpartition('/')[0]}/" if "/" in beside else ""
        self.names: dict[str, str] = {}
        self.stems: dict[str, str] = {}
        self.ends = {stem(image): image for image in reversed(images)}  # whole paths
        for image in images:
            name = image.rpartition("/")[2]
            for known, key in ((self.names, name), (self.stems, stem(name))):
                known[key] = known.get(key, image) if not unique or key not in known else ""

    def __call__(self, file: str) -> str:
        found = self.at(file)
        if found or "/" in file:  # with a folder: the same base name elsewhere is another image
            return found
        return self.names.get(file) or self.stems.get(stem(file), "")

    def at(self, file: str) -> str:
        """The image at this path, from the root or from the label file's folder."""
        paths = (file, f"{self.folder}{file}")
        for path in paths:
            if path in self.paths:
                return path
        ends = [self.ends.get(stem(path), "") for path in paths]
        return ends[0] or ends[1]


def locate(files: list[str], images: Images) -> tuple[list[str], list[bool], str]:
    """The image of each file ("" if none), whether the name stays in the folder, and a note.

    Backslashes count as slashes. If no name is found as written but all are once the same folder is
    removed from them, and only one such folder, they are read without it: `C:\\faces\\1.jpg`.
    """
    names = [plain(file) for file in files]
    inside = [_inside(name) for name in names]
    found = [images(name) if ok else "" for name, ok in zip(names, inside, strict=True)]
    if files and not any(found):
        folder, moved = _without_folder(names, images)
        if folder:
            note = f"{len(files)} names are read without their folder {folder!r}"
            return moved, [True] * len(files), note
    back = sum("\\" in file for file in files)
    return found, inside, f"{back} names with backslashes are read with slashes" if back else ""


def _inside(name: str) -> bool:
    try:
        check_name(name)
    except ValueError:
        return False
    return not DRIVE.match(name)


def _without_folder(names: list[str], images: Images) -> tuple[str, list[str]]:
    """The only folder without which all names are different images, and these; "" if none."""
    shared = names[0].split("/")[:-1]
    for name in names:
        parts = name.split("/")[:-1]
        while shared != parts[: len(shared)]:
            shared.pop()
    fits = []
    for count in range(1, len(shared) + 1):
        folder = "/".join(shared[:count]) + "/"
        rest = [name.removeprefix(folder) for name in names]
        if not all(_inside(name) for name in rest):
            continue
        moved = [images.at(name) for name in rest]
        if all(moved) and len(set(moved)) == len(moved):
            fits.append((folder, moved))
    return fits[0] if len(fits) == 1 else ("", [])

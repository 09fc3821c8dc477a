"""Trainings whose model is in the store; the checkpoints of all others are the only copy of it."""

from collections.abc import Callable, Collection, Iterable
from functools import partial
from pathlib import Path

from training.core.files import parse_json
from training.storage.store import Store

SEAL = "manifest.json"  # of a checkpoint: its files' SHA-256
WEIGHTS = ("nets/", "ema/")


def of_folder(folder: Path, stored: set[str]) -> bool:
    """Whether a run folder has no checkpoint, or the weights of its newest are `stored` (SHA-256).

    A checkpoint that cannot be read counts as one that is not stored.
    """
    newest = _newest(path.name for path in (folder / "checkpoints").glob("*"))
    seal = folder / "checkpoints" / newest / SEAL
    return not newest or _is_stored(seal.read_bytes, stored)


def of_copies(keys: Collection[str], store: Store, stored: set[str]) -> bool:
    """The same of the copies of a training's checkpoints, by their keys in the store."""
    newest = _newest(key.split("/")[2] for key in keys)
    run = next(iter(keys)).split("/")[1]
    seal = partial(store.read, f"checkpoints/{run}/{newest}/{SEAL}")
    return not newest or _is_stored(seal, stored)


def _newest(names: Iterable[str]) -> str:
    """The newest checkpoint's name: IMAGES or, of a copy, IMAGES-GENERATION; "" without any."""
    parts = {name: name.split("-") for name in names}
    known = [name for name, several in parts.items() if all(one.isdecimal() for one in several)]
    return max(known, key=lambda name: [int(one) for one in parts[name]], default="")


def _is_stored(seal: Callable[[], bytes], stored: set[str]) -> bool:
    """Whether a checkpoint's seal lists weights, and only stored ones."""
    try:
        files = parse_json(seal(), SEAL)["files"]
        weights = {digest for name, digest in files.items() if name.startswith(WEIGHTS)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return bool(weights) and weights <= stored

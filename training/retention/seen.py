"""What a search for people finds: manifests, and what was made of the data in them."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from training.storage.store import Entry, Manifest

# What was found, where it is not the kind of a manifest.
REGISTERED, RAW, TRACKED = "registered version", "raw data", "MLflow run"
RUN_FOLDER, COPIES = "training with checkpoints", "copies of checkpoints"
SCORES = "cached scores"


class Kept(NamedTuple):
    """A manifest and where it is: a path, or NAME/VERSION."""

    where: str
    manifest: Manifest[Any]


@dataclass(frozen=True)
class Seen:
    """One manifest, training or version that has these people's images, or was made of them.

    `images`: their number by data set and split ("mine train", of cached scores "mine scored"), for
    what was made of a data set those of the data set. `objects`: the stored files that hold them.
    `start`: the model that it started from, where that one has seen them and its own data have not.
    """

    what: str
    where: str
    digest: str
    images: dict[str, int]
    objects: tuple[Entry, ...] = ()
    start: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def pages(search: Callable[..., Any]) -> list[Any]:
    """Every page of a search of MLflow's."""
    found, token = [], None
    while True:
        page = search(page_token=token)
        found += page
        token = page.token
        if not token:
            return found

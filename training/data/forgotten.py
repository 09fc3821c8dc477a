"""Tombstones: people who are left out of every further data version.

The store has one list for each data set, under the references `forgotten/SET/000001` and so on,
each of which also has what the one before has. So every machine that makes a data version reads
the same lists, none is ever altered, and a "raw" manifest names the one that it was made with.

A list has a hash of each identity, salted with the data set's name: a list alone names nobody. The
salt is no secret key, since every step on every machine would need it and its loss would bring the
people back; whoever has the data can find out whom a list means, as the steps must.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from training.core.files import canonical_json, read_json, sha256_bytes, write_bytes
from training.core.temporary import temporary_folder
from training.storage.store import Entry, Manifest, Store

if TYPE_CHECKING:
    import pandas as pd

SUFFIX = ".forgotten.json"  # of a list's name in a manifest, after the data set's
REASON = "forgotten people"  # under which manifests count their images
Pseudonyms = frozenset[str]
NOBODY: Pseudonyms = frozenset()


def pseudonym(dataset: str, identity: str) -> str:
    """The hex SHA-256 that stands for a person of a data set in lists and reports."""
    return sha256_bytes(canonical_json(["forgotten", dataset, identity]))


def current(dataset: str, store: Store) -> Entry | None:
    """The latest list of a data set; None if nobody was forgotten."""
    return _latest(dataset, store)[1]


def _latest(dataset: str, store: Store) -> tuple[int, Entry | None]:
    number, found = 0, None
    while (value := store.reference(_reference(dataset, number + 1))) is not None:
        number, found = number + 1, Entry.parse(f"{dataset}{SUFFIX}", value)
    return number, found


def _reference(dataset: str, number: int) -> str:
    return f"forgotten/{dataset}/{number:06d}"


def read(entry: Entry, store: Store) -> Pseudonyms:
    """Whom a list names. Raises StoreError if its bytes are missing or altered."""
    return frozenset(read_json(store.local(entry))["people"])


def add(dataset: str, people: Iterable[str], store: Store) -> Entry:
    """The list of a data set with these pseudonyms, too; a new one only if one is missing."""
    wanted = frozenset(people)
    while True:
        number, entry = _latest(dataset, store)
        known = read(entry, store) if entry else NOBODY
        if entry and wanted <= known:
            return entry
        with temporary_folder() as folder:
            path = Path(folder) / f"{dataset}{SUFFIX}"
            content = {"schema": 1, "dataset": dataset, "people": sorted(known | wanted)}
            write_bytes(path, canonical_json(content))
            new = store.put(path)
        # Another process may have written this number first.
        if store.refer(_reference(dataset, number + 1), new.reference) == new.reference:
            return new


def references(datasets: Iterable[str], store: Store) -> str:
    """The latest lists of these data sets as a step's parameter; "" if nobody was forgotten."""
    found = {name: entry for name in datasets if (entry := current(name, store)) is not None}
    if not found:
        return ""
    return json.dumps({name: entry.reference for name, entry in found.items()}, sort_keys=True)


def parse(text: str) -> tuple[Entry, ...]:
    """The lists' entries of a manifest, from `references`."""
    found: Mapping[str, str] = json.loads(text) if text else {}
    return tuple(Entry.parse(f"{name}{SUFFIX}", value) for name, value in found.items())


def kept(manifest: Manifest) -> tuple[Entry, ...]:
    """The lists that a manifest names."""
    return tuple(entry for entry in manifest.entries if entry.name.endswith(SUFFIX))


def lists(entries: Sequence[Entry], store: Store) -> dict[str, Pseudonyms]:
    """Whom the lists among a manifest's entries name, by data set."""
    return {entry.name.removesuffix(SUFFIX): read(entry, store) for entry in entries}


def among(identities: "pd.Series", dataset: str, people: Pseudonyms) -> "pd.Series":
    """Which rows show one of `people`; an unknown identity shows nobody."""
    found = {
        who: bool(who) and isinstance(who, str) and pseudonym(dataset, who) in people
        for who in identities.unique()
    }
    return identities.map(found).astype(bool)


def said(images: int) -> list[str]:
    """The note on images that are left out; none if there are none."""
    what = "image of a person" if images == 1 else "images of people"
    return [f"{images} {what} to be forgotten left out"] if images else []

"""Scores cached in the store by weights, fingerprint and data set: no model is scored twice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from training.core.files import canonical_json, read_json, sha256_bytes, write_json
from training.core.temporary import temporary_folder
from training.evaluation.records import Drift, Kid, Scores, Untold, from_json, to_json
from training.storage.store import Entry, Manifest, Store, StoreError

# files of a model that determine its scores
WEIGHTS = ("nets/", "ema/", "config.json", "label_space.json")
TABLE, KIDS, DRIFTS = "scores.parquet", "kids.json", "drifts.json"
SCORES_FOLDER = "scores"  # of the references to tables


def weight_digests(model: Manifest) -> dict[str, str]:
    """Name -> hex sha256 of the files of a model manifest that determine its scores."""
    return {e.name: e.sha256 for e in model.entries if e.name.startswith(WEIGHTS)}


@dataclass(frozen=True)
class ScoreCache:
    """Cached scores of one `fingerprint` on one data set; `weights` map file names to digests.

    `dataset` is its manifest's digest: crop and training images change scores, not the fingerprint.
    """

    store: Store
    fingerprint: str
    dataset: str

    def find(self, weights: Mapping[str, str]) -> Scores | None:
        """The stored scores; None if there are none or their bytes are lost."""
        found = {}
        for name in (TABLE, KIDS):
            path = self._stored(self._key(weights, name), name)
            if path is None:
                return None
            found[name] = path
        kids = tuple(Kid.read(row) for row in read_json(found[KIDS])["kids"])
        return Scores(pd.read_parquet(found[TABLE]), kids)

    def keep(self, weights: Mapping[str, str], scores: Scores) -> None:
        """Store the scores of the model with these weights."""
        with temporary_folder() as folder:
            root = Path(folder)
            scores.table.to_parquet(root / TABLE)
            write_json(root / KIDS, {"kids": [to_json(kid) for kid in scores.kids]})
            for name in (TABLE, KIDS):
                entry = self.store.put(root / name)
                self.store.refer(self._key(weights, name), entry.reference)

    def find_drifts(self) -> list[Drift | Untold] | None:
        """The stored drift of the scored images, which no model changes; None as for `find`."""
        path = self._stored(self._drifts(), DRIFTS)
        if path is None:
            return None
        return [
            from_json(Untold, row) if "why" in row else from_json(Drift, row)
            for row in read_json(path)["drifts"]
        ]

    def keep_drifts(self, drifts: Sequence[Drift | Untold]) -> None:
        """Store the drift of the scored images."""
        with temporary_folder() as folder:
            path = Path(folder) / DRIFTS
            write_json(path, {"drifts": [to_json(found) for found in drifts]})
            self.store.refer(self._drifts(), self.store.put(path).reference)

    def _drifts(self) -> str:
        return f"drifts/{sha256_bytes(canonical_json([self.fingerprint, self.dataset]))}"

    def _stored(self, key: str, name: str) -> Path | None:
        """The bytes that a reference names; None if there are none or they are lost."""
        stored = self.store.reference(key)
        try:
            return self.store.local(Entry.parse(name, stored)) if stored else None
        except StoreError:
            return None

    def _key(self, weights: Mapping[str, str], name: str) -> str:
        """Reference name: hash of the digests, sorted by file name, fingerprint and data set."""
        content = [dict(sorted(weights.items())), self.fingerprint, self.dataset]
        folder = SCORES_FOLDER if name == TABLE else "kids"
        return f"{folder}/{sha256_bytes(canonical_json(content))}"

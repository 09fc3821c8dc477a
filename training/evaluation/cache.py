"""Scores cached in the store by weights and fingerprint, so that no model is scored twice."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from training.core.files import canonical_json, read_json, sha256_bytes, write_json
from training.core.temporary import temporary_folder
from training.evaluation.records import Kid, Scores, to_json
from training.storage.store import Entry, Manifest, Store, StoreError

# files of a model that determine its scores
WEIGHTS = ("nets/", "ema/", "config.json", "label_space.json")
TABLE, KIDS = "scores.parquet", "kids.json"


def weight_digests(model: Manifest) -> dict[str, str]:
    """Name -> hex sha256 of the files of a model manifest that determine its scores."""
    return {e.name: e.sha256 for e in model.entries if e.name.startswith(WEIGHTS)}


@dataclass(frozen=True)
class ScoreCache:
    """Cached scores of one `fingerprint`; `weights` map file names to digests."""

    store: Store
    fingerprint: str

    def find(self, weights: Mapping[str, str]) -> Scores | None:
        """The stored scores; None if there are none or their bytes are lost."""
        found = {}
        for name in (TABLE, KIDS):
            stored = self.store.reference(self._key(weights, name))
            if stored is None:
                return None
            try:
                found[name] = self.store.local(Entry.parse(name, stored))
            except StoreError:
                return None
        kids = tuple(Kid.read(row) for row in read_json(found[KIDS])["kids"])
        return Scores(pd.read_parquet(found[TABLE]), kids)

    def keep(self, weights: Mapping[str, str], scores: Scores) -> None:
        """Store the scores under their weights and the fingerprint."""
        with temporary_folder() as folder:
            root = Path(folder)
            scores.table.to_parquet(root / TABLE)
            write_json(root / KIDS, {"kids": [to_json(kid) for kid in scores.kids]})
            for name in (TABLE, KIDS):
                entry = self.store.put(root / name)
                self.store.refer(self._key(weights, name), entry.reference)

    def _key(self, weights: Mapping[str, str], name: str) -> str:
        """Reference name: hash of the digests, sorted by file name, and the fingerprint."""
        content = [dict(sorted(weights.items())), self.fingerprint]
        folder = "scores" if name == TABLE else "kids"
        return f"{folder}/{sha256_bytes(canonical_json(content))}"

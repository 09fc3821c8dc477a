"""Score tables cached in the store by weights and fingerprint, so that no model is scored twice."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from training.core.files import canonical_json, sha256_bytes
from training.core.temporary import temporary_folder
from training.storage.store import Entry, Manifest, Store, StoreError

# files of a model that determine its scores
WEIGHTS = ("nets/", "ema/", "config.json", "label_space.json")
TABLE = "scores.parquet"


def weight_digests(model: Manifest) -> dict[str, str]:
    """Name -> hex sha256 of the files of a model manifest that determine its scores."""
    return {e.name: e.sha256 for e in model.entries if e.name.startswith(WEIGHTS)}


@dataclass(frozen=True)
class ScoreCache:
    """Cached score tables of one `fingerprint`; `weights` map file names to digests."""

    store: Store
    fingerprint: str

    def find(self, weights: Mapping[str, str]) -> pd.DataFrame | None:
        """The stored table; None if there is none or its bytes are lost."""
        stored = self.store.reference(self._key(weights))
        if stored is None:
            return None
        try:
            return pd.read_parquet(self.store.local(Entry.parse(TABLE, stored)))
        except StoreError:
            return None

    def keep(self, weights: Mapping[str, str], table: pd.DataFrame) -> None:
        """Store the table under its weights and the fingerprint."""
        with temporary_folder() as folder:
            path = Path(folder) / TABLE
            table.to_parquet(path)
            entry = self.store.put(path)
        self.store.refer(self._key(weights), entry.reference)

    def _key(self, weights: Mapping[str, str]) -> str:
        """Reference name: hash of the digests, sorted by file name, and the fingerprint."""
        content = [dict(sorted(weights.items())), self.fingerprint]
        return f"scores/{sha256_bytes(canonical_json(content))}"

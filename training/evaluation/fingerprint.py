"""The fingerprint that two scores must share to be comparable."""

from training.core.config import EvalConfig
from training.core.files import canonical_json, sha256_bytes
from training.data.dataset import Faces
from training.evaluation.protocol import PROTOCOL
from training.evaluation.score import spread
from training.storage.store import Manifest, Store


def fingerprint(
    dataset: Manifest, judge: Manifest, config: EvalConfig, store: Store | None = None
) -> str:
    """Hex sha256 of images, judge, tasks and protocol; equal for comparable scores."""
    faces = Faces.open(dataset, config.eval_split, store)
    scored = []
    for i, part in enumerate(faces.parts):
        rows = spread(len(part), config.limit)
        names = [task.name for task in faces.space.tasks(part.labels[rows], i)]
        scored.append([part.name, len(rows), names])
    return sha256_bytes(canonical_json([faces.digest, judge.digest, scored, PROTOCOL]))

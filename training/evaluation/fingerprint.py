"""The fingerprint that two scores must share to be comparable."""

from training.core.config import EvalConfig
from training.core.files import canonical_json, sha256_bytes
from training.core.references import split_digest
from training.data.dataset import Faces
from training.evaluation.protocol import OURS, PAPER_PROTOCOL, PROTOCOL
from training.evaluation.score import spread
from training.storage.store import Manifest, Store


def fingerprint(
    dataset: Manifest, judge: Manifest, config: EvalConfig, store: Store | None = None
) -> str:
    """Hex sha256 of images, judge, tasks and protocol; equal for comparable scores.

    Numbers by the papers' protocols also depend on the whole data set and on the networks of FID
    and LPIPS.
    """
    faces = Faces.open(dataset, config.eval_split, store)
    scored = []
    for i, part in enumerate(faces.parts):
        rows = spread(len(part), config.limit)
        names = [task.name for task in faces.space.tasks(part.labels[rows], i)]
        scored.append([part.name, len(rows), names])
    content = [faces.digest, judge.digest, scored, PROTOCOL]
    if config.protocol != OURS:
        networks = [split_digest(setting)[1] for setting in (config.inception, config.lpips)]
        content.append([config.protocol, PAPER_PROTOCOL, dataset.digest, *networks])
    return sha256_bytes(canonical_json(content))

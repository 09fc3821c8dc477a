"""Which steps of the pipeline come from the local cache after one setting has changed.

The compiled pipeline with its real edges and the real first step; the others only write what they
were given, so that their outputs change exactly when their inputs do.
"""

from pathlib import Path

import pytest

from imitations import imitate
from pipelines import compiled
from pipelines.local.run import execute

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

PARTS = ["preprocess-plan", "preprocess-part-1"]
HEAVY = ["pull", "validate", "preprocess", "unify-labels", "judge", "train", "evaluate"]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The pipeline, and that with parts."""
    folder, real = tmp_path_factory.mktemp("imitation"), {"resolve", "preprocess-plan"}
    return [imitate(folder / p.name, real, (), p) for p in (compiled.PACKAGE, compiled.PARTS)]


@pytest.mark.long
def test_a_changed_section_reruns_only_its_own_steps(
    packages: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`eval.*` keeps six of seven results, `train.*` five, as the judge's, the data's one.

    The number of parts changes the parts only, since the bytes do not depend on it.
    """
    plain, divided = packages
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")

    def cached(overrides: str, package: Path = plain) -> list[str]:
        return list(execute({"preset": "smoke", "overrides": overrides}, package).cached)

    assert cached("") == []
    assert cached("") == HEAVY
    assert cached("eval.min_success=0.3;eval.bootstrap=50") == HEAVY[:6]
    assert cached("train.ema=0.5") == HEAVY[:5]
    assert cached("lambda_rec=3") == HEAVY[:5]
    assert cached("judge.lr=0.002") == [*HEAVY[:4], "train"]
    assert cached("data.size=32") == HEAVY[:1]
    assert cached("", divided) == HEAVY
    assert cached("", divided) == [*HEAVY[:2], *PARTS, *HEAVY[2:]]
    assert cached("preprocess.workers=2", divided) == HEAVY

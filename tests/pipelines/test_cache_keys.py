"""Which steps of the pipeline come from the local cache after one setting has changed.

The compiled pipeline with its real edges and the real first step; the others only write what they
were given, so that their outputs change exactly when their inputs do.
"""

from pathlib import Path

import pytest

from imitations import imitate
from pipelines.local.run import execute

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

HEAVY = ["pull", "validate", "preprocess-plan", "preprocess-part-1", "preprocess", "unify-labels",
         "judge", "train", "evaluate"]  # fmt: skip


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("imitation") / "stargan.yaml"
    return imitate(path, {"resolve", "preprocess-plan"})


def test_a_changed_section_reruns_only_its_own_steps(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`eval.*` keeps eight of nine results, `train.*` seven, as the judge's, the data's one.

    The number of parts changes the parts only, since the bytes do not depend on it.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")

    def cached(overrides: str) -> list[str]:
        return list(execute({"preset": "smoke", "overrides": overrides}, package).cached)

    assert cached("") == []
    assert cached("") == HEAVY
    assert cached("eval.min_success=0.3;eval.bootstrap=50") == HEAVY[:8]
    assert cached("train.ema=0.5") == HEAVY[:7]
    assert cached("lambda_rec=3") == HEAVY[:7]
    assert cached("judge.lr=0.002") == [*HEAVY[:6], "train"]
    assert cached("preprocess.workers=2") == [*HEAVY[:2], *HEAVY[4:]]
    assert cached("data.size=32") == HEAVY[:1]

"""Which steps of the pipeline come from the local cache after one setting has changed.

The compiled pipeline with its real edges and the real first step; the others only write what they
were given, so that their outputs change exactly when their inputs do.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines import compiled
from pipelines.local.run import execute

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

HEAVY = ["pull", "validate", "preprocess", "unify-labels", "judge", "train", "evaluate"]
BODY = """
    from pathlib import Path

    given = dict(locals())
    texts = {{
        name: Path(value.path).read_text() if hasattr(value, "path") else value
        for name, value in given.items()
        if name not in {outputs}
    }}
    for name in {outputs}:
        Path(given[name].path).parent.mkdir(parents=True, exist_ok=True)
        Path(given[name].path).write_text(f"{{name}} of {{texts}}")
"""


def imitation(source: str) -> str:
    """A component's source with another body; an exit handler does nothing."""
    head = source[: source.index('"""\n', source.index('"""') + 3) + 4]
    outputs = tuple(re.findall(r"(\w+): dsl\.Output", head))
    return head + (BODY.format(outputs=outputs) if outputs else "    return None\n")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    documents: list[Any] = list(yaml.safe_load_all(compiled.PACKAGE.read_text()))
    for name, executor in documents[0]["deploymentSpec"]["executors"].items():
        command = executor["container"]["command"]
        if name != "exec-resolve":
            command[-1] = imitation(command[-1])
    path = tmp_path_factory.mktemp("imitation") / "stargan.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    return path


def test_a_changed_section_reruns_only_its_own_steps(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`eval.*` keeps six of seven results, `train.*` five, as the judge's, the data's one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")

    def cached(overrides: str) -> list[str]:
        return list(execute({"preset": "smoke", "overrides": overrides}, package).cached)

    assert cached("") == []
    assert cached("") == HEAVY
    assert cached("eval.min_success=0.3;eval.bootstrap=50") == HEAVY[:6]
    assert cached("train.ema=0.5") == HEAVY[:5]
    assert cached("lambda_rec=3") == HEAVY[:5]
    assert cached("judge.lr=0.002") == [*HEAVY[:4], "train"]
    assert cached("data.size=32") == HEAVY[:1]

"""The copies of a real Kubeflow server's answers in this project say what the answers say."""

import json

import pytest

from kfpruns import FOLDER, read, recorded
from pipelines import compiled
from pipelines.submit import end, follow
from project import ROOT

ANSWERS = ROOT.parent / "shared" / "cases" / "kfp-runs"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_a_copy_is_read_like_the_answer(path: object) -> None:
    name = getattr(path, "name", "")
    if not (ANSWERS / name).is_file():
        pytest.skip("no genuine reports beside this checkout")
    content = json.loads((ANSWERS / name).read_text())
    genuine = read(content if isinstance(content, list) else [content])
    told = []
    for answers in (genuine, recorded(name.removesuffix(".json"))):
        lines: list[str] = []
        steps = compiled.steps()
        run = follow(iter(answers).__next__, lines.append, steps, every=0, progress=lines.append)
        told.append([*lines, *end(run, steps, lambda step: "")[0]])
    assert told[0] == told[1]

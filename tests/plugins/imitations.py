"""The compiled pipeline with its real edges, and steps that only write what they were given."""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from pipelines import compiled

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
    """A component's source with another body; one without outputs does nothing."""
    head = source[: source.index('"""\n', source.index('"""') + 3) + 4]
    outputs = tuple(re.findall(r"(\w+): dsl\.Output", head))
    return head + (BODY.format(outputs=outputs) if outputs else "    return None\n")


def imitate(
    path: Path,
    real: Collection[str],
    failing: Collection[str] = (),
    source: Path = compiled.PACKAGE,
) -> Path:
    """Write the pipeline `source` to `path` with imitations of all steps but the `real` ones.

    The outputs of an imitation change exactly when its inputs do; `failing` ones raise ValueError.
    """
    documents: list[Any] = list(yaml.safe_load_all(source.read_text()))
    for name, executor in documents[0]["deploymentSpec"]["executors"].items():
        command = executor["container"]["command"]
        step = name.removeprefix("exec-")
        if step not in real:
            command[-1] = imitation(command[-1])
        if step in failing:
            command[-1] = command[-1].replace("return None", 'raise ValueError("torn")')
    path.write_text(yaml.safe_dump_all(documents))
    return path

"""A registered model's folder: an MLflow pyfunc that others can load without this project.

The code that travels is the closure of what `registry/portable.py` imports from this package.
"""

import ast
import importlib.metadata
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.data.labels import LabelSpace, label_names
from training.tracking import client as tracking

PACKAGE = Path(__file__).resolve().parents[1]
ENTRY = PACKAGE / "registry" / "portable.py"  # what MLflow runs
REQUIREMENTS = ("mlflow", "numpy", "pydantic", "safetensors", "torch")


def modules(start: Path) -> list[Path]:
    """The files of this package that `start` imports, directly or not, with their packages."""
    found: set[Path] = set()
    queue = [start]
    while queue:
        path = queue.pop()
        for name in _imports(ast.parse(path.read_text())):
            for file in _files(name):
                if file not in found:
                    found.add(file)
                    queue.append(file)
    return sorted(found)


def _imports(tree: ast.AST) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.split(".")[0] == PACKAGE.name]


def _files(name: str) -> list[Path]:
    """The module's file and its packages' `__init__.py`, of those that exist."""
    parts = name.split(".")[1:]
    folders = [PACKAGE.joinpath(*parts[:i]) / "__init__.py" for i in range(len(parts) + 1)]
    return [
        path for path in (*folders, PACKAGE.joinpath(*parts).with_suffix(".py")) if path.is_file()
    ]


def requirements() -> list[str]:
    """What a reader of the model needs, at the versions here; the build (+cpu) does not matter."""
    return [
        f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in REQUIREMENTS
    ]


def save(
    folder: Path,
    files: Mapping[str, Path],
    space: LabelSpace,
    size: int,
    facts: dict[str, Any],
    *,
    source: bool = False,
) -> None:
    """Write the pyfunc into the new `folder`.

    `files` are a model's weights, config.json and label_space.json by name. The signature is
    image (-1, 3, size, size) in [-1, 1] and label (-1, dim_g), float32, and with `source` the
    labels that the image has, and as params what some models take beside labels. The input example
    is a plain grey image, nobody's face. `facts` go into MLmodel's metadata beside the label names.
    """
    import numpy as np

    mlflow = tracking.mlflow()
    from mlflow.models.signature import ModelSignature
    from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

    kind = np.dtype("float32")
    shape = (-1, 3, size, size)
    image, label = TensorSpec(kind, shape, "image"), TensorSpec(kind, (-1, space.dim_g), "label")
    more = [TensorSpec(kind, (-1, space.dim_g), "source")] if source else []
    # Of every model, since MLflow drops what is not declared: one that does not take it says so.
    params = [
        ParamSpec("intensity", "double", None),
        ParamSpec("seed", "long", None),
        ParamSpec("reference", "double", [], (-1,)),  # a tensor could not be left out
    ]
    signature = ModelSignature(
        Schema([image, label, *more]), Schema([TensorSpec(kind, shape)]), ParamSchema(params)
    )
    example = np.zeros((1, space.dim_g), kind)
    example[0, 0] = 1
    if len(space.sets) > 1:
        example[0, space.dim_d] = 1
    given = {"image": np.zeros((1, 3, size, size), kind), "label": example}
    if source:
        given["source"] = example
    with tempfile.TemporaryDirectory() as temporary:
        code, model = Path(temporary) / PACKAGE.name, Path(temporary) / "model"
        for path in modules(ENTRY):
            target = code / path.relative_to(PACKAGE)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        portable = Path(temporary) / "portable.py"  # MLmodel notes its path
        shutil.copyfile(ENTRY, portable)
        for name, path in files.items():
            (model / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, model / name)
        with warnings.catch_warnings(record=True) as said, tracking.as_default():
            mlflow.pyfunc.save_model(
                str(folder),
                python_model=str(portable),
                artifacts={"model": str(model)},
                code_paths=[str(code)],
                signature=signature,
                input_example=given,
                pip_requirements=requirements(),
                metadata={"label_names": label_names(space), **facts},
            )
    for warning in said:
        if "type hint" not in str(warning.message):  # the signature says more than hints could
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )

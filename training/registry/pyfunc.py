"""Save a model as an MLflow pyfunc that can be loaded without this project.

The saved code is the transitive closure of what `registry/portable.py` imports from this package.
"""

import ast
import importlib.metadata
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.core.entries import inside
from training.core.temporary import temporary_folder
from training.data.labels import LabelSpace, label_names
from training.tracking import client as tracking

PACKAGE = Path(__file__).resolve().parents[1]
ENTRY = PACKAGE / "registry" / "portable.py"  # the file that MLflow runs
REQUIREMENTS = ("mlflow", "numpy", "pillow", "pydantic", "safetensors", "torch")


def modules(start: Path) -> list[Path]:
    """Files of this package that `start` imports, directly or not, with `__init__.py` files."""
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
    """Existing files of a module: its source and the `__init__.py` of its packages."""
    parts = name.split(".")[1:]
    folders = [PACKAGE.joinpath(*parts[:i]) / "__init__.py" for i in range(len(parts) + 1)]
    return [
        path for path in (*folders, PACKAGE.joinpath(*parts).with_suffix(".py")) if path.is_file()
    ]


def requirements() -> list[str]:
    """Pinned requirements for loading the model, at the installed versions without build (+cpu)."""
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

    `files` are a model's weights, config.json and label_space.json by name. The signature is image
    and label, with `source` also the labels of the image, of any type: arrays, or files and names,
    which MLflow could not check (`portable.py` does). Params are the edit options. The input
    example is a grey image.
    `facts` are added to the metadata in MLmodel, with the label names and the images' side in px.
    """
    import numpy as np

    mlflow = tracking.mlflow()
    from mlflow.models.signature import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType

    dtype = np.dtype("float32")
    columns = (
        ColSpec(AnyType(), "image"),
        ColSpec(AnyType(), "label"),
        *([ColSpec(AnyType(), "source", required=False)] if source else []),
    )
    # declared for every model, since MLflow drops undeclared ones; unsupported ones raise an error
    params = [
        ParamSpec("intensity", "double", None),
        ParamSpec("seed", "long", None),
        ParamSpec("reference", "double", [], (-1,)),  # a tensor could not be optional
    ]
    signature = ModelSignature(
        Schema([*columns]), Schema([ColSpec(AnyType())]), ParamSchema(params)
    )
    example = np.zeros((1, space.dim_g), dtype)
    example[0, 0] = 1
    if len(space.sets) > 1:
        example[0, space.dim_d] = 1
    example_input = {"image": np.zeros((1, 3, size, size), dtype), "label": example}
    if source:
        example_input["source"] = example
    with temporary_folder() as temporary:
        code, model = Path(temporary) / PACKAGE.name, Path(temporary) / "model"
        for path in modules(ENTRY):
            target = code / path.relative_to(PACKAGE)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        portable = Path(temporary) / "portable.py"  # MLmodel contains its path
        shutil.copyfile(ENTRY, portable)
        for name, path in files.items():
            copy = inside(model, name)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        with warnings.catch_warnings(record=True) as caught, tracking.as_default():
            mlflow.pyfunc.save_model(
                str(folder),
                python_model=str(portable),
                artifacts={"model": str(model)},
                code_paths=[str(code)],
                signature=signature,
                input_example=example_input,
                pip_requirements=requirements(),
                metadata={"label_names": label_names(space), "image_size": size, **facts},
            )
    _keep_out_bytecode(folder)
    for warning in caught:
        if "type hint" not in str(warning.message):  # the explicit signature is more precise
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )


def _keep_out_bytecode(folder: Path) -> None:
    """Put an empty file where Python would keep bytecode of the model's code.

    MLflow loads local models in place. Python then neither writes bytecode into the version nor
    runs bytecode that somebody else has put there.
    """
    for cache in [*folder.rglob("__pycache__")]:
        shutil.rmtree(cache)
    for parent in {path.parent for path in folder.rglob("*.py")}:
        (parent / "__pycache__").touch()

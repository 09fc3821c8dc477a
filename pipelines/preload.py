"""Import what the programs import: python -m pipelines.preload

Python writes the bytecode of a module when it first imports it. `make setup` runs this where
PYTHONDONTWRITEBYTECODE is set, since every start of a program would compile all modules again.
"""

import importlib
import pkgutil
from collections.abc import Iterable

PACKAGES = ("training", "components", "pipelines")
# Imported by functions when they are called.
LATE = ("torch", "kfp.dsl.executor_main", "kfp.local", "mlflow.pyfunc", "matplotlib.pyplot",
        "great_expectations", "pandas", "scipy.stats", "boto3", "psycopg2")  # fmt: skip
STARTED = ("dvc.cli", "torch._dynamo", "torch.distributed.run")  # by programs and by torch


def preload(more: Iterable[str] = ()) -> None:
    """Import `LATE`, `more` and every module of our packages but the programs' `__main__`."""
    for name in (*LATE, *more):
        importlib.import_module(name)
    for package in map(importlib.import_module, PACKAGES):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__") and module.name != "pipelines.stack":
                importlib.import_module(module.name)


if __name__ == "__main__":
    preload(STARTED)

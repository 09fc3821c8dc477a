"""What a program imports before it has anything to do."""

import subprocess
import sys

import pytest

HEAVY = {"boto3", "dvc", "great_expectations", "kfp", "matplotlib", "mlflow", "pandas", "scipy",
         "sqlalchemy", "torch", "torch._dynamo"}  # fmt: skip
STARTS = {
    "training.launch": set(),
    "training.train": {"torch"},
    "training.resolve": {"torch"},
    "training.data.pull": set(),
    "training.data.preprocess": {"pandas"},
    "training.registry.promotion": set(),
    "training.release": set(),
    "training.serve": set(),
    "training.tracking.client": set(),
    # the local runner with the last lines of a run
    "pipelines.__main__, pipelines.local.run, pipelines.local.outcome, "
    "training.evaluation.numbers, training.evaluation.records": {"kfp"},
}


@pytest.mark.parametrize(("modules", "needed"), STARTS.items(), ids=[*range(len(STARTS))])
def test_a_program_starts_without_the_slow_packages_that_it_may_not_need(
    modules: str, needed: set[str]
) -> None:
    """Each is a second and more of every step's start."""
    code = f"import sys, {modules}; print(*sorted({HEAVY} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(out.stdout.split()) == needed

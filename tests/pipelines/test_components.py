"""Every component is a docstring, its imports and one call; logic lives in `training`."""

import ast
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from components import images

ROOT = Path(__file__).parents[2]
NOT_STEPS = {"__init__", "images"}
FILES = sorted(p for p in (ROOT / "components").glob("*.py") if p.stem not in NOT_STEPS)
STEPS = ["evaluate", "judge", "preprocess", "preprocess_part", "preprocess_plan", "promote", "pull",
         "register", "report_status", "resolve", "train", "unify_labels", "validate"]  # fmt: skip
each = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def function(path: Path) -> ast.FunctionDef:
    """The file's only function."""
    (found,) = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef)]
    return found


def test_every_step_has_its_file() -> None:
    assert [path.stem for path in FILES] == STEPS


@each
def test_a_component_is_named_like_its_file_and_has_a_docstring(path: Path) -> None:
    assert function(path).name == path.stem
    assert ast.get_docstring(function(path))
    assert ast.get_docstring(ast.parse(path.read_text()))


@each
def test_a_component_is_thin(path: Path) -> None:
    """At most 14 lines of imports, names and calls: no branch, loop, `try` or inner function."""
    body = function(path).body[1:]
    assert body[-1].end_lineno - body[0].lineno < 14  # type: ignore[operator]
    allowed = (ast.Import, ast.ImportFrom, ast.Assign, ast.Expr, ast.Return)
    assert {type(node) for node in body} <= set(allowed)
    logic = (ast.If, ast.IfExp, ast.For, ast.While, ast.Try, ast.With, ast.Lambda, ast.BoolOp)
    assert not [node for node in ast.walk(function(path)) if isinstance(node, logic)]


@each
def test_a_component_calls_one_library_function(path: Path) -> None:
    """Besides `Path`, one name imported from `training`, called once, by `attempt`.

    `read_json` is allowed; the exit handler, which is not tried again, is called itself.
    """
    nodes = list(ast.walk(function(path)))
    imported = [a.name for n in nodes if isinstance(n, ast.ImportFrom) for a in n.names
                if n.module and n.module.startswith("training.")]  # fmt: skip
    (name,) = [i for i in imported if i not in ("read_json", "attempt")]
    calls = [n for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    called = [
        ast.unparse(c.args[0] if c.func.id == "attempt" else c.func)
        for c in calls
        if isinstance(c.func, ast.Name)
    ]
    assert called.count(name) == 1
    assert ("attempt" in imported) == (path.stem != "report_status")


@each
def test_a_component_runs_in_one_of_two_images_and_installs_nothing(path: Path) -> None:
    (decorator,) = function(path).decorator_list
    assert isinstance(decorator, ast.Call)
    settings = {k.arg: ast.unparse(k.value) for k in decorator.keywords}
    assert settings.keys() == {"base_image", "install_kfp_package"}
    assert settings["base_image"] in ("STEPS_IMAGE", "TRAIN_IMAGE")
    assert settings["install_kfp_package"] == "False"
    assert "from __future__" not in path.read_text()  # kfp cannot read such annotations


def test_the_images_are_plain_tags() -> None:
    """A digest in the commit that it contains would be circular."""
    assert {"STEPS_IMAGE", "TRAIN_IMAGE"} == {n for n in vars(images) if n.isupper()}
    assert "@" not in images.STEPS_IMAGE + images.TRAIN_IMAGE


def test_importing_the_components_is_light() -> None:
    """Neither torch nor mlflow: a step imports what it needs itself."""
    names = ", ".join(f"components.{step}" for step in STEPS)
    code = f"import sys, {names}; print({{'torch', 'mlflow', 'pandas'}} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def test_resolve_names_what_the_library_returns() -> None:
    from components.resolve import resolve
    from training.resolve import Resolved

    outputs = resolve.component_spec.outputs or {}
    parameters = {n: o.type for n, o in outputs.items() if o.type == "String"}
    assert list(parameters) == list(Resolved._fields)


def test_evaluate_logs_every_metric_and_leaves_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Metrics artifact without a file would never be reused from the cache."""
    import training.evaluate
    from components.evaluate import evaluate

    def fake(*inputs: Path, metrics: Path, **given: object) -> None:
        assert inputs == (tmp_path / "model", tmp_path / "dataset", tmp_path / "judge")
        assert given == {"eval_config": "{}", "compare": "stargan/1", "out": tmp_path / "out",
                         "report": tmp_path / "report"}  # fmt: skip
        metrics.write_text('{"success_mean": 0.5}')

    monkeypatch.setattr(training.evaluate, "evaluate", fake)
    at = {n: SimpleNamespace(path=str(tmp_path / n), metadata={})
          for n in ("model", "dataset", "judge", "out", "report", "metrics")}  # fmt: skip
    evaluate.python_func(**at, eval_config="{}", compare="stargan/1", code_hash="c")
    assert at["metrics"].metadata == {"success_mean": 0.5}


@pytest.mark.parametrize("step", ["validate", "judge", "train", "evaluate", "promote"])
def test_metrics_are_read_back_from_the_file_that_the_library_wrote(step: str) -> None:
    last = function(ROOT / "components" / f"{step}.py").body[-1]
    assert ast.unparse(last) == "metrics.metadata.update(read_json(Path(metrics.path)))"


def test_the_status_closes_the_mlflow_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """And its output is the address of the run's page."""
    import training.cluster.ending
    from components.report_status import report_status

    seen: list[tuple[str, str]] = []
    monkeypatch.setattr(
        training.cluster.ending, "close_parent", lambda *a: seen.append(a) or "https://page"
    )
    for state in ("SUCCEEDED", "FAILED", "CANCELED"):
        status = SimpleNamespace(state=state)
        page = report_status.python_func(experiment="e", launcher="trainjob", status=status)
        assert page == "https://page"
    assert seen == [("FINISHED", "e"), ("FAILED", "e"), ("KILLED", "e")]

"""Summary of a local run: metrics, verdict, and the paths of reports and pictures."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.local.run import LocalRun
from training.core.files import read_json
from training.storage.store import Manifest

PAGES = ("validate", "train", "evaluate", "promote")  # the steps with a page, their output `report`


def collect(run: LocalRun) -> list[Path]:
    """Copy reports, metrics, verdict and grids out of the steps' folders into `run.report`."""
    run.report.mkdir(parents=True, exist_ok=True)
    out = []
    for step in PAGES:
        out.append(run.report / f"{step}.html")
        shutil.copyfile(run.file(step, "report"), out[-1])
    for step, output in (("evaluate", "metrics"), ("register", "out"), ("promote", "out")):
        name = output if output != "out" else step
        shutil.copyfile(run.file(step, output), run.report / f"{name}.json")
    evaluation = Manifest.read(run.file("evaluate", "out"), "evaluation")
    for entry in evaluation.entries:
        if entry.name.endswith(".png"):
            out.append(run.report / Path(entry.name).name)
            shutil.copyfile(evaluation.local(entry.name), out[-1])
    return out


def rescue(run: LocalRun) -> list[Path]:
    """Copy the reports that a failed run has written; after a failed validation, its report."""
    out = []
    for step in PAGES:
        folder = run.folders.get(step)
        if folder and (folder / "report").is_file():
            run.report.mkdir(parents=True, exist_ok=True)
            out.append(run.report / f"{step}.html")
            shutil.copyfile(folder / "report", out[-1])
    return out


def table(metrics: Mapping[str, float], tasks: Mapping[str, str]) -> str:
    """Metrics sorted by name, one per line, with the task of a name that does not say it."""
    width = max(map(len, metrics), default=0)
    lines = []
    for name, value in sorted(metrics.items()):
        text = f"{value:,.0f}" if value >= 1000 else f"{value:.4f}"
        task = tasks.get(name, "")
        remark = f"  {task if task.isprintable() else ascii(task)}" if task else ""
        lines.append(f"  {name:<{width}}  {text:>11}{remark}")
    return "\n".join(lines)


def verdict(registered: dict[str, Any], decision: dict[str, Any]) -> str:
    """The registered version and the gate's decision, as text."""
    known = "new" if registered["created"] else "known already"
    alias = f"@{decision['alias']}" if decision["promoted"] else "no alias"
    word = "PROMOTED" if decision["promoted"] else "not promoted"
    return (
        f"{word}: {decision['reason']}\n"
        f"version   {registered['name']} {registered['version']} ({known}), {alias}"
    )


def summary(run: LocalRun) -> str:
    """The last lines of a successful run."""
    from training.evaluation.numbers import tasks_by_name  # imports numpy
    from training.evaluation.records import stored_tasks

    files = collect(run)
    metrics = read_json(run.report / "metrics.json")
    grids = [path for path in files if path.suffix == ".png"]
    evaluation = Manifest.read(run.file("evaluate", "out"), "evaluation")
    tasks = tasks_by_name(stored_tasks(read_json(evaluation.local("details.json"))))
    lines = ["", "metrics on held-out images", table(metrics, tasks), ""]
    lines.append(verdict(read_json(run.report / "register.json"),
                         read_json(run.report / "promote.json")))  # fmt: skip
    lines += [f"pictures  {path}" for path in grids]
    lines += [f"report    {path}" for path in files if path.suffix == ".html"]
    lines.append(f"from cache: {', '.join(run.cached) or 'nothing'}")
    page = run.outputs.get("report-status", {}).get("Output", "")
    lines.append("MLflow    make ui" + (f", then {page}" if page else ""))
    return "\n".join(lines)

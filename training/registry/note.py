"""What is said of a version in Markdown, on its run's page in MLflow and its step's in Kubeflow.

The former has the verdict, links, and how to use the version; the latter is written before it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from training.core.names import markdown
from training.tracking import client as tracking
from training.tracking import links

NOTE = "mlflow.note.content"
OPEN = "not judged yet"


def describe_version(run_id: str, name: str, number: str, verdict: str = OPEN) -> None:
    """Write the description of a run, unless a person wrote one, and its tag `verdict`.

    `verdict` is `promoted` or `not promoted`, a colon and the reason.
    """
    api = tracking.client()
    run = api.get_run(run_id)
    begin, before = f"**{markdown(name)} ", run.data.tags.get(NOTE, "")
    api.set_tag(run_id, "verdict", verdict.partition(":")[0])
    if before and not before.startswith(begin):
        return
    page = {
        "version and card": links.version(name, number),
        "this run beside others": links.runs(run.info.experiment_id),
        "report": links.run(run.info.experiment_id, run_id, "/artifacts/evaluation/report.html"),
    }
    if verdict != OPEN:
        page["verdict's conditions"] = links.run(
            run.info.experiment_id, run_id, "/artifacts/promotion/verdict.html"
        )
    pages = {title: address.removeprefix("/") for title, address in page.items()}
    if kubeflow := run.data.tags.get("kfp_url"):
        pages["Kubeflow's run"] = kubeflow
    said = markdown(verdict)[:2000].replace(r"\>", ">")  # which MLflow shows with its backslash
    text = (
        f"{begin}{number}**: {said}\n\n"
        + " · ".join(f"[{title}]({address})" for title, address in pages.items())
        + f"\n\nUse it, with a target label of its card:\n\n{_use(name, number)}"
    )
    api.set_tag(run_id, NOTE, text)


def _use(name: str, number: str) -> str:
    return (
        "```\n"
        f"python -m training.translate {name}/{number} face.png out.png LABEL\n"
        f"python -m training.release verify {name}/{number}\n```\n"
    )


def summary(
    registered: Mapping[str, Any], labels: Iterable[str], scores: Mapping[str, float]
) -> str:
    """The page of the step that registered a version: name, scores, link and use.

    `registered` is the result of `register`, `scores` are those of `headline`.
    """
    name, number = str(registered["name"]), str(registered["version"])
    known = "Registered" if registered["created"] else "Registered before, with the same content"
    rows = [f"| {score} | {value:.4g} |" for score, value in scores.items()]
    return "\n".join([
        f"# {markdown(name)} {number}", "",
        f"{known}; its page is [in MLflow]({links.base()}{links.version(name, number)}). Whether "
        "it becomes the champion is decided by the step *Promote through the gate*.", "",
        "Use it, with a target label:", "", _use(name, number),
        f"Labels: {', '.join(map(markdown, labels))}", "",
        "| on held-out images | |", "| --- | --- |", *rows, "",
    ])  # fmt: skip

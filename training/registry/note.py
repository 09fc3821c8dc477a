"""The description of a version's run in MLflow: verdict, links, and how to use the version."""

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
        + "\n\nUse it, with a target label of its card:\n\n```\n"
        f"python -m training.translate {name}/{number} face.png out.png LABEL\n"
        f"python -m training.release verify {name}/{number}\n```\n"
    )
    api.set_tag(run_id, NOTE, text)

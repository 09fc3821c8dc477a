"""Run the compiled pipeline again and again on Kubeflow: a recurring run.

    python -m pipelines schedule --cron "0 0 3 * * *" preset=celeba-128

Each run takes the versions of the images' `.dvc` files without the people forgotten until then:
what is unchanged comes from Kubeflow's cache and trains nothing. Runs do not overlap, and those
that were missed are not made up for.
"""

import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

from pipelines import compiled
from pipelines.arguments import parse
from training.core import environment
from training.core.cli import means
from training.core.options import EXPERIMENT
from training.core.shown import shown

CRON_FIELDS = 6  # Kubeflow's first one is the second


def create(
    name: str, cron: str, arguments: dict[str, Any], experiment: str, package: Path, namespace: str
) -> tuple[str, list[str]]:
    """Create a recurring run; its id, and those of the same name that it replaces, now deleted.

    The new one comes first: if this process ends in between, the same call deletes the others.
    Raises ApiException, and urllib3's errors if the server does not answer.
    """
    from kfp import Client

    address = environment.KF_PIPELINES_ENDPOINT.get() or None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kfp's own, about versions before 2.0
        client = Client(host=address, **({"namespace": namespace} if namespace else {}))
    group = client.create_experiment(experiment, namespace=namespace or None).experiment_id
    former = _named(client, group, name)
    made = client.create_recurring_run(
        group, name, cron_expression=cron, max_concurrency=1, no_catchup=True, params=arguments,
        pipeline_package_path=str(package),
    )  # fmt: skip
    for one in former:
        client.delete_recurring_run(one)
    return str(made.recurring_run_id), former


def _named(client: Any, experiment: str, name: str) -> list[str]:
    """The ids of the experiment's recurring runs of this name."""
    found, token = [], ""
    while True:
        page = client.list_recurring_runs(token, page_size=100, experiment_id=experiment)
        found += [
            one.recurring_run_id for one in page.recurring_runs or () if one.display_name == name
        ]
        token = page.next_page_token
        if not token:
            return found


def schedule(
    *pairs: Annotated[str, means("key=value")],
    cron: Annotated[str, means("six fields, in UTC: second minute hour day month weekday")],
    name: Annotated[str, means("of the recurring run; one of this name is replaced")] = "stargan",
    experiment: Annotated[
        str, means("Kubeflow experiment", "--experiment-name", "-e")
    ] = EXPERIMENT,
    package: Annotated[Path | None, compiled.CHOSEN] = None,
    namespace: Annotated[str, means("the profile's namespace", "--namespace", "-n")] = "",
) -> None:
    """Run on Kubeflow Pipelines again and again."""
    from kfp_server_api import ApiException
    from urllib3.exceptions import HTTPError

    arguments = parse(list(pairs), compiled.parameters(package or compiled.PACKAGE))
    package = package or compiled.fitting(arguments)
    if revision := arguments.get("revision"):
        raise ValueError(f"revision={revision}: every run would train the same data; leave it out")
    if len(cron.split()) != CRON_FIELDS and not cron.startswith("@"):
        raise ValueError(
            f"--cron {cron!r}: six fields are needed, the first the second: '0 0 3 * * *' is 03:00"
        )
    try:
        made, former = create(name, cron, arguments, experiment, package, namespace)
    except ApiException as error:
        raise ValueError(
            f"Kubeflow refuses ({error.status}): {shown(error.body)[-500:]}"
        ) from error
    except HTTPError as error:
        address = shown(environment.KF_PIPELINES_ENDPOINT.get()) or "not set"
        raise ValueError(
            f"Kubeflow does not answer; is KF_PIPELINES_ENDPOINT ({address}) right?"
        ) from error
    sys.stdout.write(f"schedule  {made}\n")
    sys.stdout.writelines(f"replaces  {one}\n" for one in former)
    sys.stdout.write(f"end it    kfp recurring-run delete {made}\n")

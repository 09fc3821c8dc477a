"""Run, compile, submit and pin the pipeline.

    python -m pipelines run preset=demo seed=1              on this machine
    python -m pipelines run preset=demo batch=8 --dry-run   only print the configuration
    python -m pipelines run --containers preset=smoke       each step in its image (make image)
    python -m pipelines submit -e stargan preset=celeba-128 on Kubeflow (KF_PIPELINES_ENDPOINT)
    python -m pipelines submit --wait preset=celeba-128     the same, followed to its end
    python -m pipelines submit --wait --resubmit 3 …        again if a pod is lost, up to 3 times
    python -m pipelines schedule --cron "0 0 3 * * *"       on Kubeflow, every night
    python -m pipelines watch FOLDER preset=small           whenever a folder's content changed
    python -m pipelines doctor preset=celeba-128            what a cluster lacks for a run
    python -m pipelines secrets | kubectl create -f -       passwords and keys, newly drawn
    python -m pipelines compare models=stargan,stgan        one report on several models
    python -m pipelines search "lambda_rec=1..20 log"       the best settings, by trial
    python -m pipelines search … --katib FILE               the same on a cluster with Katib
    python -m pipelines compile                             both files, after a change
    python -m pipelines compile --kubernetes N -o F         the same as objects of namespace N
    python -m pipelines pin-images --steps R --train R -o F the same, pinned to image digests

A key is a parameter of the pipeline or a field of the preset, bare or as section.field.
Exit codes: 0 done, 1 a step or the awaited run failed or the cluster lacks something, 2 a usage
error, 130 stopped by Ctrl-C, 143 by SIGTERM.
"""

import dataclasses
import json
import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

from pipelines import compiled, credentials, doctor, schedule, watch
from pipelines import submit as submission
from pipelines.arguments import LOCAL, parse
from training.core import cli
from training.core.cli import means
from training.core.config import Natural
from training.core.options import EXPERIMENT
from training.tracking.links import kubeflow_run

app = cli.program("python -m pipelines", __doc__)
app.command(compiled.write, name="compile")
app.command(compiled.pin, name="pin-images")
app.command(credentials.write, name="secrets")
app.command(doctor.examine, name="doctor")
app.command(schedule.schedule)
app.command(watch.watch)
Pair = Annotated[str, means("key=value")]


def describe(arguments: dict[str, Any], known: dict[str, compiled.Parameter]) -> str:
    """The resolved configuration of a run, as JSON, with notes on its data.

    Raises ValueError for what a step of the run would refuse.
    """
    from training.models import configure
    from training.resolve import check

    whole = {name: p.default for name, p in known.items()} | arguments
    overrides = configure.parse(whole["overrides"])
    config = configure.resolve(whole["model"], whole["preset"], overrides, whole["datasets"])
    checked = check(config, *(whole[key] for key in ("raw", "revision", "init", "compare", "name")))
    shown = {"parameters": whole, "config": dataclasses.asdict(config), "notes": checked.notes}
    return json.dumps(shown, indent=1, sort_keys=True)


@app.command
def run(
    *pairs: Pair,
    dry_run: Annotated[bool, means("print the configuration and exit")] = False,
    containers: Annotated[bool, means("each step in its image")] = False,
) -> None:
    """Run on this machine."""
    from pipelines.local import containers as images
    from pipelines.local import outcome
    from pipelines.local.run import StepError, execute

    known = compiled.parameters()
    arguments = parse(list(pairs), known)
    if dry_run:
        print(describe(arguments, known))
        return
    # A stopped run must also stop its step.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    image = images.described() if containers else LOCAL
    try:
        package = compiled.fitting(arguments)
        done = execute({"image": image, **arguments}, package, in_containers=containers)
    except StepError as error:
        found = "".join(f"report: {path}\n" for path in outcome.rescue(error.run))
        sys.stderr.write(f"\nerror: {error}\n{found}")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped; run the same command to resume\n")
        raise SystemExit(130) from None
    print(outcome.summary(done))


@app.command
def compare(
    *pairs: Pair, dry_run: Annotated[bool, means("print the runs and exit")] = False
) -> None:
    """Several models under one budget, in one report."""
    from pipelines import compare as comparison
    from pipelines.local.run import StepError

    if dry_run:
        print("\n".join(comparison.describe(list(pairs))))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        page, failed = comparison.compare(list(pairs))
    except StepError as error:
        sys.stderr.write(f"\nerror: {error}\n")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped; run the same command to resume\n")
        raise SystemExit(130) from None
    print("".join(f"failed    {line}\n" for line in failed) + f"report    {page}")
    if failed:
        raise SystemExit(1)


@app.command
def search(
    *pairs: Pair,
    dry_run: Annotated[bool, means("print the search and exit")] = False,
    katib: Annotated[Path | None, means("write it for Katib instead, as YAML")] = None,
    namespace: Annotated[
        str, means("with --katib: of its trials", "--namespace", "-n")
    ] = "stargan",
    accelerators: Annotated[Natural, means("with --katib: GPUs of each trial")] = 0,
) -> None:
    """Settings that score best on the validation split, found by trials."""
    from pipelines.local.run import StepError
    from pipelines.search import run as searching
    from pipelines.search.plan import Plan

    if dry_run or katib:
        plan = Plan.read(list(pairs))
        print("\n".join(plan.describe()))
        if katib and not dry_run:
            from pipelines.search.katib import write

            write(plan, katib, namespace, accelerators)
            print(f"written   {katib}; kubectl apply -f {katib}")
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        page, lines = searching.search(list(pairs))
    except (StepError, searching.SearchError) as error:
        sys.stderr.write(f"\nerror: {error}\n")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped; run the same command to resume\n")
        raise SystemExit(130) from None
    print("\n".join(["", *lines, f"page      {page}"]))


@app.command
def trial(*pairs: Pair) -> None:
    """One trial of a search, with these settings; prints its score for Katib."""
    from pipelines.local.run import StepError
    from pipelines.search import run as searching
    from pipelines.search.katib import METRIC

    try:
        with cli.stoppable():
            searching.trial(list(pairs), METRIC)
    except StepError as error:
        sys.stderr.write(f"\nerror: {error}\n")
        raise SystemExit(1) from None


def quoted(value: Any) -> str:
    """Quote a value for `kfp run submit`, which parses JSON first and else takes text."""
    if not isinstance(value, str):
        return json.dumps(value)
    try:
        json.loads(value)
    except ValueError:
        return value
    return json.dumps(value)


def submit_command(
    experiment: str, arguments: dict[str, Any], package: Path, namespace: str = ""
) -> list[str]:
    """The command that submits the compiled pipeline to Kubeflow, in a profile's `namespace`."""
    pairs = [f"{name}={quoted(value)}" for name, value in arguments.items()]
    where = ["--namespace", namespace] if namespace else []
    return ["kfp", *where, "run", "submit", "-e", experiment, "-f", str(package), *pairs]


@app.command
def submit(
    *pairs: Pair,
    experiment: Annotated[
        str, means("Kubeflow experiment", "--experiment-name", "-e")
    ] = EXPERIMENT,
    package: Annotated[Path | None, compiled.CHOSEN] = None,
    namespace: Annotated[str, means("the profile's namespace", "--namespace", "-n")] = "",
    dry_run: Annotated[bool, means("print the command and exit")] = False,
    wait: Annotated[bool, means("follow the run; 1 if it fails", "--wait", "-w")] = False,
    resubmit: Annotated[
        Natural, means("with --wait: times to submit again if a step fails without a reason")
    ] = 0,
) -> None:
    """Run on Kubeflow Pipelines."""
    known = compiled.parameters(package or compiled.PACKAGE)
    arguments = parse(list(pairs), known)
    package = package or Path("pipelines") / compiled.fitting(arguments).name
    command = submit_command(experiment, arguments, package, namespace)
    if resubmit:
        submission.check_resubmit(wait)
    print(shlex.join(command), flush=True)
    if dry_run:
        return
    recorded = arguments.get("experiment", known["experiment"].default)
    for left in range(resubmit, -1, -1):
        run_id = submission.submit(command)
        print(f"run       {run_id}\npage      {kubeflow_run(run_id)}", flush=True)
        if not wait:
            return
        succeeded, lost = submission.wait(run_id, compiled.steps(package), recorded)
        if succeeded:
            return
        if not (lost and left):
            raise SystemExit(1)
        print(f"\nsubmitted again, {resubmit - left + 1} of {resubmit} times", flush=True)


def main(argv: list[str] | None = None) -> None:
    app(cli.renamed(argv, {"release": "pin-images"}))


if __name__ == "__main__":
    cli.entry_point(main)

"""Run, compile, submit and pin the pipeline.

    python -m pipelines run preset=demo seed=1              on this machine
    python -m pipelines run preset=demo batch=8 --dry-run   only print the configuration
    python -m pipelines run --containers preset=smoke       each step in its image (make image)
    python -m pipelines submit -e stargan preset=celeba-128 on Kubeflow (KF_PIPELINES_ENDPOINT)
    python -m pipelines submit --wait preset=celeba-128     the same, followed to its end
    python -m pipelines compare models=stargan,stgan        one report on several models
    python -m pipelines compile                             after a change of the pipeline
    python -m pipelines pin-images --steps R --train R -o F the same, pinned to image digests

A key is a parameter of the pipeline or a field of the preset, bare or as section.field.
Exit codes: 0 done, 1 a step or the awaited run failed, 2 a usage error, 130 stopped by Ctrl-C, 143
by SIGTERM.
"""

import argparse
import dataclasses
import json
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

from pipelines import compiled
from pipelines import submit as watch
from pipelines.arguments import LOCAL, parse
from training.core import cli
from training.core.options import EXPERIMENT


def describe(arguments: dict[str, Any], known: dict[str, compiled.Parameter]) -> str:
    """The resolved configuration of a run, as JSON."""
    from training.models import presets

    whole = {name: p.default for name, p in known.items()} | arguments
    overrides = presets.parse(whole["overrides"])
    config = presets.resolve(whole["model"], whole["preset"], overrides, whole["datasets"])
    shown = {"parameters": whole, "config": dataclasses.asdict(config)}
    return json.dumps(shown, indent=1, sort_keys=True)


def run(arguments: dict[str, Any], in_containers: bool = False) -> None:
    from pipelines.local import containers, outcome
    from pipelines.local.run import StepError, execute

    # A stopped run must also stop its step.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    image = containers.described() if in_containers else LOCAL
    try:
        done = execute({"image": image, **arguments}, compiled.PACKAGE, in_containers=in_containers)
    except StepError as error:
        found = "".join(f"report: {path}\n" for path in outcome.rescue(error.run))
        sys.stderr.write(f"\nerror: {error}\n{found}")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped; run the same command to resume\n")
        raise SystemExit(130) from None
    print(outcome.summary(done))


def compare(pairs: list[str]) -> None:
    from pipelines import compare as comparison
    from pipelines.local.run import StepError

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        page, failed = comparison.compare(pairs)
    except StepError as error:
        sys.stderr.write(f"\nerror: {error}\n")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped; run the same command to resume\n")
        raise SystemExit(130) from None
    print("".join(f"failed    {line}\n" for line in failed) + f"report    {page}")
    if failed:
        raise SystemExit(1)


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


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("run", help="run on this machine")
    one.add_argument("--dry-run", action="store_true", help="print the configuration and exit")
    one.add_argument("--containers", action="store_true", help="each step in its image")
    two = commands.add_parser("submit", help="run on Kubeflow Pipelines")
    two.add_argument("-e", "--experiment-name", default=EXPERIMENT)
    two.add_argument("-f", "--package-file", type=Path, default=Path("pipelines/stargan.yaml"))
    two.add_argument("-n", "--namespace", default="", help="the profile's, in multi-user mode")
    two.add_argument("--dry-run", action="store_true", help="print the command and exit")
    two.add_argument("-w", "--wait", action="store_true", help="follow the run; 1 if it fails")
    five = commands.add_parser("compare", help="several models under one budget, in one report")
    for sub in (one, two, five):
        sub.add_argument("pairs", nargs="*", metavar="key=value")
    three = commands.add_parser("compile", help="write pipelines/stargan.yaml")
    three.add_argument("-o", "--output", type=Path, default=compiled.PACKAGE)
    four = commands.add_parser("pin-images", help="write the YAML pinned to image digests")
    four.add_argument("--steps", required=True, metavar="NAME@sha256:…")
    four.add_argument("--train", required=True, metavar="NAME@sha256:…")
    four.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args(cli.renamed(argv, {"release": "pin-images"}))
    if args.command == "compile":
        compiled.write(args.output)
    elif args.command == "pin-images":
        compiled.pin(args.steps, args.train, args.output)
    elif args.command == "compare":
        compare(args.pairs)
    elif args.command == "submit":
        arguments = parse(args.pairs, compiled.parameters(args.package_file))
        command = submit_command(args.experiment_name, arguments, args.package_file, args.namespace)
        print(shlex.join(command), flush=True)
        if not args.dry_run:
            run_id = watch.submit(command)
            print(f"run       {run_id}\npage      {watch.link(run_id)}", flush=True)
            raise SystemExit(watch.wait(run_id) if args.wait else 0)
    else:
        known = compiled.parameters()
        arguments = parse(args.pairs, known)
        if args.dry_run:
            print(describe(arguments, known))
        else:
            run(arguments, args.containers)


if __name__ == "__main__":
    cli.entry_point(main)

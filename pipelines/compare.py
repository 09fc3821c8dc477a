"""Train, evaluate and register several models under one budget, and compare them in one report.

python -m pipelines compare models=stargan,attgan,stgan images=2000 seeds=2
python -m pipelines compare models=stgan,stgan:use_stu=false,attgan minutes=3
"""

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

from pipelines import compiled
from pipelines.arguments import LOCAL, parse
from pipelines.local.run import StepError, execute, say
from pipelines.model_specs import ModelSpec, budgeted, parse_specs
from training.core import environment
from training.core.config import Config, to_json
from training.core.files import canonical_json, read_json, sha256_bytes, write_bytes, write_json
from training.core.options import PRESET
from training.evaluation.comparison.page import record, report
from training.evaluation.comparison.runs import ComparedRun
from training.models import MODELS, configure
from training.registry.names import check_model_name, model_name
from training.resolve import check

SMOKE_IMAGES, SMOKE_MINUTES = 2_000, 30.0  # a smaller budget is reported as a smoke test
OWN = ("models", "images", "minutes", "seeds", "preset")  # keys of the comparison itself


def _number(given: dict[str, str], name: str, default: float) -> float:
    try:
        number = float(type(default)(given.get(name, default)))
    except ValueError as error:
        raise ValueError(f"{name}={given[name]}: a number is needed") from error
    if name in given and not 0 < number < float("inf"):
        raise ValueError(f"{name}={given[name]}: more than 0 is needed")
    return number


class Budget(NamedTuple):
    """Training budget of each system; 0 and 0.0 mean the preset's length."""

    images: int
    minutes: float
    seeds: int

    @classmethod
    def read(cls, given: dict[str, str]) -> "Budget":
        """Raises ValueError for a number that is not positive, or both images and minutes."""
        images, minutes, seeds = (
            _number(given, name, default)
            for name, default in (("images", 0), ("minutes", 0.0), ("seeds", 1))
        )
        if images and minutes:
            raise ValueError("images and minutes: a comparison has one budget; give one of them")
        return cls(int(images), minutes, int(seeds))

    def describe(self, preset: str) -> str:
        length = f"the lengths of preset {preset}"
        if self.images:
            length = f"{self.images:,} images each"
        elif self.minutes:
            length = f"{self.minutes:g} minutes of training each"
        return f"{length}, {'one seed' if self.seeds == 1 else f'{self.seeds} seeds'}"

    def smoke(self, preset: str) -> bool:
        few = 0 < self.images < SMOKE_IMAGES or 0 < self.minutes < SMOKE_MINUTES
        return preset == "smoke" or few


def timed(one: ModelSpec, config: Config, minutes: float, root: Path) -> int:
    """Images trained in `minutes`; the rate is measured once, so that a run can be resumed."""
    from training.core.provenance import machine
    from training.engine.throughput import measure_throughput

    conditions = [machine(), to_json(config)]
    file = root / "measure_throughput" / f"{sha256_bytes(canonical_json(conditions))[:16]}.json"
    if not file.is_file():
        say(f"compare: measuring the training throughput of {one.label}")
        write_json(
            file, {"images_per_second": measure_throughput(config), "machine": conditions[0]}
        )
    rate = float(read_json(file)["images_per_second"])
    return max(int(rate * 60 * minutes) // 100 * 100, 10 * config.train.batch)


def planned(given: dict[str, str], root: Path) -> list[tuple[ModelSpec, int, dict[str, Any]]]:
    """(system, seed, the pipeline's arguments) of every run; all are validated before any runs."""
    budget, preset = Budget.read(given), given.get("preset", PRESET)
    known = compiled.parameters()
    shared = {key: value for key, value in given.items() if key not in OWN}
    if "train.images" in shared:
        raise ValueError("train.images: set a comparison's budget as images= or minutes=")
    prefix = shared.pop("name", "compare")
    systems: list[tuple[ModelSpec, dict[str, Any], Config]] = []
    for one in parse_specs(given.get("models", ",".join(MODELS))):
        name = f"{prefix}-{model_name(one.label)}"
        check_model_name(name)
        own = {"model": one.model, "name": name, "experiment": "compare",
               "preset": preset, **shared, **one.settings}  # fmt: skip
        systems.append((one, own, checked(one, own, known)))
    plan = []
    for one, own, config in systems:
        images = budget.images
        if budget.minutes:
            images = timed(one, config, budget.minutes, root)
        whole = {**budgeted(one.model, preset, images), **own}
        for seed in range(budget.seeds):
            pairs = [f"{key}={value}" for key, value in {**whole, "train.seed": seed}.items()]
            plan.append((one, seed, {"image": LOCAL, **parse(pairs, known)}))
    return plan


def checked(one: ModelSpec, own: dict[str, Any], known: dict[str, compiled.Parameter]) -> Config:
    """A system's configuration. Raises ValueError for a seed and for what its run would refuse."""
    given = parse([f"{key}={value}" for key, value in own.items()], known)
    overrides = configure.parse(given.get("overrides", ""))
    config = configure.resolve(one.model, own["preset"], overrides, own.get("datasets", ""))
    if any(configure.locate(config, key) == ("train", "seed") for key in overrides):
        raise ValueError(
            f"{one.label}: train.seed: a comparison trains the seeds 0, 1, …; leave it out, and "
            "give seeds=N for N of them"
        )
    refuse_early(one.label, config, own)
    return config


def refuse_early(label: str, config: Config, given: dict[str, Any]) -> None:
    """Raise ValueError, with the system's label, for what a step of its run would refuse."""
    names = ("raw", "revision", "init", "compare", "name")
    try:
        check(config, *(given.get(name, "") for name in names))
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from error


def read(pairs: list[str]) -> dict[str, str]:
    """The comparison's `key=value` texts. Raises ValueError for another text or a repeated key."""
    given: dict[str, str] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or key in given:
            raise ValueError(f"{pair!r}: {'given twice' if sign else 'key=value is needed'}")
        given[key] = value
    return given


def describe(pairs: list[str]) -> list[str]:
    """A line for each run of the comparison; a budget in minutes is measured. Raises ValueError."""
    return [
        f"{one.label}, seed {seed}: {json.dumps(arguments, sort_keys=True)}"
        for one, seed, arguments in planned(read(pairs), environment.runs().resolve())
    ]


def compare(pairs: list[str], root: Path | None = None) -> tuple[Path, list[str]]:
    """Run the whole pipeline for every system and seed; returns the report and the failures.

    `pairs` are `key=value`: models (see `parse_specs`; default: all), images or minutes (of
    training, for each system; default: the preset's length), seeds (1), preset (demo), and any
    parameter of the pipeline or field of the preset. Finished steps are reused from the cache, so
    that the same command resumes. Failed systems are listed in the report; raises StepError if all
    fail.
    """
    given = read(pairs)
    runs = root or environment.runs().resolve()
    preset, budget = given.get("preset", PRESET), Budget.read(given)
    entries: list[ComparedRun] = []
    failed: list[str] = []
    last: StepError | None = None
    for one, seed, arguments in planned(given, runs):
        say(f"\ncompare: {one.label}, seed {seed}")
        try:
            done = execute(arguments, compiled.fitting(arguments), root)
        except StepError as error:
            failed.append(f"{one.label}, seed {seed}: {error}")
            say(f"compare: {failed[-1]}")
            last = error
            continue
        files = (done.file(step, "out") for step in ("train", "evaluate", "unify-labels"))
        entries.append(ComparedRun.read(one.label, *files))
    if last and not entries:
        raise last
    remark = (
        f"A smoke test: {budget.describe(preset)}. "
        "It shows that every model runs, not which is better."
        if budget.smoke(preset)
        else ""
    )
    out = runs / "report" / f"compare-{time.strftime('%Y%m%d-%H%M%S')}.html"
    labels = dict.fromkeys(entry.name for entry in entries)
    title = f"{', '.join(labels)}: {budget.describe(preset)}"
    write_bytes(out, report(entries, title, remark, failed).encode())
    record(entries, out, {"budget": budget.describe(preset), "preset": preset})
    return out, failed

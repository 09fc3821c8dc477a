"""What a search does, read from its command line and checked before anything runs."""

import dataclasses
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import Field

from pipelines import compiled
from pipelines.arguments import LOCAL, parse
from pipelines.model_specs import budgeted
from pipelines.search import space as spaces
from pipelines.search.space import Space
from training.core.config import Config, Natural, Positive, build, to_json
from training.core.files import canonical_json, sha256_bytes
from training.core.options import MODEL, PRESET
from training.models import configure
from training.resolve import check

# Parameters of the pipeline that a search takes; the others are of a cluster or of the registry.
PARAMETERS = ("model", "preset", "datasets", "raw", "revision", "init", "overrides")
NO_PRUNING = "none"


@dataclass(frozen=True)
class Own:
    """The keys of the search itself."""

    trials: Positive = 20  # finished ones: complete and pruned
    jobs: Annotated[int, Field(ge=1, le=256)] = 1  # trainings at the same time
    seeds: Annotated[int, Field(ge=1, le=100)] = 1  # trainings of each trial
    images: Natural = 0  # length of each training; 0: the preset's
    prune: str = ""  # images after which a trial is judged; none; empty: 1/4 and 1/2 of the length
    sampler_seed: Natural = 0


@dataclass(frozen=True)
class Plan:
    """A checked search.

    `fixed` are the settings and parameters of every trial, as text, with `init` pinned.
    """

    own: Own
    config: Config
    fixed: Mapping[str, str]
    space: Space
    rungs: tuple[int, ...]

    @classmethod
    def read(cls, pairs: list[str], *, needs_space: bool = True) -> "Plan":
        """Raises ValueError for what a trial would refuse, and for a wrong space."""
        own_names = [f.name for f in dataclasses.fields(Own)]
        entries: list[str] = []
        given: dict[str, str] = {}
        plain = [pair for pair in pairs if not pair.startswith("space=")]
        first = dict(pair.partition("=")[::2] for pair in plain)
        known = configure.find(first.get("model", MODEL), first.get("preset", PRESET))
        for pair in pairs:
            key, sign, value = pair.partition("=")
            if not sign:
                raise ValueError(f"{pair!r}: key=value is needed")
            if key == "space":
                entries += filter(None, (one.strip() for one in value.split(";")))
            elif key not in own_names and spaces.is_entry(known, pair):
                entries.append(pair)
            elif key in given:
                raise ValueError(f"{key} is given twice")
            else:
                given[key] = value
        if needs_space and not entries:
            raise ValueError(
                'space: nothing to search; give settings with a range, "lambda_rec=1..20 log", or '
                f"with values; settings: {', '.join(spaces.names(known))}"
            )
        own = build(Own, {name: given.pop(name) for name in own_names if name in given}, "search.")
        return cls._checked(own, given, entries)

    @classmethod
    def _checked(cls, own: Own, given: dict[str, str], entries: list[str]) -> "Plan":
        parameters = compiled.parameters()
        if others := [key for key in given if key in parameters and key not in PARAMETERS]:
            raise ValueError(
                f"{', '.join(others)}: not a parameter of a search, which registers nothing and "
                f"trains on this machine; parameters: {', '.join(PARAMETERS)}"
            )
        model, preset = given.get("model", MODEL), given.get("preset", PRESET)
        whole = {**budgeted(model, preset, own.images), **given}
        parse([f"{key}={value}" for key, value in whole.items()], parameters)
        settings = {key: value for key, value in whole.items() if key not in parameters}
        settings = {**configure.parse(whole.get("overrides", "")), **settings}
        for key, value in settings.items():
            if _is(model, preset, key, ("train", "images")) and key in given:
                raise ValueError("train.images: set the length of a search as images=")
            if _is(model, preset, key, ("eval", "eval_split")) and value != "val":
                raise ValueError("eval.eval_split: a search never sees the test split; leave it")
        config = configure.resolve(model, preset, settings, whole.get("datasets", ""))
        found = check(config, *(whole.get(name, "") for name in ("raw", "revision", "init")))
        if found.init:  # an alias may move while the search goes on
            whole["init"] = found.init
        space = spaces.parse(config, settings, entries)
        return cls(own, config, whole, space, _rungs(own.prune, config))

    @property
    def key(self) -> str:
        """Names the search: the same for more trials or other jobs, which go on with it."""
        what = [
            sorted(self.fixed.items()), {k: str(d) for k, d in self.space.items()}, self.rungs,
            self.own.seeds, self.own.sampler_seed,
        ]  # fmt: skip
        return f"{self.config.name}-{sha256_bytes(canonical_json(what))[:12]}"

    @property
    def arguments(self) -> dict[str, Any]:
        """The pipeline's arguments for the data and the judge, which all trials share."""
        pairs = [f"{key}={value}" for key, value in self.fixed.items()]
        return {"image": LOCAL, **parse(pairs, compiled.parameters())}

    def settings(self, params: Mapping[str, Any]) -> Config:
        """The configuration of a trial, which scores the validation split.

        Raises ValueError for values that contradict each other.
        """
        parameters = compiled.parameters()
        fixed = {key: value for key, value in self.fixed.items() if key not in parameters}
        overrides = {
            **configure.parse(self.fixed.get("overrides", "")), **fixed, **spaces.written(params)
        }  # fmt: skip
        config = configure.resolve(
            self.config.name, self.config.preset, overrides, self.fixed.get("datasets", "")
        )
        return replace(config, eval=replace(config.eval, eval_split="val"))

    def command(self, params: Mapping[str, Any]) -> str:
        """The command line of a pipeline run with a trial's values."""
        given = {key: value for key, value in self.fixed.items() if value}
        values = {"model": self.config.name, "preset": self.config.preset, **given}
        words = [f"{key}={value}" for key, value in {**values, **spaces.written(params)}.items()]
        return shlex.join(["python", "-m", "pipelines", "run", *words])

    def describe(self) -> list[str]:
        """The search in lines, for --dry-run."""
        lines = [f"search    {self.key}: {self.own.trials} trials, {self.own.seeds} seeds each, "
                 f"{self.own.jobs} at the same time"]  # fmt: skip
        lines += [f"space     {key}={spaces.shown(one)}" for key, one in self.space.items()]
        lines.append(f"length    {self.config.train.images:,} images; judged after "
                     f"{', '.join(f'{n:,}' for n in self.rungs) or 'the last only'}")  # fmt: skip
        point = spaces.preset_point(self.config, self.space)
        lines.append("first     " + (
            " ".join(f"{k}={v}" for k, v in spaces.written(point).items()) + ", the preset's"
            if point else "drawn; the preset's values are outside of the space"))  # fmt: skip
        return lines


def _is(model: str, preset: str, key: str, place: tuple[str, str]) -> bool:
    return configure.locate(configure.find(model, preset), key) == place


def _rungs(text: str, config: Config) -> tuple[int, ...]:
    """Image counts, rising and below the length, after which a trial is judged."""
    length = config.train.images
    if text == NO_PRUNING:
        return ()
    if not text:
        found = [length // 4, length // 2]
        return tuple(n for n in found if n >= config.train.batch)
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(f"prune={text}: numbers of images, 1000,2000, or none") from error
    if sorted({*found}) != found or found[0] <= 0 or found[-1] >= length:
        raise ValueError(
            f"prune={text}: rising numbers of images below the length of {length} are needed"
        )
    return tuple(found)


def config_texts(config: Config) -> dict[str, str]:
    """The sections that a trial's programs read, as JSON texts."""
    return {
        "model_config": to_json(config.model),
        "train_config": to_json(config.train),
        "eval_config": to_json(config.eval),
    }

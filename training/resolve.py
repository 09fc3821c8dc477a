"""Step 1: resolve names to hashes and configurations. Never cached: later steps' keys need them.

    python -m training.resolve --preset demo

No remote is contacted, so that a run starts at once.
"""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, NamedTuple

from training.core import cli
from training.core.cli import means
from training.core.config import Config, to_json
from training.core.environment import runs
from training.core.files import canonical_json, sha256_bytes, write_json
from training.core.options import MODEL, PRESET
from training.core.provenance import code_hash, git_state, lock_hash
from training.data.versions import data_version, split_datasets
from training.evaluation.protocol import JUDGE_RECIPE
from training.models import configure
from training.registry.names import check_model_name
from training.registry.references import pin

main = cli.program("python -m training.resolve", __doc__)
OUT = runs("resolved.json")


class Resolved(NamedTuple):
    """The resolved inputs of a run, parameters of the later steps. `*_config` are JSON texts."""

    data_md5: str  # `<32 hex>.dir`; with several sources `name=<32 hex>.dir,…`
    revision: str  # source of data_md5: a git commit, .dvc files, an md5 or "folder"
    code_hash: str
    data_config: str
    judge_config: str
    train_config: str
    model_config: str
    eval_config: str
    judge_hash: str  # names the judge before it exists
    datasets: str  # name:kind, comma-separated
    init: str  # pinned: an alias as its current version, a path with its digest
    compare: str  # likewise
    name: str  # of the registered model


def judge_hash(config: Config, data_md5: str) -> str:
    """The judge's key: hex SHA-256 of its recipe, settings, data version and data configuration."""
    settings = [asdict(config.judge), asdict(config.data)]
    return sha256_bytes(canonical_json([JUDGE_RECIPE, settings, data_md5]))


@main.default
def resolve(
    *,
    datasets: Annotated[str, means("name or name:kind, comma-separated; empty: the preset's")] = "",
    raw: Annotated[str, means("folder with your own data instead of DVC's")] = "",
    revision: Annotated[str, means("git revision or data md5; empty: the current .dvc files")] = "",
    model: Annotated[str, means("model to train")] = MODEL,
    preset: Annotated[str, means("the model's named configuration")] = PRESET,
    overrides: Annotated[str, means("key=value;key=value")] = "",
    out: Annotated[Path, means("JSON to write")] = OUT,
    init: Annotated[str, cli.INTERNAL] = "",
    compare: Annotated[str, cli.INTERNAL] = "",
    name: Annotated[str, cli.INTERNAL] = "",
) -> Resolved:
    """Resolve a run's inputs and write them with the git state.

    `raw` has one subfolder per data set, or, for one data set, is the folder itself. `init` is the
    model that training starts from, `compare` the one that evaluation compares with: a manifest,
    NAME/VERSION or NAME@ALIAS. `name` is the registered model ("" = `model`). Raises ValueError for
    unknown names and for a `name` that the registry does not accept, and RemoteError
    "unknown-revision".
    """
    check_model_name(name or model)
    config = configure.resolve(model, preset, configure.parse(overrides), datasets)
    data_md5, source, kinds = data_version(split_datasets(config.data.datasets), raw, revision)
    resolved = Resolved(
        data_md5, source, code_hash(), to_json(config.data), to_json(config.judge),
        to_json(config.train), to_json(config.model), to_json(config.eval),
        judge_hash(config, data_md5), ",".join(kinds), pin(init), pin(compare), name or model,
    )  # fmt: skip
    commit, dirty = git_state()
    facts = {"model": model, "preset": preset, "commit": commit, "dirty": dirty}
    write_json(out, {**resolved._asdict(), **facts, "lock_hash": lock_hash()})
    sys.stdout.write(f"resolve: data {data_md5} ({source}), code {resolved.code_hash[:12]}\n")
    return resolved


if __name__ == "__main__":
    cli.entry_point(main)

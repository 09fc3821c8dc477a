"""Step 1: turn names into hashes and configurations. Never cached, so the cached steps see data.

    python -m training.resolve --preset demo

Nothing heavy is imported and no remote is asked, so that a run starts at once.
"""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from training.core import cli
from training.core.config import Config, to_json
from training.core.environment import runs
from training.core.files import canonical_json, sha256_bytes, write_json
from training.core.options import MODEL, PRESET
from training.core.provenance import code_hash, git_state, lock_hash
from training.data.versions import data_version, split_datasets
from training.evaluation.protocol import JUDGE_RECIPE
from training.models import presets
from training.registry.references import pin


class Resolved(NamedTuple):
    """What a run is about; the steps take these as parameters. `*_config` are JSON texts."""

    data_md5: str  # `<32 hex>.dir`; of several sources `name=<32 hex>.dir,…`
    revision: str  # git commit, .dvc files, md5 or "folder": where data_md5 was read
    code_hash: str
    data_config: str
    judge_config: str
    train_config: str
    model_config: str
    eval_config: str
    judge_hash: str  # names the judge before it exists
    datasets: str  # name:kind, comma-separated
    init: str  # as asked for, pinned: an alias by its version of now, a path by its digest
    compare: str  # likewise
    name: str  # of the registered model


def judge_hash(config: Config, data_md5: str) -> str:
    """Which judge a run asks for: hex sha256 of its recipe, settings, data and their cut."""
    settings = [asdict(config.judge), asdict(config.data)]
    return sha256_bytes(canonical_json([JUDGE_RECIPE, settings, data_md5]))


def resolve(
    datasets: str,
    raw: str,
    revision: str,
    model: str,
    preset: str,
    overrides: str,
    out: Path,
    *,
    init: str = "",
    compare: str = "",
    name: str = "",
) -> Resolved:
    """Fix what a run is about, and write it with the git state to the JSON file `out`.

    `datasets` are comma-separated `name` or `name:kind` ("" = the preset's). `raw` is the user's
    own folder: a folder a data set, or, for one data set, the folder itself ("" = DVC's data).
    `revision` is a git revision, an md5, or "" for the `.dvc` files at hand. `overrides` are
    `key=value;key=value`. `init` and `compare` are models that training starts from and that
    evaluation sets beside the new one: a manifest, NAME/VERSION or NAME@ALIAS. `name` is what the
    registry calls the new one ("" = `model`). Raises ValueError for unknown names and for a `name`
    that no registry takes, and RemoteError "unknown-revision".
    """
    if found := set("/:@") & set(name):
        what = " ".join(sorted(found))
        raise ValueError(f"name={name}: {what} cannot be in a registered name; write - instead")
    config = presets.resolve(model, preset, presets.parse(overrides), datasets)
    data_md5, where, kinds = data_version(split_datasets(config.data.datasets), raw, revision)
    resolved = Resolved(
        data_md5, where, code_hash(), to_json(config.data), to_json(config.judge),
        to_json(config.train), to_json(config.model), to_json(config.eval),
        judge_hash(config, data_md5), ",".join(kinds), pin(init), pin(compare), name or model,
    )  # fmt: skip
    commit, dirty = git_state()
    facts = {"model": model, "preset": preset, "commit": commit, "dirty": dirty}
    write_json(out, {**resolved._asdict(), **facts, "lock_hash": lock_hash()})
    sys.stdout.write(f"resolve: data {data_md5} ({where}), code {resolved.code_hash[:12]}\n")
    return resolved


def main(argv: list[str] | None = None) -> None:
    """Write what a run resolves to."""
    parser = argparse.ArgumentParser(prog="python -m training.resolve", description=main.__doc__)
    parser.add_argument("--datasets", default="", help="name or name:kind, comma-separated")
    parser.add_argument("--raw", default="", help="the user's own folder instead of DVC's data")
    parser.add_argument("--revision", default="", help="git revision or data md5")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--preset", default=PRESET)
    parser.add_argument("--overrides", default="", help="key=value;key=value")
    parser.add_argument("--out", type=Path, default=runs("resolved.json"))
    args = parser.parse_args(argv)
    resolve(
        args.datasets, args.raw, args.revision, args.model, args.preset, args.overrides, args.out
    )


if __name__ == "__main__":
    cli.entry_point(main)

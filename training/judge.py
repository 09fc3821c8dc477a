"""The frozen judges: per data set a ResNet-18 that says what a face shows, and a small VGG.

Trained once a data version, on the train split alone, with a seed no GAN uses; kept in the store
under the judge's hash, and never trained again while that stands. The ResNet-18 measures edit
success and preservation; the VGG (another architecture, so that nothing is graded by the network
whose weakness it might share) gives Fréchet features and the identity embedding.

python -m training.judge DATASET --out judge.json
"""

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from training.core import cli
from training.core.config import JudgeConfig, from_json
from training.core.files import canonical_json, read_json, sha256_bytes, write_bytes
from training.data.dataset import Faces
from training.evaluation.judges.judge import require
from training.evaluation.judges.training import train
from training.evaluation.protocol import JUDGE_RECIPE
from training.storage.meta import JudgeMeta
from training.storage.store import Entry, Manifest, Store, StoreError, open_store


def _standing(name: str, store: Store) -> tuple[Entry, bytes | None] | None:
    """The manifest that a judge's reference names; its bytes are None where they are lost."""
    value = store.reference(f"judges/{name}")
    if value is None:
        return None
    entry = Entry.parse("manifest.json", value)
    try:
        return entry, store.local(entry).read_bytes()
    except StoreError:
        return entry, None


def judge(
    dataset: Path, judge_config: str, judge_hash: str, out: Path, store: Store | None = None
) -> Manifest[JudgeMeta]:
    """Train the judges of a data set, or return those that stand under `judge_hash`.

    dataset: manifest of kind "dataset"; judge_config: JSON of JudgeConfig, "" for its defaults;
    out: where the manifest of kind "judge" is written. Judges whose bytes were lost are trained
    again and accepted only if the same bytes come out, since every older score rests on them
    (ValueError otherwise). Judges below their floor are kept, and refused with a ValueError before
    anybody trains for days.
    """
    store, config = store or open_store(), from_json(JudgeConfig, judge_config)
    source = Manifest.read(dataset, "dataset")
    name = judge_hash or sha256_bytes(canonical_json([JUDGE_RECIPE, asdict(config), source.digest]))
    standing = _standing(name, store)
    if standing and standing[1] is not None:
        write_bytes(out, standing[1])
        manifest = Manifest.read(out, "judge")
        if manifest.intact(store):
            sys.stdout.write(f"judge {name[:12]} stands; nothing is trained\n")
            return _good(manifest, store)
    made = _make(source, config, store)
    made.write(out, store)
    entry = store.put(out, "manifest.json")
    if store.refer(f"judges/{name}", entry.reference) == entry.reference:
        return _good(made, store)
    if standing:
        out.unlink()
        raise ValueError(
            f"judge {name}: its stored bytes are lost and training gave others (another machine or "
            f"thread count); restore them, or delete the store's refs/judges/{name} to begin anew"
        )
    return judge(dataset, judge_config, judge_hash, out, store)  # another process came first


def _good(made: Manifest[JudgeMeta], store: Store) -> Manifest[JudgeMeta]:
    require(read_json(made.local("judge.json", store)))
    return made


def _make(source: Manifest, config: JudgeConfig, store: Store) -> Manifest[JudgeMeta]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    faces, test = Faces.open(source, "train", store), Faces.open(source, "test", store)
    facts: dict[str, Any] = {
        "recipe": JUDGE_RECIPE,
        "config": asdict(config),
        "trained_on": {"dataset": source.digest, "split": "train", "digest": faces.digest},
        "architectures": {"first": "resnet18", "second": "vgg"},
        "space": faces.space.to_json(),
        "size": faces.size,
        "datasets": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for i, labels in enumerate(faces.space.sets):
            first, second, fact = train(i, faces, test, config, device)
            facts["datasets"].append(fact)
            for kind, net in (("resnet18", first), ("second", second)):
                name = f"{labels.name}-{kind}.safetensors"
                files[name] = Path(folder) / name
                save_file(
                    {k: v.cpu().contiguous() for k, v in net.state_dict().items()}, files[name]
                )
        files["judge.json"] = Path(folder) / "judge.json"
        files["judge.json"].write_bytes(canonical_json(facts))
        meta = JudgeMeta(
            recipe=JUDGE_RECIPE,
            dataset=source.digest,
            accuracy={f["name"]: f["accuracy"] for f in facts["datasets"]},
        )
        return Manifest.build("judge", files, meta, store=store)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("dataset", type=Path, help="manifest of kind dataset")
    parser.add_argument("--config", default="", help="JudgeConfig as JSON; empty: its defaults")
    parser.add_argument("--hash", default="", help="name under which these judges are frozen")
    parser.add_argument("--out", type=Path, required=True, help="the manifest to write")
    args = parser.parse_args(argv)
    manifest = judge(args.dataset, args.config, args.hash, args.out)
    sys.stdout.write(json.dumps(manifest.meta.accuracy) + "\n")


if __name__ == "__main__":
    cli.entry_point(main)

"""The records of manifests: JSON and digests of older manifests, and clear errors."""

import json
from pathlib import Path
from typing import Any

import pytest

from training.core.files import canonical_json, sha256_bytes, write_json
from training.storage.meta import KINDS, RawMeta, RawSet, meta_of
from training.storage.store import Entry, Manifest

RAW = [{"name": "celeba", "kind": "celeba"}]
CUT = [
    {
        "name": "celeba", "kind": "celeba", "split_by": "official", "images": 3, "kept": 2,
        "splits": {"train": 1, "val": 0, "test": 1}, "dropped": {"unreadable": 1},
    }
]  # fmt: skip
IMAGES = {"data": {"size": 64, "shift": [0, 0]}, "source": "a" * 64, "datasets": CUT, "md5": "m"}
# Metas as the steps wrote them when they were dictionaries, and the digests of such manifests.
WRITTEN: list[tuple[str, dict[str, Any], str]] = [
    (
        "raw",
        {"datasets": RAW, "md5": "m", "nfiles": 3, "source": "dvc", "note": ""},
        "f96208f5e63fa1fa6b19aa0b2d81d727ac67ee1b193b942d8e07c9e983c9e3ca",
    ),
    ("images", IMAGES, "d0409894ee0359dc9495226189d21d4181b4f0b19560a77401c7eb9007e98d74"),
    (
        "images",
        {k: v for k, v in IMAGES.items() if k != "md5"},
        "9d9b18c1423c0bfdaebcac4944611183f04b663bec9396d90f0442c67c3c3196",
    ),
    (
        "dataset",
        {**IMAGES, "images": "b" * 64, "dim_g": 5},
        "b4cf43f852f573bcd6cd414569922d8a5d2055eba045947eb1cdb0cc67e1767f",
    ),
    (
        "judge",
        {"recipe": "2", "dataset": "c", "accuracy": {"celeba": 1.0}},
        "e2a2326e227424affffda57a1d309c500ec69e97414a073f9e644d194d1091ba",
    ),
    (
        "model",
        {
            "model": "stargan",
            "preset": "demo",
            "seed": 3,
            "images": 9,
            "dataset": "c",
            "mlflow_run": "",
        },
        "0fac39add9c3061fb33392fcaec620a85246968855320c6ddca760b39020cdf3",
    ),
    (
        "evaluation",
        {"identity": "i", "judge": "j", "dataset": "c", "model": "m"},
        "2274c3774556f84b650252a4c4b0e427fde737a421617927bc9735874ac4f9c7",
    ),
    (
        "evaluation",
        {"identity": "i", "judge": "j", "dataset": "c", "split": "val", "model": "m"},
        "3b6c6c8d1f32488a09dd50743f1d2cda307b9750f2678888a5c06671cbf14b03",
    ),
    (
        "replicates",
        {"seeds": [3, 4]},
        "ccbc9ebb61ccf97d48f1ff7f960edaeed6f946832007cc0da71e155c58ff4cd4",
    ),
]
ENTRY = Entry("G", "0" * 64, 7, 2)


@pytest.mark.parametrize(("kind", "values", "digest"), WRITTEN)
def test_an_older_manifest_reads_as_a_record_with_the_same_digest_and_text(
    kind: str, values: dict[str, Any], digest: str, tmp_path: Path
) -> None:
    content = {"schema": 1, "kind": kind, "entries": [vars(ENTRY)], "meta": values}
    assert sha256_bytes(canonical_json(content)) == digest
    write_json(tmp_path / "m.json", {**content, "about": {}, "digest": digest})
    found = Manifest.read(tmp_path / "m.json")
    assert type(found.meta) is KINDS[kind]
    assert found.digest == digest
    assert json.dumps(found.meta.to_json()) == json.dumps(values)


def test_every_kind_is_among_the_older_ones() -> None:
    assert {kind for kind, *_ in WRITTEN} == set(KINDS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sead": 1}, "'model': 1 wrong fields of its meta .sead: Unexpected"),
        ({"seed": "1"}, "seed: Input should be a valid integer"),
        ({"images": True}, "images: Input should be a valid integer"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Unknown or ill-typed, when a manifest is built and when it is read."""
    values = next(v for kind, v, _ in WRITTEN if kind == "model") | change
    with pytest.raises(ValueError, match=message):
        Manifest("model", (), values)
    content = {"schema": 1, "kind": "model", "entries": [], "meta": values, "about": {}}
    write_json(tmp_path / "m.json", {**content, "digest": ""})
    with pytest.raises(ValueError, match=rf"m\.json: .*{message}"):
        Manifest.read(tmp_path / "m.json")


def test_missing_fields_are_named_and_counted() -> None:
    with pytest.raises(ValueError, match=r"2 wrong .*preset: Field required; .*mlflow_run: "):
        meta_of("model", {"model": "stargan", "seed": 0, "images": 0, "dataset": ""})


def test_a_nested_fault_is_reported_with_its_path() -> None:
    with pytest.raises(ValueError, match=r"datasets\.0\.kind: Field required"):
        meta_of("raw", WRITTEN[0][1] | {"datasets": [{"name": "celeba"}]})


def test_a_record_of_another_kind_is_refused() -> None:
    meta = RawMeta(datasets=(RawSet(name="a", kind="csv"),), md5="", nfiles=0, source="", note="")
    with pytest.raises(ValueError, match="kind 'model': a RawMeta was given"):
        Manifest("model", (), meta)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown kind 'pictures'; known: raw, images"):
        Manifest("pictures", (), {})

"""What was made fast for large sets gives what the plain form gave."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.core.files import canonical_json, sha256_bytes
from training.data import dataset, tables
from training.data.columns import VALUES
from training.data.dataset import Faces
from training.data.layouts import visible
from training.data.order import Order, generator
from training.data.sources import _signed
from training.storage.store import Entry, Manifest


@pytest.mark.parametrize("piece", [1, 7, 10_000])
def test_the_digest_is_that_of_the_canonical_json(
    joint: Path, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "PIECE", piece)
    faces = Faces.open(joint, "train")
    content = [[p.name, p.digests, p.identity, p.labels.tolist()] for p in faces.parts]
    whole = canonical_json([faces.split, faces.size, faces.space.to_json(), content])
    assert faces.digest == sha256_bytes(whole)


def test_an_opened_part_is_the_tables_rows(joint: Path) -> None:
    """Every column, and the pixels at each row's place."""
    manifest = Manifest.read(joint, "dataset")
    table = pd.read_parquet(manifest.local("labels.parquet"))
    for part in Faces.open(manifest, "train").parts:
        rows = table[(table["dataset"] == part.name) & (table["split"] == "train")]
        assert part.labels.dtype == torch.float32
        assert part.labels.tolist() == np.stack(list(rows["label"])).astype(np.float32).tolist()
        for name, found in (
            ("identity", part.identity), ("file", part.files), ("sha256", part.digests),
        ):  # fmt: skip
            assert found == list(rows[name])
        images = [
            np.load(manifest.local(s))[r] for s, r in zip(rows["shard"], rows["row"], strict=True)
        ]
        order = torch.randperm(len(part))
        assert torch.equal(part.images(order), torch.from_numpy(np.stack(images))[order])


def test_rows_of_classes_are_those_of_a_scan_for_each_batch(classes: Path) -> None:
    faces = Faces.open(classes, "train")
    order = Order(faces, 3, 8, flip=False, length=100, references=2)
    labels = faces.parts[0].labels.argmax(1)
    for drawn in range(0, 80, 8):
        stream = generator(3, "source", 0, drawn)
        members = [(labels == c).nonzero()[:, 0] for c in labels.unique()]
        drawn_classes = torch.randint(len(members), (8,), generator=stream)
        uniform = torch.rand((8, 2), generator=stream)
        expected = [
            members[c][(u * len(members[c])).long()]
            for c, u in zip(drawn_classes, uniform, strict=True)
        ]
        assert torch.equal(order.balanced(0, drawn, "source", 2), torch.stack(expected))


def test_a_masks_rows_are_its_own_whatever_was_asked_before(
    binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.data.order.MASKS", 3)
    faces = Faces.open(binary, "train")
    order = Order(faces, 0, 4, flip=False, length=10)
    masks = [torch.arange(len(faces.parts[0])) % n == 0 for n in range(1, 8)]
    for mask in [*masks, *reversed(masks), *(mask.clone() for mask in masks)]:
        assert torch.equal(order._rows_of(mask), mask.nonzero()[:, 0])
    assert len(order._members) <= 3


@settings(max_examples=200)
@given(st.lists(st.sampled_from([*VALUES]), min_size=1, max_size=20), st.booleans())
def test_binary_texts_become_minus_one_and_one(texts: list[str], categorical: bool) -> None:
    column = pd.Series(texts, dtype=pd.CategoricalDtype(["word", *VALUES]) if categorical else None)
    assert _signed(column).tolist() == [1 if float(text) == 1 else -1 for text in texts]
    assert _signed(column).dtype == np.int8


NAMES = st.lists(
    st.sampled_from(["a", ".b", "c.d", "__MACOSX", "x__MACOSX", "..", "é"]), min_size=1
)


@settings(max_examples=200)
@given(st.lists(NAMES, max_size=6))
def test_hidden_files_are_those_with_a_hidden_part(paths: list[list[str]]) -> None:
    names = ["/".join(parts) for parts in paths]
    kept = [not any(part.startswith((".", "__MACOSX")) for part in parts) for parts in paths]
    assert visible(names) == list(itertools.compress(names, kept))


@settings(max_examples=300)
@given(st.text(alphabet="a,; \t\r\n\x0b\x1c\u2028", max_size=12))
def test_the_first_line_is_that_of_all_lines(text: str) -> None:
    first = next((line for line in text.splitlines() if line.strip()), "")
    assert tables._first_line(text) == first.lstrip()


def test_a_manifest_finds_the_first_entry_of_a_name() -> None:
    meta = {"seeds": []}
    entries = [Entry(name, letter * 64, 1) for name, letter in (("a", "0"), ("b", "1"), ("a", "2"))]
    manifest = Manifest("replicates", tuple(entries), meta)  # type: ignore[arg-type]
    assert [manifest.entry(name) for name in ("a", "b")] == entries[:2]
    with pytest.raises(ValueError, match="lists no 'c'"):
        manifest.entry("c")

"""Raw data is checked by named rules: each critical fault is found by exactly one of them."""

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from steps import Memory
from training.core.config import DataConfig, to_json
from training.data.archive import Folder, pack
from training.data.layouts import ATTRIBUTES, EXPRESSIONS, RAFD_NAME, read_layout
from training.data.openface import UNITS
from training.data.validate import ValidationError, validate
from training.data.validation.frames import frames
from training.data.validation.images import image_facts
from training.data.validation.rules import rules
from training.data.validation.runner import Outcome, check
from training.storage.meta import RawMeta, RawSet
from training.storage.store import Manifest, Store, open_store

# Great Expectations imports modules that Python has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning")

Files = dict[str, bytes]
NAMES = ATTRIBUTES[:4] + DataConfig().attributes  # under 40: each costs Great Expectations time
SEEDS = np.random.RandomState(0)


def picture(width: int = 178, height: int = 218, mode: str = "RGB", form: str = "JPEG") -> bytes:
    """A unique picture: a few random squares enlarged."""
    small = Image.fromarray(SEEDS.randint(0, 255, (4, 4, 3), np.uint8))
    out = io.BytesIO()
    small.resize((width, height), Image.Resampling.NEAREST).convert(mode).save(out, form)
    return out.getvalue()


def celeba(count: int = 6) -> Files:
    names = [f"{i:06d}.jpg" for i in range(1, count + 1)]
    labels = [f"{n} " + " ".join("1" if (i + j) % 2 else "-1" for j in range(len(NAMES)))
              for i, n in enumerate(names)]  # fmt: skip
    files = {f"img_align_celeba/{name}": picture() for name in names}
    files["list_attr_celeba.txt"] = text([str(count), " ".join(NAMES) + " ", *labels])
    files["list_eval_partition.txt"] = text([f"{n} {i % 3}" for i, n in enumerate(names)])
    files["identity_CelebA.txt"] = text([f"{n} {50 + i}" for i, n in enumerate(names)])
    return files


def faces() -> Files:
    """CelebA with action units."""
    files = celeba()
    return {**files, "openface.csv": openface([n[-10:] for n in files if n.endswith(".jpg")])}


def text(lines: list[str], end: str = "\r\n") -> bytes:
    return "".join(line + end for line in lines).encode()


def openface(names: list[str]) -> bytes:
    head = "frame, confidence, success, " + ", ".join(f"{u}_r" for u in UNITS) + ", file"
    values = ", ".join(["2.00"] * len(UNITS))
    return text([head, *(f"1, 0.98, 1, {values}, {name}" for name in names)], "\n")


def rafd() -> Files:
    names = [
        f"Rafd{camera}_{person}_Caucasian_female_{expression}_frontal.jpg"
        for camera in ("045", "090", "135")
        for person in ("01", "02")
        for expression in EXPRESSIONS[:2]
    ]
    return {name: picture(68, 102) for name in names}


def folders() -> Files:
    return {f"{kind}/{i}.jpg": picture(130, 130) for kind in ("cat", "dog") for i in range(2)}


def own() -> Files:
    files = {f"img/{i}.png": picture(130, 140, form="PNG") for i in range(4)}
    rows = [f"{name},{i % 2},{1 - i % 2}" for i, name in enumerate(sorted(files))]
    return {**files, "labels.csv": text(["file,smile,hat", *rows], "\n")}


def words() -> Files:
    """A CSV with one class for each picture."""
    files = own()
    rows = [f"{n},{('happy', 'sad')[i % 2]}" for i, n in enumerate(sorted(files)[:-1])]
    return {**files, "labels.csv": text(["file,mood", *rows], "\n")}


MAKE = {"celeba": celeba, "faces": faces, "rafd": rafd, "folders": folders, "csv": own,
        "words": words}  # fmt: skip
KINDS = {"faces": "celeba", "words": "csv"}  # the others are their own
CONFIG = {
    "words": DataConfig(attributes=("mood",)),
    "csv": DataConfig(attributes=("smile", "hat")),
    "faces": DataConfig(attributes=UNITS),
}
LABELS = "list_attr_celeba.txt"
FIRST = "img_align_celeba/000001.jpg"


def validated(kind: str, files: Files, without: tuple[str, ...] = ()) -> Outcome:
    config = CONFIG.get(kind, DataConfig())
    return check("set", KINDS.get(kind, kind), Memory(files), config, without=without, workers=1)


def edit(name: str, old: str, new: str, count: int = 1) -> Callable[[Files], None]:
    def change(files: Files) -> None:
        data = files[name].decode()
        assert old in data
        files[name] = data.replace(old, new, count).encode()

    return change


def put(name: str, data: bytes) -> Callable[[Files], None]:
    def change(files: Files) -> None:
        files[name] = data

    return change


def drop(name: str) -> Callable[[Files], None]:
    def change(files: Files) -> None:
        del files[name]

    return change


def rename(old: str, new: str) -> Callable[[Files], None]:
    def change(files: Files) -> None:
        files[new] = files.pop(old)

    return change


def bedrooms(files: Files) -> None:
    for name in files:
        if name.endswith(".jpg"):
            files[name] = picture(680, 512)


def truncate(files: Files) -> None:
    files[FIRST] = files[FIRST][: len(files[FIRST]) * 2 // 3]


def bomb() -> bytes:
    """A few bytes that claim to be 30,000 x 36,742 px."""
    data = bytearray(picture(form="PNG"))
    data[16:24] = (30_000).to_bytes(4, "big") + (36_742).to_bytes(4, "big")
    import zlib

    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def same_person(files: Files) -> None:
    edit("identity_CelebA.txt", "000002.jpg 51", "000002.jpg 50")(files)


def one_class(files: Files) -> None:
    for name in [n for n in files if n.startswith("dog")]:
        files[f"cat/more-{name[4:]}"] = files.pop(name)


def same_picture(files: Files) -> None:
    files["dog/0.jpg"] = files["cat/0.jpg"]


def no_units(files: Files) -> None:
    files["openface.csv"] = files["openface.csv"].partition(b"\n")[0] + b"\n"


def twice(files: Files) -> None:
    """Replace the second row by a copy of the first, and remove the second image."""
    del files["img_align_celeba/000002.jpg"]
    edit(LABELS, "000002.jpg", "000001.jpg")(files)


HTML = b"<!DOCTYPE html><html><title>Google Drive - Quota exceeded</title></html>"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
ANNEX = b"../.git/annex/objects/Xz/2J/SHA256E-s7855--39d9.jpg/SHA256E-s7855--39d9.jpg"
VIEW = "Rafd045_01_Caucasian_female_angry_frontal"
CUT_LABELS = edit(LABELS, "6\r\n", "8\r\n")
# Rule -> (kind, the change that breaks only it, text in the message).
FAULTS: dict[str, list[tuple[str, Callable[[Files], None], str]]] = {
    "label_file_found": [
        ("celeba", drop(LABELS), LABELS),
        ("csv", drop("labels.csv"), "csv"),
        ("faces", drop("openface.csv"), "openface.csv"),
    ],
    "label_file_format": [
        ("celeba", put(LABELS, HTML), "web page"),
        ("celeba", put(LABELS, LFS), "git-lfs pointer"),
        ("celeba", put(LABELS, ANNEX), "git-annex pointer"),
        ("celeba", put(LABELS, b""), "empty"),
        ("celeba", put("list_eval_partition.txt", HTML), "list_eval_partition.txt"),
        ("faces", put("openface.csv", HTML), "openface.csv"),
    ],
    "count_line": [("celeba", edit(LABELS, "6\r\n", ""), LABELS)],
    "count_matches_rows": [("celeba", CUT_LABELS, "stated 8, rows 6")],
    "row_width": [("celeba", edit(LABELS, "1\r\n0", "1 1\r\n0"), "fields 11, expected 10")],
    "file_column": [("csv", edit("labels.csv", "file,", "picture,"), "labels.csv")],
    "label_columns": [
        ("celeba", edit(LABELS, " Male ", " male "), "Male"),
        ("csv", edit("labels.csv", "hat", "cap"), "hat"),
    ],
    "one_row": [("celeba", edit("list_eval_partition.txt", "000001.jpg 0\r\n",
                                "000001.jpg 0\r\n000001.jpg 0\r\n"), "line 2")],
    "label_columns_unique": [("celeba", edit(LABELS, "Arched_Eyebrows", "Male"), "Male")],
    "file_names_inside": [
        ("celeba", edit(LABELS, "000001.jpg", "x/../000001.jpg"), "x/../000001.jpg"),
        ("csv", edit("labels.csv", "img/0.png", "/etc/0.png"), "/etc/0.png"),
    ],
    "file_names_unique": [("celeba", twice, "000001.jpg")],
    "image_of_row": [("celeba", drop(FIRST), "000001.jpg")],
    "label_values": [
        ("celeba", edit(LABELS, "000001.jpg -1", "000001.jpg 0"), f"table {LABELS}, line 3"),
        ("celeba", edit(LABELS, "000001.jpg -1", "000001.jpg -"), "5_o_Clock_Shadow -"),
        ("csv", edit("labels.csv", ",1", ",<b>yes</b>"), "<b>yes</b>"),
    ],
    "part_known": [("celeba", edit("list_eval_partition.txt", "000001", "000009"), "000001.jpg")],
    "part_values": [("celeba", edit("list_eval_partition.txt", "jpg 2", "jpg 3"), "part 3")],
    "identity_known": [("celeba", edit("identity_CelebA.txt", "000001", "000009"), "000001.jpg")],
    "identity_in_one_part": [("celeba", same_person, "identity 50")],
    "images_found": [("folders", dict.clear, "0")],
    "picture_read": [
        ("folders", put("cat/9.heic", b"x"), "cat/9.heic"),
        ("celeba", put("img_align_celeba/9.AVIF", b"x"), "1 of 7: file img_align_celeba/9.AVIF"),
    ],
    "folder_layout": [
        ("folders", put("train/cat/0.jpg", picture(130, 130)), "cat/ (2 pictures), dog/"),
    ],
    "class_read": [("folders", put("bird/1.mp4", b"x"), "class bird")],
    "row_of_image": [("celeba", put("img_align_celeba/9.jpg", picture()), "9.jpg")],
    "image_format": [
        ("celeba", put(FIRST, HTML), "web page"),
        ("folders", put("cat/0.jpg", LFS), "git-lfs pointer"),
        ("folders", put("cat/0.jpg", ANNEX), "git-annex pointer"),
        ("folders", put("cat/0.jpg", b""), "empty"),
        ("folders", put("cat/0.jpg", b"a text"), "other"),
    ],
    "image_pixels": [("folders", put("cat/0.jpg", bomb()), "cat/0.jpg")],
    "image_decodes": [("celeba", truncate, "000001.jpg")],
    "image_side": [("celeba", put(FIRST, picture(9, 11)), "9x11")],
    "image_mode": [("celeba", put(FIRST, picture(mode="L")), "mode L")],
    "image_shape": [("celeba", bedrooms, "680x512")],
    "image_content_in_one_class": [("folders", same_picture, "dog/0.jpg")],
    "unit_rows": [("faces", no_units, "rows 0")],
    "unit_columns": [("faces", edit("openface.csv", "AU45_r", "AU45_c"), "AU45_r")],
    "unit_image": [("faces", edit("openface.csv", "000001.jpg", "000009.jpg"), "000009.jpg")],
    "unit_numbers": [("faces", edit("openface.csv", "1, 2.00", "1, -"), "000001.jpg")],
    "unit_range": [("faces", edit("openface.csv", "1, 2.00", "1, 5.01"), "AU01 5.01")],
    "rafd_name": [("rafd", rename(f"{VIEW}.jpg", "Rafd045_01_angry.jpg"), "Rafd045_01_angry.jpg")],
    "rafd_view_unique": [("rafd", put(f"{VIEW}.png", picture(68, 102)), f"{VIEW}.png")],
    "class_folder": [("folders", put("9.jpg", picture(130, 130)), "9.jpg")],
    "class_count": [("folders", one_class, "1")],
    "class_known": [("words", edit("labels.csv", "happy", ""), "img/0.png")],
}  # fmt: skip


# Rules that never stop a run, left out here to save time.
SOFT_ONLY = (
    "final_newline", "image_decodes_all", "image_resolution", "image_content_unique",
    "image_content_in_one_part", "image_size", "unit_confidence", "class_balance", "hair_exclusive",
    "rafd_person", "rafd_complete", "image_alpha", "image_frames",
)  # fmt: skip
CASES = [(name, *case) for name, cases in FAULTS.items() for case in cases]


@pytest.mark.parametrize(("rule", "kind", "fault", "shown"), CASES)
def test_a_fault_is_found_by_its_rule_and_by_no_other(
    rule: str, kind: str, fault: Callable[[Files], None], shown: str
) -> None:
    files = MAKE[kind]()
    fault(files)
    (finding,) = validated(kind, files, SOFT_ONLY).failed
    assert finding.rule.name == rule
    assert str(finding).startswith(f"{rule}: ")
    assert shown in str(finding)
    assert finding.rule.fix in str(finding)
    if (kind, fault, shown) == FAULTS[rule][0]:
        assert validated(kind, files, (rule, *SOFT_ONLY)).failed == []


def test_every_critical_rule_has_a_fault_that_breaks_it() -> None:
    critical = set()
    for kind, make in MAKE.items():
        config = CONFIG.get(kind, DataConfig())
        tree, kind = Memory(make()), KINDS.get(kind, kind)
        raw = read_layout(kind, tree, config)
        tables = frames(raw, image_facts(tree, raw.images, kind, config, 1, "test"))
        every = {name: frame if len(frame) else [None] for name, frame in tables.items()}
        critical |= {r.name for r in rules(raw, every, config) if r.severity == "critical"}
    assert critical == set(FAULTS)


@pytest.mark.parametrize("kind", MAKE)
def test_good_data_has_no_critical_failure(kind: str) -> None:
    assert validated(kind, MAKE[kind]()).failed == []


def to_csv(files: Files) -> None:
    lines = files.pop(LABELS).decode().split("\r\n")[1:-1]
    rows = [",".join(line.split()).replace("-1", "0") for line in lines[1:]]
    head = ",".join(["image_id", *NAMES])
    files["list_attr_celeba.csv"] = text([head, *rows], "\n")


@pytest.mark.parametrize(
    "variant", [edit(LABELS, "\r\n", "\n", -1), to_csv], ids=["LF", "Kaggle's CSV"]
)
def test_harmless_variants_are_only_noted(variant: Callable[[Files], None]) -> None:
    files = celeba()
    variant(files)
    outcome = validated("celeba", files)
    assert outcome.failed == []
    assert any("line ends are LF" in note for note in outcome.raw.notes)


def test_a_truncated_label_file_is_found_by_its_count_and_its_rows() -> None:
    files = celeba()
    files[LABELS] = files[LABELS][:-60]  # inside the last row, no final newline
    outcome = validated("celeba", files)
    failed = {finding.rule.name for finding in outcome.findings if not finding.passed}
    assert {"row_width", "row_of_image", "final_newline"} <= failed
    files[LABELS] = b"\r\n".join(celeba()[LABELS].split(b"\r\n")[:-2])  # the whole last row is gone
    failed = {f.rule.name for f in validated("celeba", files).failed}
    assert {"count_matches_rows", "row_of_image"} == failed


SOFT = {
    "image_size": ("celeba", put(FIRST, picture(89, 109)), "89x109"),
    "image_resolution": ("folders", put("cat/0.jpg", picture(60, 60)), "60x60"),
    "image_content_unique": ("folders", put("cat/9.jpg", folders()["cat/0.jpg"]), ""),
    "class_balance": ("csv", edit("labels.csv", "hat", "hat"), ""),
    "unit_confidence": ("faces", edit("openface.csv", "1, 0.98", "1, 0.50"), "000001.jpg"),
    "image_mode": ("folders", put("cat/0.jpg", picture(130, 130, "L")), "mode L"),
    "rafd_complete": ("rafd", lambda files: None, "expression"),
}  # fmt: skip


@pytest.mark.parametrize("rule", SOFT)
def test_a_warning_is_reported_and_does_not_stop(rule: str) -> None:
    kind, fault, shown = SOFT[rule]
    files = MAKE[kind]()
    fault(files)
    if rule == "image_content_unique":
        files["cat/9.jpg"] = files["cat/0.jpg"]
    if rule == "class_balance":
        files["labels.csv"] = files["labels.csv"].replace(b",1\n", b",0\n")
    outcome = validated(kind, files)
    found = {finding.rule.name: str(finding) for finding in outcome.findings if not finding.passed}
    assert outcome.failed == []
    assert shown in found[rule]


@pytest.mark.parametrize(
    ("copy", "rules_broken"),
    [
        ("000004.jpg", {"image_content_unique"}),  # of the same part as the first image
        ("000002.jpg", {"image_content_unique", "image_content_in_one_part"}),
    ],
)
def test_an_image_under_two_names_may_not_be_in_two_parts(
    copy: str, rules_broken: set[str]
) -> None:
    files = celeba()
    files[f"img_align_celeba/{copy}"] = files[FIRST]
    outcome = validated("celeba", files)
    found = {f.rule.name: str(f) for f in outcome.findings if not f.passed}
    assert {name for name in found if name.startswith("image_content")} == rules_broken
    for name in rules_broken:
        assert "000001.jpg" in found[name]
        assert copy in found[name]


def test_a_share_of_broken_images_is_left_to_preprocessing() -> None:
    files = celeba()
    truncate(files)
    config = DataConfig(bad_share=0.2)
    outcome = check("set", "celeba", Memory(files), config, workers=1)
    assert outcome.failed == []
    assert "image_decodes_all" in {f.rule.name for f in outcome.findings if not f.passed}


def test_listed_rows_are_capped_and_the_count_is_complete() -> None:
    files = celeba(60)
    files[LABELS] = re.sub(rb"(\d{6}\.jpg) -?1", rb"\1 7", files[LABELS])
    (finding,) = validated("celeba", files).failed
    assert (finding.count, len(finding.rows)) == (60, 20)
    assert "60 of 60" in str(finding)
    assert "and 57 more" in str(finding)


def raw(root: Path, **datasets: tuple[str, Files]) -> tuple[Path, Store]:
    store = open_store(f"file://{root / 'store'}")
    paths = [p for name, (_, files) in datasets.items() for p in pack(Memory(files), root, name)]
    sets = tuple(RawSet(name=name, kind=kind) for name, (kind, _) in datasets.items())
    meta = RawMeta(datasets=sets, md5="", nfiles=0, source="folder", note="")
    manifest = Manifest.build("raw", {p.name: p for p in paths}, meta, store=store)
    manifest.write(root / "raw.json", store)
    return root / "raw.json", store


def test_a_refusal_names_the_rule_and_writes_report_and_docs(tmp_path: Path) -> None:
    files = celeba()
    edit(LABELS, "000001.jpg -1", "000001.jpg 7")(files)
    manifest, store = raw(tmp_path, celeba=("celeba", files), rafd=("rafd", rafd()))
    report, docs = tmp_path / "report.html", tmp_path / "docs"
    with pytest.raises(ValidationError, match=r"celeba: label_values: .*file 000001\.jpg") as error:
        validate(manifest, report=report, docs=docs, store=store)
    assert "breaks 1 critical expectation" in str(error.value)
    page = report.read_text()
    assert "label_values (critical)" in page
    assert "Fix: write -1 or 1 in every row" in page
    assert page.count("data:image/png") >= 3
    assert "rafd_complete (warning)" in page
    assert not re.search(r"<(script|link)|src=\"(?!data:)|url\(", page)
    assert (docs / "index.html").is_file()
    pages = [path.name for path in docs.glob("validations/**/*.html")]
    assert any(name.startswith("celeba-") for name in pages)
    assert any(name.startswith("rafd-") for name in pages)


def test_docs_replace_earlier_pages_and_nothing_else(tmp_path: Path) -> None:
    """A clone's own docs stay as they are, and nothing is validated first."""
    manifest, store = raw(tmp_path, own=("csv", own()))
    config, report = to_json(replace(CONFIG["csv"], size=64)), tmp_path / "report.html"
    docs, written = tmp_path / "docs", set()
    for _ in range(2):
        validate(manifest, data_config=config, report=report, docs=docs, store=store)
        written.add(frozenset(docs.glob("validations/**/*.html")))  # named by the time
    first, second = written
    assert len(first) == len(second) > 0
    assert not first & second
    (docs / "tutorial.md").write_text("mine")
    report.unlink()
    with pytest.raises(ValueError, match="docs exists and would be replaced"):
        validate(manifest, data_config=config, report=report, docs=docs, store=store)
    assert (docs / "tutorial.md").read_text() == "mine"
    assert not report.exists()


def test_names_and_labels_are_escaped_in_the_report(tmp_path: Path) -> None:
    bad = "<img src=x onerror=alert(1)>"
    files = {f"{bad}/1.jpg": picture(130, 130), "cat/<b>.jpg": b"no picture"}
    manifest, store = raw(tmp_path, own=("folders", files))
    with pytest.raises(ValidationError, match="image_format"):
        validate(manifest, report=tmp_path / "report.html", docs=tmp_path / "docs", store=store)
    page = (tmp_path / "report.html").read_text()
    assert "&lt;b&gt;.jpg" in page
    assert "&lt;img src=x" in page
    assert "<b>" not in page
    assert "<img src=x" not in page
    assert not [path for path in (tmp_path / "docs").rglob("*.html") if bad in path.read_text()]


def test_values_are_escaped_in_great_expectations_own_pages(tmp_path: Path) -> None:
    bad = "<img src=x onerror=alert(1)>"
    files = {"a.jpg": picture(130, 130), "labels.csv": f"file,Male\na.jpg,{bad}\n".encode()}
    manifest, store = raw(tmp_path, own=("csv", files))
    with pytest.raises(ValidationError, match="label_values"):
        validate(manifest, report=tmp_path / "report.html", docs=tmp_path / "docs", store=store)
    pages = [path.read_text() for path in (tmp_path / "docs").rglob("*.html")]
    assert not [page for page in pages if bad in page]
    assert [page for page in pages if "&lt;img src=x onerror=alert(1)&gt;" in page]


def test_good_data_passes_with_the_same_report_again_and_for_either_resize(tmp_path: Path) -> None:
    manifest, store = raw(tmp_path, own=("csv", own()))
    pages = []
    for resize in ("exact", "exact", "fast"):
        config = to_json(replace(CONFIG["csv"], size=64, resize=resize))
        report = tmp_path / "report.html"
        validate(manifest, data_config=config, report=report, store=store)
        pages.append((tmp_path / "report.html").read_bytes())
    assert len(set(pages)) == 1
    assert b"All critical expectations hold" in pages[0]


def test_the_command_ends_with_2_and_one_clear_message(tmp_path: Path) -> None:
    files = own()
    files["labels.csv"] = HTML
    manifest, store = raw(tmp_path, own=("csv", files))
    command = [sys.executable, "-m", "training.data.validate", str(manifest)]
    command += ["--report", str(tmp_path / "report.html"), "--data-config", to_json(CONFIG["csv"])]
    done = subprocess.run(
        command, env={**os.environ, "STORE_URI": store.uri}, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: the raw data breaks 1 critical expectation")
    assert "own: label_file_format: a label file is not a table" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_pattern_for_great_expectations_matches_as_the_readers_does(shared_data: Path) -> None:
    tree = Memory(dict.fromkeys((shared_data / "rafd_names.txt").read_text().split(), b""))
    raw = read_layout("rafd", tree, DataConfig())
    every = {"labels": raw.labels}
    (rule,) = [r for r in rules(raw, every, DataConfig()) if r.name == "rafd_name"]
    pattern = rule.checks[0].arguments["regex"]
    assert re.compile(pattern).groups == 0
    for name in [*tree.names(), "Rafd090_01_Caucasian_female_angry_up.jpg", "x.jpg"]:
        assert bool(re.match(pattern, name)) == bool(re.match(RAFD_NAME, name))


@pytest.mark.slow
def test_genuine_celeba_passes(shared_data: Path, tmp_path: Path) -> None:
    tree = Folder(shared_data / "celeba")
    outcome = check("celeba", "celeba", tree, DataConfig())
    assert [str(f) for f in outcome.findings if not f.passed] == []
    assert outcome.frames["images"]["size"].unique().tolist() == ["178x218"]


FULL = """
import json, resource, sys, zipfile
from training.core.config import DataConfig
from training.data.layouts import read_layout
from training.data.validation.frames import frames
from training.data.validation.images import image_facts
from training.data.validation.rules import rules
from training.data.validation.runner import run_rules, open_context

class Names:
    def __init__(self, path):
        with zipfile.ZipFile(path) as archive:
            self.table = archive.read("list_attr_celeba.txt")
    def names(self):
        return ["list_attr_celeba.txt", *(f"img/{i:06d}.jpg" for i in range(1, 202600))]
    def read(self, name):
        return self.table
    def size(self, name):
        return len(self.table)

config = DataConfig()
found = read_layout("celeba", Names(sys.argv[1]), config)
tables = frames(found, image_facts(None, [], "celeba", config, 1, "none"))
selected = [r for r in rules(found, tables, config) if r.frame != "images"]
findings = run_rules(open_context(), "celeba", tables, selected)
print(json.dumps({
    "bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    "failed": [f.rule.name for f in findings if not f.passed],
    "rows": {f.rule.name: f.total for f in findings},
}))
"""


@pytest.mark.slow
def test_the_full_official_label_file_passes_within_2_gb(shared_data: Path) -> None:
    archive = shared_data / "celeba_full_labels" / "list_attr_celeba.zip"
    command = [sys.executable, "-W", "ignore", "-c", FULL, str(archive)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    measured = json.loads(done.stdout.splitlines()[-1])
    assert measured["failed"] == []
    assert measured["rows"]["label_values"] == measured["rows"]["image_of_row"] == 202_599
    assert measured["bytes"] <= 2 * 1024**3


def test_changed_pictures_are_counted_and_do_not_stop_the_run() -> None:
    """Transparency on white, the first of several frames, other modes than RGB."""
    files = folders()
    square = Image.new("RGBA", (130, 130), (200, 0, 0, 90))
    for name, form, more in (
        ("cat/alpha.png", "PNG", {}),
        ("dog/moves.gif", "GIF", {"save_all": True, "append_images": [square.rotate(9)]}),
        ("dog/pages.tif", "TIFF", {"save_all": True, "append_images": [square.rotate(9)]}),
    ):
        out = io.BytesIO()
        (square if form == "PNG" else square.convert("RGB")).save(out, form, **more)
        files[name] = out.getvalue()
    grey = io.BytesIO()
    Image.fromarray(np.full((130, 130), 9000, np.uint16)).save(grey, "PNG")
    files["cat/grey16.png"] = grey.getvalue()
    outcome = validated("folders", files)
    assert outcome.failed == []
    found = {f.rule.name: [row["file"] for row in f.rows] for f in outcome.findings if not f.passed}
    assert found["image_alpha"] == ["cat/alpha.png"]
    assert found["image_frames"] == ["dog/moves.gif", "dog/pages.tif"]
    assert {"cat/alpha.png", "cat/grey16.png"} <= set(found["image_mode"])

"""The drawn demo faces: reproducible bytes, official formats, true labels."""

import csv
import hashlib
import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image, ImageStat

from training.core.files import read_json
from training.data import __main__ as data_program
from training.data.synthetic import faces, paint
from training.data.synthetic.pen import Pen, mix, oval, sine, spline
from training.data.synthetic.people import (
    ATTRIBUTES,
    EXPRESSIONS,
    HAIR,
    UNITS,
    Draws,
    Face,
    Person,
    attributes,
    expression,
    person,
    snapshot,
)

RAFD_NAME = re.compile(
    r"Rafd(000|045|090|135|180)_\d\d_(Caucasian|Moroccan|Kid)_(female|male)_"
    r"(angry|contemptuous|disgusted|fearful|happy|neutral|sad|surprised)_(frontal|left|right)\.jpg"
)
COUNT = 24


def digest(root: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        found.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return found.hexdigest()


@pytest.fixture(scope="module")
def celeba(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, faces.Drawn]:
    out = tmp_path_factory.mktemp("faces") / "celeba"
    return out, faces.draw_celeba(out, COUNT, workers=1)


@pytest.fixture(scope="module")
def rafd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, faces.Drawn]:
    out = tmp_path_factory.mktemp("faces") / "rafd"
    return out, faces.draw_rafd(out, subjects=1, workers=1)


def shot(male: bool = False, key: object = 0, **changes: object) -> Face:
    """A person seen from the front, with a neutral expression."""
    who = person(Draws("test", key), male)
    rest = dict.fromkeys(UNITS, 0.0)
    face = replace(snapshot(Draws("shot", key), who), units=rest, turn=0.0, tilt=0.0, gaze=0.0)
    return replace(face, shift=(0.0, 0.0), zoom=1.0, glasses=False, **changes)


def region(face: Face, box: tuple[int, int, int, int]) -> np.ndarray:
    """Mean colour of a box of the CelebA picture."""
    return np.array(ImageStat.Stat(paint.celeba(face).crop(box)).mean)


def test_two_workers_write_the_same_bytes_as_one(celeba, tmp_path):
    out, drawn = celeba
    again = faces.draw_celeba(tmp_path / "again", COUNT, workers=2)
    assert again == drawn
    assert digest(tmp_path / "again") == digest(out)


def test_a_killed_drawing_goes_on_where_it_was(celeba, tmp_path):
    """Its workers end with it, and finished parts are not drawn again."""
    out, drawn = celeba
    target = tmp_path / "killed"
    call = f"faces.draw_celeba(pathlib.Path({str(target)!r}), {COUNT}, workers=2)"
    script = f"import pathlib\nfrom training.data.synthetic import faces\n{call}"
    process = psutil.Popen([sys.executable, "-c", script])
    while not (notes := list(tmp_path.glob(".killed.*.part/notes/*.json"))):
        assert process.poll() is None
        time.sleep(0.01)
    workers = process.children(recursive=True)
    process.kill()
    process.wait()
    assert not psutil.wait_procs(workers, timeout=20)[1]
    assert not target.exists()
    name = next(iter(read_json(notes[0])))
    made = (notes[0].parents[1] / "new" / name).stat().st_mtime_ns
    assert faces.draw_celeba(target, COUNT, workers=1) == drawn
    assert digest(target) == digest(out)
    assert (target / name).stat().st_mtime_ns == made
    assert [path.name for path in tmp_path.iterdir()] == ["killed"]


def test_a_part_damaged_after_a_kill_is_drawn_again(celeba, tmp_path, monkeypatch):
    out, drawn = celeba
    monkeypatch.setattr(faces.Progress, "step", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        faces.draw_celeba(tmp_path / "cut", COUNT, workers=1)
    monkeypatch.undo()
    (note,) = tmp_path.glob(".cut.*.part/notes/*.json")
    (note.parents[1] / "new" / next(iter(read_json(note)))).write_bytes(b"half")
    assert faces.draw_celeba(tmp_path / "cut", COUNT, workers=1) == drawn
    assert digest(tmp_path / "cut") == digest(out)


@pytest.mark.parametrize("seed", ["1", "2"])
def test_another_process_and_hash_seed_write_the_same_bytes(celeba, tmp_path, seed):
    out, drawn = celeba
    code = (
        "import sys; from pathlib import Path\n"
        "from training.data.synthetic.faces import draw_celeba\n"
        f"print(draw_celeba(Path(sys.argv[1]), {COUNT}, workers=1).pixel_hash)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out")],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split()[-1] == drawn.pixel_hash
    assert digest(tmp_path / "out") == digest(out)


def test_pixel_hash_is_of_the_pixels_before_encoding(celeba):
    jobs, tables = faces.celeba_jobs(COUNT, faces.SEED)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in tables.items()}
    for job in jobs:
        digests[job.name] = hashlib.sha256(paint.celeba(job.face).tobytes()).hexdigest()
    assert faces.pixel_hash(dict(reversed(digests.items()))) == celeba[1].pixel_hash
    digests[jobs[3].name] = digests[jobs[4].name]
    assert faces.pixel_hash(digests) != celeba[1].pixel_hash


def test_another_seed_draws_other_faces(celeba, tmp_path):
    other = faces.draw_celeba(tmp_path / "other", 2, seed=7, workers=1)
    assert other.pixel_hash != faces.draw_celeba(tmp_path / "same", 2, workers=1).pixel_hash


def test_a_failed_drawing_keeps_the_old_folder_and_a_hidden_part(tmp_path, monkeypatch):
    out = tmp_path / "faces"
    out.mkdir()
    (out / "old").write_text("old content")
    monkeypatch.setattr(paint, "celeba", lambda face: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        faces.draw_celeba(out, 2, workers=1)
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(".faces.")] == ["faces"]
    assert (out / "old").read_text() == "old content"


def test_celeba_label_file_has_the_official_form(celeba):
    lines = (celeba[0] / "list_attr_celeba.txt").read_bytes().decode().split("\r\n")
    assert lines[0] == str(COUNT)
    assert lines[1] == " ".join(ATTRIBUTES) + " "
    assert len(ATTRIBUTES) == len(set(ATTRIBUTES)) == 40
    assert lines[-1] == ""
    assert len(lines) == COUNT + 3
    for i, line in enumerate(lines[2:-1], 1):
        # a leading 1 has no pad, every later value is two wide
        assert re.fullmatch(rf"{i:06d}\.jpg -?1( (-1| 1)){{39}}", line)


def test_attribute_names_are_those_of_the_official_file():
    shared = Path(os.environ.get("SHARED_DATA", Path(__file__).parents[4] / "shared/data"))
    genuine = shared / "celeba/list_attr_celeba.txt"
    if not genuine.exists():
        pytest.skip(f"no genuine CelebA sample at {genuine}")
    assert tuple(genuine.read_text().splitlines()[1].split()) == ATTRIBUTES


def test_identities_of_several_images_are_in_one_split_each():
    jobs, tables = faces.celeba_jobs(2_400, faces.SEED)
    parts = dict(line.split() for line in tables["list_eval_partition.txt"].decode().splitlines())
    owner = dict(line.split() for line in tables["identity_CelebA.txt"].decode().splitlines())
    assert list(parts) == list(owner) == [Path(job.name).name for job in jobs]
    seen = defaultdict(set)
    images = defaultdict(int)
    for name, identity in owner.items():
        seen[identity].add(parts[name])
        images[identity] += 1
    assert all(len(found) == 1 for found in seen.values())
    assert sorted(images.values())[1] >= 4
    assert max(images.values()) <= 6
    sizes = [list(parts.values()).count(p) for p in "012"]
    assert np.allclose(sizes, [2_000, 150, 250], atol=6)
    assert list(parts.values()) == sorted(parts.values())


def test_a_person_keeps_face_and_gender_while_labels_vary():
    jobs, tables = faces.celeba_jobs(600, faces.SEED)
    owner = [line.split()[1] for line in tables["identity_CelebA.txt"].decode().splitlines()]
    people: dict[str, set[Person]] = defaultdict(set)
    hair: dict[str, set[str]] = defaultdict(set)
    for job, identity in zip(jobs, owner, strict=True):
        people[identity].add(job.face.person)
        hair[identity].add(job.face.hair)
    assert all(len(p) == 1 for p in people.values())
    assert len(set.union(*people.values())) == len(people)
    assert np.mean([len(h) > 1 for h in hair.values()]) > 0.8


def test_domains_are_balanced():
    shown = [attributes(job.face) for job in faces.celeba_jobs(2_400, faces.SEED)[0]]
    share = {name: np.mean([s[name] for s in shown]) for name in ATTRIBUTES}
    for name in HAIR[:3]:
        assert 0.28 < share[name] < 0.37
    assert 0.005 < share["Gray_Hair"] < 0.06
    assert all(sum(s[h] for h in HAIR) == 1 for s in shown)
    assert 0.45 < share["Male"] < 0.55
    assert 0.55 < share["Young"] < 0.65
    hair_of_men = np.mean([s["Blond_Hair"] for s in shown if s["Male"]])
    assert abs(hair_of_men - share["Blond_Hair"]) < 0.05


def test_pictures_have_the_official_sizes(celeba, rafd):
    for root, size, count in (
        (celeba[0] / faces.IMAGES, (178, 218), COUNT),
        (rafd[0], (681, 1024), 24),
    ):
        paths = sorted(root.glob("*.jpg"))
        assert len(paths) == count
        for path in paths:
            with Image.open(path) as image:
                assert (image.size, image.mode, image.format) == (size, "RGB", "JPEG")


def test_rafd_names_are_genuine_and_complete(rafd):
    names = [p.name for p in rafd[0].glob("*.jpg")]
    fields = [RAFD_NAME.fullmatch(name).groups() for name in names]
    assert (
        len(fields)
        == 24
        == len({(n[7:11], f[0], f[3]) for n, f in zip(names, fields, strict=True)})
    )
    jobs = faces.rafd_jobs(20, faces.SEED)[0]
    found = [RAFD_NAME.fullmatch(job.name).groups() for job in jobs]
    assert len(found) == 480
    assert not any("_06_" in job.name for job in jobs)
    assert {f[0] for f in found} == {"045", "090", "135"}
    assert len({(f[0], f[4]) for f in found}) == 9  # every camera with every gaze
    assert {f[1] for f in found} == {"Caucasian", "Moroccan", "Kid"}
    assert {f[2] for f in found} == {"male", "female"}
    for job, fields_ in zip(jobs, found, strict=True):
        assert job.face.person.male == (fields_[2] == "male")
        assert job.face.person.child == (fields_[1] == "Kid")


def test_openface_csv_joins_the_images_and_holds_the_drawn_units(rafd):
    text = (rafd[0] / "openface.csv").read_text()
    assert text.startswith("frame, face_id, timestamp, confidence, success, AU01_r, AU02_r")
    rows = list(csv.DictReader(text.splitlines()))
    jobs = faces.rafd_jobs(1, faces.SEED)[0]
    assert [r[" file"].strip() for r in rows] == [job.name for job in jobs]
    assert len([k for k in rows[0] if k.endswith("_r")]) == 17
    assert len([k for k in rows[0] if k.endswith("_c")]) == 18
    for row, job in zip(rows, jobs, strict=True):
        assert float(row[" confidence"]) >= 0.88
        assert row[" success"].strip() == "1"
        for unit in UNITS:
            value = float(row[f" AU{unit:02d}_r"])
            assert 0 <= value <= 5
            assert value == job.face.units[unit]


@pytest.mark.parametrize("name", sorted(EXPRESSIONS.keys() - {"neutral"}))
def test_expressions_follow_their_units(name):
    """On average, a face's strongest unit is one of the expression's strongest, and strong."""
    drawn = [expression(Draws("units", name, i), name, 0.9, 1.0) for i in range(50)]
    assert all(set(units) == set(UNITS) for units in drawn)
    assert all(0 <= v <= 5 for units in drawn for v in units.values())
    mean = {unit: np.mean([units[unit] for units in drawn]) for unit in UNITS}
    most = max(mean, key=mean.get)
    assert EXPRESSIONS[name].get(most) == max(EXPRESSIONS[name].values())
    assert mean[most] > 3


def test_a_neutral_face_has_no_unit():
    """Beyond the noise of 0.3."""
    for i in range(50):
        units = expression(Draws("units", i), "neutral", 0.9, 1.0)
        assert set(units) == set(UNITS)
        assert all(0 <= v <= 0.3 for v in units.values())


def test_labels_match_the_sampled_face():
    for i in range(300):
        who = person(Draws("who", i), bool(i % 2))
        face = snapshot(Draws("face", i), who)
        shown = attributes(face)
        assert tuple(shown) == ATTRIBUTES
        assert (shown["Male"], shown["Young"]) == (who.male, face.young)
        assert [h for h in HAIR if shown[h]] == [face.hair]
        assert shown["Smiling"] == (face.units[12] >= 1.5)
        assert shown["Mouth_Slightly_Open"] == (max(face.units[25], face.units[26]) >= 1.5)
        assert shown["No_Beard"] == (face.beard == "none")
        assert shown["Eyeglasses"] == face.glasses
        assert not (shown["Wearing_Lipstick"] and who.male)
        assert not (shown["Straight_Hair"] and shown["Wavy_Hair"])
        assert not any(shown[n] for n in ("Wearing_Hat", "Bald", "Blurry", "Attractive"))


HAIR_BOX = (78, 28, 102, 46)  # above the forehead


def test_hair_colour_is_visible_in_the_hair():
    for key in range(6):
        male = bool(key % 2)
        tone = [region(shot(male, key, hair=h, tone=(0, 0, 0)), HAIR_BOX) for h in HAIR]
        black, blond, brown, gray = tone
        assert black.sum() < brown.sum() - 60 < blond.sum() - 120
        assert blond[0] - blond[2] > 50
        assert brown[0] - brown[2] > 25
        assert abs(gray[0] - gray[2]) < 25 < gray.sum() - black.sum()


def test_only_the_hair_changes_with_its_label():
    """Cheeks, mouth and clothes are unchanged, so a network can learn the edit."""
    dark, light = (shot(False, 3, hair=h) for h in ("Black_Hair", "Blond_Hair"))
    assert np.abs(region(dark, (70, 120, 108, 170)) - region(light, (70, 120, 108, 170))).max() < 3


def test_age_and_beard_are_visible():
    young, old = (
        shot(True, 5, young=y, hair="Black_Hair", beard="none", style="crop") for y in (True, False)
    )
    left = (36, 82, 46, 104)  # the temple
    assert region(old, left).mean() > region(young, left).mean() + 25
    bearded = replace(young, beard="full")
    chin = (64, 160, 114, 176)
    assert region(bearded, chin).mean() < region(young, chin).mean() - 25


def test_action_units_change_their_part_of_the_face():
    """Each unit at full strength changes its own part of the face, and more than half of it."""
    rest = shot(False, 2, bangs=False, style="updo", young=True)
    still = np.asarray(paint.celeba(rest), np.int16)
    top = {1, 2, 4, 5, 6, 7, 9, 45}
    for unit in UNITS:
        moved = replace(rest, units={**rest.units, unit: 5.0})
        change = np.abs(np.asarray(paint.celeba(moved), np.int16) - still).sum(2)
        assert (change > 60).sum() > 25, unit
        upper, lower = change[:118].sum(), change[118:].sum()
        assert (upper > lower) == (unit in top), unit


def test_gaze_moves_the_iris_and_the_camera_the_nose():
    rest = shot(False, 2, bangs=False)
    eye = (58, 102, 80, 116)

    def dark(face: Face, box: tuple[int, int, int, int]) -> float:
        """Mean x of the dark pixels."""
        values = 255 - np.asarray(paint.celeba(face).crop(box).convert("L"), np.float64)
        return float((values**4 * np.arange(values.shape[1])).sum() / (values**4).sum())

    assert dark(replace(rest, gaze=-1.0), eye) + 1 < dark(replace(rest, gaze=1.0), eye)
    nose = (72, 132, 106, 148)
    assert dark(replace(rest, turn=-0.2), nose) + 2 < dark(replace(rest, turn=0.2), nose)


def test_rafd_face_has_the_documented_position():
    """Skin reaches about 165 px to either side of x = 340, at the height of the cheeks."""
    job = next(j for j in faces.rafd_jobs(1, faces.SEED)[0] if "Rafd090_01" in j.name)
    row = np.asarray(paint.rafd(job.face), np.int16)[480]
    skin = np.flatnonzero(row[:, 0] - row[:, 2] > 20)
    assert 300 < skin[-1] - skin[0] < 380
    assert abs((skin[-1] + skin[0]) / 2 - 340) < 12


def test_pen_places_whole_pixels_and_sines_are_exact():
    assert [sine(t) for t in (0, 0.25, 0.5, 0.75)] == [0.0, 1.0, 0.0, -1.0]
    assert mix((0, 10, 255), (255, 10, 0), 0.5) == (127, 10, 127)
    curve = spline([(0, 0), (1, 0), (1, 1)], n=4)
    assert curve[0] == (0, 0)
    assert curve[4] == (1, 0)
    assert curve[-1] == (1, 1)
    image = Image.new("RGB", (20, 20))
    pen = Pen(image, 1.0, (10.0, 10.0))
    assert all(isinstance(v, int) for point in pen.place(oval(0, 0, 5, 5), 3) for v in point)
    pen.fill((255, 255, 255), [(100, 100), (120, 100), (120, 120)])  # outside: nothing
    assert image.getextrema() == ((0, 0),) * 3
    pen.fill((255, 255, 255), [(-3, -3), (3, -3), (3, 3), (-3, 3)])
    assert image.getpixel((10, 10)) == (255, 255, 255)
    assert image.getpixel((3, 3)) == (0, 0, 0)


def test_stream_of_random_numbers_is_fixed():
    """A change of Python's generator or of the keys would silently change the data."""
    d = Draws("key", 1)
    assert [round(d.next(), 6) for _ in range(3)] == [0.708165, 0.175566, 0.407721]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda out: faces.draw_celeba(out, 0), "count=0"),
        (lambda out: faces.draw_rafd(out, 73), "subjects=73"),
        (lambda out: faces.draw_rafd(out, 1, workers=-1), "workers=-1"),
    ],
)
def test_impossible_counts_are_refused(call, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        call(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_command_prints_the_pixel_hash(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(faces, "CELEBA_COUNT", 4)
    monkeypatch.setattr(faces, "SUBJECTS", 1)
    faces.main([str(tmp_path / "out"), "--workers", "1", "--pixel-hash"])
    printed = capsys.readouterr().out.split()[-1]
    assert printed == faces.draw(tmp_path / "again", workers=1).pixel_hash
    assert len(list((tmp_path / "out/celeba" / faces.IMAGES).iterdir())) == 4
    assert len(list((tmp_path / "out/rafd").iterdir())) == 25


@pytest.mark.parametrize(
    ("program", "words"), [(data_program.main, ["draw"]), (faces.main, ["--workers", "1"])]
)
def test_a_folder_with_files_is_never_replaced(program, words, tmp_path, monkeypatch):
    monkeypatch.setattr(faces, "CELEBA_COUNT", 1)
    monkeypatch.setattr(faces, "SUBJECTS", 1)
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(ValueError, match="exists and would be replaced; name a new folder"):
        program([*words, str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]

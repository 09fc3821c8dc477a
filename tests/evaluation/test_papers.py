"""The papers' protocols against plain derivations from the models' own outputs."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from toydata import CELEBA, SETS
from training.core.config import EvalConfig, to_json
from training.core.names import named
from training.data.dataset import Faces, to_float, to_uint8
from training.data.labels import LabelSet, LabelSpace, flip
from training.evaluation.fingerprint import fingerprint
from training.evaluation.metrics import psnr, ssim
from training.evaluation.numbers import paper_numbers
from training.evaluation.paper_tables import of_evaluation, of_systems
from training.evaluation.papers import by_papers
from training.evaluation.protocol import PUBLISHED, check_published
from training.evaluation.records import PaperNumber, PaperResult
from training.inference.translator import Translator
from training.models import MODELS
from training.models.base import DEFAULT_OPTIONS, EditOptions
from training.models.styles import fixed_latent
from training.storage.store import Manifest

CONFIG = EvalConfig(limit=2, bootstrap=20, protocol="paper")


class ByColour:
    """A judge that reads labels from the bands of the toy pictures; features are mean colours."""

    device = torch.device("cpu")

    def __init__(self, space: LabelSpace, size: int) -> None:
        self.space, self.size = space, size

    def predict(self, dataset: int, images: Tensor) -> Tensor:
        """Logits (n, k): a band's colour above 145."""
        pixels, k = to_uint8(images).float(), len(self.space.sets[dataset].names)
        band = self.size // k
        means = [pixels[:, i * band : (i + 1) * band, :, i % 3].mean((1, 2)) for i in range(k)]
        return torch.stack(means, 1) - 160

    def features(self, dataset: int, images: Tensor) -> Tensor:
        """(n, 6): mean colours of the upper and lower half."""
        pixels = to_uint8(images).float() / 16
        half = self.size // 2
        return torch.cat([pixels[:, :half].mean((1, 2)), pixels[:, half:].mean((1, 2))], 1)

    def embed(self, dataset: int, features: Tensor) -> Tensor:
        return torch.nn.functional.normalize(features, dim=1)


class Edit(NamedTuple):
    """One output of the model: uint8 pictures, labels, and what it was made from."""

    image: np.ndarray
    source: np.ndarray
    target: np.ndarray
    seed: int | None
    reference: bytes | None
    output: Tensor  # (1, s, s, 3)


class Recorder:
    """A model that paints the target's colours, with a trace of the style; keeps all edits."""

    edits_own_labels, needs_source = True, False

    def __init__(self, size: int, options: tuple[str, ...] = ()) -> None:
        self.size, self.supported_options = size, options
        self.edits: list[Edit] = []

    def translate(
        self, nets: object, image: Tensor, source: Tensor, target: Tensor,
        options: EditOptions = DEFAULT_OPTIONS,
    ) -> Tensor:  # fmt: skip
        pixels, k = to_uint8(image).float(), target.shape[1]
        band = self.size // k
        # of some images and targets nothing comes out
        number = pixels.sum((1, 2, 3)) + (target * torch.arange(1, k + 1)).sum(1)
        works = (number % 3 > 0)[:, None, None]
        for i in range(k):
            change = (target - source)[:, i, None, None] * works
            pixels[:, i * band : (i + 1) * band, :, i % 3] += change * (40 + 25 * i)
        if isinstance(options.seed, tuple):
            traces = torch.tensor([one % 23 for one in options.seed])
            pixels += traces[:, None, None, None]
        if options.reference is not None:
            pixels += to_uint8(options.reference).float() / 8
        out = to_float(pixels.clamp(0, 255).to(torch.uint8))
        rounded = to_uint8(out)
        for i in range(len(image)):
            reference = options.reference
            self.edits.append(
                Edit(
                    to_uint8(image[[i]])[0].numpy(), source[i].numpy(), target[i].numpy(),
                    options.seed[i] if isinstance(options.seed, tuple) else None,
                    None if reference is None else to_uint8(reference[[i]]).numpy().tobytes(),
                    rounded[[i]],
                )
            )  # fmt: skip
        return out


class Bench(NamedTuple):
    """A recorded model with the images and judge it is measured with."""

    model: Recorder
    faces: Faces
    train: Faces
    judge: ByColour

    def measured(self) -> dict[str, PaperResult]:
        translator = Translator(
            self.model,
            {},
            self.faces.space,
            self.faces.size,
            {"name": "toy"},  # type: ignore[arg-type]
        )
        found = by_papers(translator, self.faces, self.train, self.judge, CONFIG)  # type: ignore[arg-type]
        return {one.protocol: one for one in found}

    def seen(self, pictures: Tensor) -> np.ndarray:
        """The judge's logits (n, k) of uint8 pictures."""
        return self.judge.predict(0, to_float(pictures)).numpy()


def bench(path: Path, *options: str) -> Bench:
    faces, train = Faces.open(path, "test"), Faces.open(path, "train")
    return Bench(Recorder(faces.size, options), faces, train, ByColour(faces.space, faces.size))


def value(found: PaperResult, measure: str, part: str = "", way: str = "") -> PaperNumber:
    (one,) = [n for n in found.numbers if (n.measure, n.part, n.way) == (measure, part, way)]
    return one


NEUTRAL = LabelSet("rafd", "onehot", ("happy", "Neutral", "sad"))


@pytest.mark.parametrize(("labels", "words"), [
    (NEUTRAL, "neutral images only"),
    (SETS["classes"][0], "images of every class, since none of angry, happy, sad is neutral"),
])  # fmt: skip
def test_stargans_error_is_by_image_of_neutral_sources(
    labels: LabelSet, words: str, make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    """All sixteen test images count, whatever the limit; without neutral ones every class does."""
    at = bench(make_dataset(tmp_path / "d.json", (labels,), count=80))
    found = at.measured()["stargan"]
    part = at.faces.parts[0]
    wrong: dict[str, list[bool]] = defaultdict(list)
    sources = 0
    for i in range(len(part)):
        own = int(part.labels[i].argmax())
        if "Neutral" in labels.names and labels.names[own] != "Neutral":
            continue
        sources += 1
        for k, name in enumerate(labels.names):
            if k == own:
                continue
            target = torch.eye(3)[[k]]
            edit = at.model.translate(None, to_float(part.images([i])), part.labels[[i]], target)
            wrong[name].append(int(at.seen(to_uint8(edit)).argmax()) != k)
    every = [one for column in wrong.values() for one in column]
    assert 0 < np.mean(every) < 1
    assert (found.sources, found.images) == (words, sources)
    whole = value(found, "error")
    assert whole.value == pytest.approx(np.mean(every))
    assert whole.outputs == len(every) == 2 * sources
    assert whole.low is not None
    assert whole.low <= whole.value
    for name, column in wrong.items():
        assert value(found, "error", name).value == pytest.approx(np.mean(column))
    real = at.seen(part.images(list(range(len(part))))).argmax(1) != part.labels.argmax(1).numpy()
    assert value(found, "real_error").value == pytest.approx(real.mean())


def test_stgans_accuracy_flips_each_attribute_and_asks_for_it_alone(binary: Path) -> None:
    """Others are compared with the image's own labels; hair on switches the other colour off."""
    at = bench(binary)
    found = at.measured()["stgan"]
    part, names = at.faces.parts[0], CELEBA.names
    right, others = np.zeros((len(part), 3)), np.zeros((len(part), 3))
    again = []
    for i in range(len(part)):
        truth = part.labels[i].numpy()
        x = to_float(part.images([i]))
        for k, name in enumerate(names):
            target = truth.copy()
            target[k] = 1 - truth[k]
            if target[k] and name in ("Black_Hair", "Blond_Hair"):
                target[1 - k] = 0
            edit = at.model.translate(None, x, part.labels[[i]], torch.from_numpy(target)[None])
            seen = at.seen(to_uint8(edit))[0] > 0
            right[i, k] = seen[k] == (truth[k] < 0.5)
            rest = [j for j in range(3) if j != k]
            others[i, k] = np.mean([seen[j] != (truth[j] > 0.5) for j in rest])
        again.append(to_uint8(x))
    assert 0 < right.mean() < 1
    assert others.mean() > 0
    assert found.images == len(part) == 8
    assert value(found, "accuracy").value == pytest.approx(right.mean())
    assert value(found, "others_error").value == pytest.approx(others.mean())
    for k, name in enumerate(names):
        assert value(found, "accuracy", name).value == pytest.approx(right[:, k].mean())
        assert value(found, "others_error", name).value == pytest.approx(others[:, k].mean())
    whole, copies = part.images(list(range(len(part)))), torch.cat(again)
    assert value(found, "psnr").value == pytest.approx(psnr(whole, copies).mean())
    assert value(found, "ssim").value == pytest.approx(ssim(whole, copies).mean())


def test_a_flip_switches_a_groups_member_off_again() -> None:
    """Ours only switches a hair colour on; the papers also switch it off."""
    labels = torch.tensor([[1.0, 0, 0], [0, 1, 1], [0, 0, 1]])
    expected = [[0, 0, 0], [1, 0, 1], [1, 0, 1]]
    assert flip(labels, CELEBA, "Black_Hair").tolist() == expected
    assert flip(labels, CELEBA, "Male")[:, 2].tolist() == [1, 0, 0]


def test_a_flip_switches_conflicting_attributes_off_and_keeps_the_others(
    make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    """Straight and wavy hair exclude each other outside of a group, bald excludes three others."""
    names = ("Straight_Hair", "Wavy_Hair", "Bald", "Male")
    conflicts = (("Straight_Hair", "Wavy_Hair"), ("Bald", "Straight_Hair"), ("Bald", "Wavy_Hair"))
    labels = LabelSet("celeba", "binary", names, (), conflicts)
    own = torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 1]])
    rows = {
        "Straight_Hair": [[0, 0, 0, 1], [1, 0, 0, 0], [1, 0, 0, 1], [1, 0, 0, 1]],
        "Wavy_Hair": [[0, 1, 0, 1], [0, 0, 0, 0], [0, 1, 0, 1], [0, 1, 0, 1]],
        "Bald": [[0, 0, 1, 1], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 1, 1]],
        "Male": [[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]],
    }
    for name, expected in rows.items():
        assert flip(own, labels, name).tolist() == expected, name
    at = bench(make_dataset(tmp_path / "d.json", (labels,)))
    found = at.measured()["stgan"]
    part = at.faces.parts[0]
    asked = {edit.target.tobytes() for edit in at.model.edits}
    wished = {flip(part.labels, labels, name)[i].numpy().tobytes()
              for name in names for i in range(len(part))}  # fmt: skip
    assert asked == wished | {part.labels[i].numpy().tobytes() for i in range(len(part))}
    assert value(found, "accuracy", "Bald").outputs == len(part)


def fid(a: np.ndarray, b: np.ndarray) -> float:
    """v2's published form, by scipy's square root of a matrix."""
    root = scipy.linalg.sqrtm(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False)).real
    trace = np.trace(np.cov(a, rowvar=False) + np.cov(b, rowvar=False) - 2 * root)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + trace)


def test_stargan_v2s_distances_are_those_of_every_ordered_pair(classes: Path) -> None:
    """From the recorded outputs: sources of other domains, ten own styles, all training images."""
    at = bench(classes, "seed", "reference")
    found = at.measured()["starganv2"]
    part, names = at.faces.parts[0], at.faces.space.sets[0].names
    pixels = part.images(list(range(len(part)))).numpy()
    groups: dict[tuple[str, int, int], dict[bytes, list[Edit]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for edit in at.model.edits:
        way = "latent" if edit.seed is not None else "reference" if edit.reference else ""
        if way:
            key = way, int(edit.source.argmax()), int(edit.target.argmax())
            groups[key][edit.image.tobytes()].append(edit)
    assert len(groups) == 2 * 6
    means: dict[tuple[str, str], list[float]] = defaultdict(list)
    train = at.train.parts[0]
    for (way, source, target), images in groups.items():
        assert source != target
        own = [i for i in range(len(part)) if part.labels[i, source]]
        assert set(images) == {pixels[i].tobytes() for i in own}
        assert all(len(edits) == 10 for edits in images.values())
        every = [edit for edits in images.values() for edit in edits]
        if way == "latent":
            assert len({edit.seed for edit in every}) == len(every)
        else:
            shown = {pixels[i].tobytes() for i in range(len(part)) if part.labels[i, target]}
            assert {edit.reference for edit in every} == shown
        outputs = torch.cat([edit.output for edit in every])
        rows = train.labels[:, target].nonzero().flatten().tolist()
        real = at.judge.features(0, to_float(train.images(rows))).numpy()
        features = at.judge.features(0, to_float(outputs)).numpy()
        pairs = [
            float((at.judge.features(0, to_float(a.output))
                   - at.judge.features(0, to_float(b.output))).norm())
            for edits in images.values() for a, b in combinations(edits, 2)
        ]  # fmt: skip
        assert len(pairs) == 45 * len(images)
        part_name = f"{names[source]} to {names[target]}"
        expected = {"frechet_vgg": fid(features.astype(float), real.astype(float)),
                    "diversity_vgg": float(np.mean(pairs))}  # fmt: skip
        for measure, number in expected.items():
            one = value(found, measure, part_name, way)
            assert one.value == pytest.approx(number, rel=1e-4), (measure, part_name)
            assert one.outputs == len(every)
            means[measure, way].append(number)
    for (measure, way), numbers in means.items():
        assert len(numbers) == 6
        assert value(found, measure, way=way).value == pytest.approx(np.mean(numbers), rel=1e-4)


def test_a_model_without_styles_has_one_output_and_no_diversity(classes: Path) -> None:
    found = bench(classes).measured()["starganv2"]
    assert {n.measure for n in found.numbers} == {"frechet_vgg"}
    part = bench(classes).faces.parts[0]
    assert value(found, "frechet_vgg").outputs == 2 * len(part)
    assert "one output each" in found.sources


def test_a_pair_with_too_few_images_is_left_out_and_named(
    make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    """Of ten classes the first two are not among the eight test images."""
    labels = LabelSet("rafd", "onehot", tuple("abcdefghij"))
    found = bench(make_dataset(tmp_path / "d.json", (labels,), count=40), "seed").measured()
    pairs = {n.part for n in found["starganv2"].numbers if n.part}
    assert len(pairs) == 8 * 7
    assert not any({"a", "b"} & set(pair.split(" to ")) for pair in pairs)
    assert found["starganv2"].remark.startswith("too few images, left out: a to b, a to c")


def test_every_image_has_its_own_latent() -> None:
    """And a single seed gives all images the latent of before."""
    like = torch.zeros(3, 1)
    one, *rest = (fixed_latent(like, 16, seed) for seed in (7, 8, 9))
    assert (one == one[0]).all()
    mixed = fixed_latent(like, 16, (7, 8, 9))
    assert torch.equal(mixed, torch.stack([one[0], rest[0][0], rest[1][0]]))


PROTOCOLS = {"binary": ["stgan"], "onehot": ["stargan", "starganv2"]}


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_measured_on_the_whole_split(
    name: str, small: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    """By the protocols of its kind of labels; none for intensities, which is said before a run."""
    model = small[name]
    kind = model.label_kinds[0]
    data = {"binary": "binary", "onehot": "classes", "continuous": "units"}[kind]
    path = request.getfixturevalue(data)
    faces, train = Faces.open(path, "test"), Faces.open(path, "train")
    if kind == "continuous":
        with pytest.raises(ValueError, match="celeba: no paper has a number for intensities"):
            check_published(faces.space)
        return
    check_published(faces.space)
    torch.manual_seed(0)
    nets = {key: net.eval() for key, net in model.networks(faces.space, faces.size).items()}
    translator = Translator(model, nets, faces.space, faces.size, {"name": name, "model": {}})
    judge: Any = ByColour(faces.space, faces.size)
    found = by_papers(translator, faces, train, judge, CONFIG)
    assert [one.protocol for one in found] == PROTOCOLS[kind]
    for one in found:
        assert one.images == len(faces.parts[0])  # CONFIG's limit is 2
        assert all(np.isfinite(n.value) for n in one.numbers)
        assert {n.measure for n in one.numbers} <= set(one.published.measures)
    ways = {n.way for n in found[-1].numbers}
    assert ways == ({"latent", "reference"} if name == "starganv2" else {""})


RESULT = PaperResult("stgan", "celeba", "every image", 8, (
    PaperNumber("accuracy", 0.8605, 104), PaperNumber("psnr", 31.67, 8),
    PaperNumber("accuracy", 0.5, 8, "Male"),
))  # fmt: skip
ERROR = PaperResult("stargan", "rafd", "neutral images only", 60, (
    PaperNumber("error", 0.0212, 420, low=0.011, high=0.04),
))  # fmt: skip


def test_metrics_are_named_by_their_protocol() -> None:
    assert named(paper_numbers([RESULT, ERROR])) == {
        "paper_stgan_accuracy_celeba": 0.8605, "paper_stgan_psnr_celeba": 31.67,
        "paper_stgan_accuracy_celeba_Male": 0.5, "paper_stargan_error_rafd": 0.0212,
        "paper_stargan_error_rafd_low": 0.011, "paper_stargan_error_rafd_high": 0.04,
    }  # fmt: skip


def test_a_table_has_one_protocol_and_a_column_one_measure() -> None:
    first, second = of_evaluation([RESULT, ERROR])
    assert first.head == ["", ">flipped attribute classified as flipped",
                          ">PSNR of the reconstruction"]  # fmt: skip
    assert [tuple(row) for row in first.rows] == [
        ("all", ["86.05 %", "31.67 dB"]), ("Male", ["50.00 %", "–"]),
    ]  # fmt: skip
    assert [tuple(row) for row in second.rows] == [("all", ["2.12 % [1.10 % – 4.00 %]"])]
    assert {first.title, second.title} == {PUBLISHED["stgan"].title, PUBLISHED["stargan"].title}


def test_systems_are_compared_by_one_protocol_and_means_over_all_seeds() -> None:
    """A system without the protocol in one of its seeds has a dash."""
    other = replace(RESULT, numbers=(PaperNumber("accuracy", 0.8405, 104),))
    tables = of_systems({"stgan": [[RESULT], [other]], "attgan": [[other]], "old": [[], [RESULT]],
                         "stargan": [[ERROR]]})  # fmt: skip
    assert [table.title for table in tables] == [
        PUBLISHED["stgan"].title, PUBLISHED["stargan"].title,
    ]  # fmt: skip
    assert [tuple(row) for row in tables[0].rows] == [
        ("stgan", ["85.05 %", "–"]), ("attgan", ["84.05 %", "–"]), ("old", ["–", "–"]),
        ("stargan", ["–", "–"]),
    ]  # fmt: skip
    assert tables[0].caption == (
        "Protocol: AttGAN (TIP 2019) and STGAN (CVPR 2019), on celeba; edited: every image"
    )


def test_results_are_read_as_they_were_stored() -> None:
    assert PaperResult.read(ERROR.to_json()) == ERROR


def test_scores_of_two_protocols_have_different_fingerprints(classes: Path) -> None:
    """Ours is that of before; the papers' depends on the networks of FID and LPIPS, too."""
    data = Manifest.read(classes)
    ours = fingerprint(data, data, EvalConfig(limit=2))
    paper = fingerprint(data, data, CONFIG)
    lpips = fingerprint(data, data, replace(CONFIG, lpips=f"net@{'1' * 64}"))
    assert len({ours, paper, lpips}) == 3
    assert fingerprint(data, data, replace(CONFIG, lpips=f"moved@{'1' * 64}")) == lpips
    assert ours == fingerprint(data, data, EvalConfig(limit=2, lpips=f"net@{'1' * 64}"))
    assert "protocol" not in to_json(EvalConfig())
    assert '"protocol": "paper"' in to_json(CONFIG)

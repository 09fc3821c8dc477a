"""Presets hold the papers' numbers; precision is measured or configured."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from runs import QUICK, richest, session_of
from training.core.config import DataConfig
from training.data.batch import Batch
from training.data.labels import LabelSpace
from training.data.sources import read_source
from training.data.split import assign, select_limited
from training.data.synthetic.faces import SEED, SUBJECTS, celeba_jobs, rafd_jobs
from training.data.unify import check_trained, read_labels
from training.data.versions import split_datasets
from training.engine import precision
from training.engine.session import Job
from training.evaluation.kid import PEOPLE
from training.models import MODELS, configure
from training.models.base import Losses, Model, Nets, Phase
from training.models.stargan import StarGAN
from training.models.starganv2 import StarGANv2

SMALL = StarGAN.tiny()
STEPS = 16  # images an iteration


@pytest.mark.parametrize(
    ("name", "images", "size", "datasets"),
    [
        # 20 epochs of CelebA's 200,600 training images and 200 of RaFD's 4,342.
        ("celeba-128", 250_750 * STEPS, 128, ("celeba",)),
        ("celeba-256", 250_750 * STEPS, 256, ("celeba",)),
        ("rafd-128", 54_275 * STEPS, 128, ("rafd",)),
        # The reference's 200,000 iterations; jointly, each draws from both sets.
        ("celeba-128-repo", 200_000 * STEPS, 128, ("celeba",)),
        ("joint-128", 2 * 200_000 * STEPS, 128, ("celeba", "rafd")),
        ("joint-256", 2 * 200_000 * STEPS, 256, ("celeba", "rafd")),
    ],
)
def test_presets_of_the_paper(name: str, images: int, size: int, datasets: tuple[str, ...]) -> None:
    """Lengths in real images, the rate falling over the second half, the model's own numbers."""
    config = configure.resolve("stargan", name)
    assert (config.train.images, config.train.decay_images) == (images, images // 2)
    assert (config.train.batch, config.train.warmup_images) == (STEPS, 0)
    assert (config.data.size, config.data.datasets, config.data.celeba_crop) == (
        size,
        datasets,
        178,
    )
    repo = name.endswith("-repo")
    assert config.model == StarGAN(fidelity="repo" if repo else "paper")
    assert (config.data.split == "paper") == repo


def test_the_preset_of_large_batches_has_the_papers_length() -> None:
    """Four times the batch, all else as in the paper's preset."""
    paper, large = (configure.resolve("stargan", f"celeba-128{end}") for end in ("", "-large"))
    assert large.train == replace(paper.train, batch=4 * STEPS)
    assert (large.model, large.data) == (paper.model, paper.data)
    assert (large.judge, large.eval) == (paper.judge, paper.eval)


# Images, how many of them with a falling rate, batch; side, px of CelebA's square and its shift;
# mirrored or not, decay of the average per 16 images.
OTHERS = {
    ("attgan", "celeba-128"): (60 * 182_000, 30 * 182_000, 32, 128, 170, (0, 0), True, 0),
    # 200 epochs of 947 cycles of five batches for D and one for G
    ("stgan", "celeba-128"): (200 * 947 * 6 * 32, 100 * 947 * 6 * 32, 32, 128, 170, (-1, 2), False,
                              0),
    # StarGAN's 250,750 batches of 16 for each of 5 pairs, 10 directions; 54,275 for 7, 14
    ("cyclegan", "celeba-128"): (5 * 4_012_000, 5 * 2_006_000, 1, 128, 178, (0, 0), True, 0),
    ("diat", "celeba-128"): (10 * 4_012_000, 5 * 4_012_000, 16, 128, 178, (0, 0), True, 0),
    ("cyclegan", "rafd-128"): (7 * 868_400, 7 * 434_200, 1, 128, 178, (0, 0), True, 0),
    ("diat", "rafd-128"): (14 * 868_400, 7 * 868_400, 16, 128, 178, (0, 0), True, 0),
    # 25 and 15 epochs
    # 1000 epochs of 1,563 batches of 32 for each network
    **dict.fromkeys((("fader", "celeba-256"), ("fader", "celeba-256-13")),
                    (1000 * 1563 * 64, 0, 32, 256, 178, (0, 0), True, 0)),
    # 1,000,000 batches of 1; the rate is halved each 100,000
    **dict.fromkeys((("munit", name) for name in ("edges2shoes", "yosemite", "celeba-256")),
                    (1_000_000, 100_000, 1, 256, 178, (0, 0), True, 0)),
    # 500,000 full iterations of three batches
    **dict.fromkeys(((name, f"{data}-216") for name in ("drit", "msgan")
                     for data in ("yosemite", "cat2dog", "celeba")),
                    (1_500_000, 750_000, 1, 216, 178, (0, 0), True, 0)),
    ("icgan", "celeba-64"): (40 * 182_637, 0, 64, 64, 138, (10, 0), True, 0),
    # 100,000 batches of 8; 0.999 a batch
    ("starganv2", "celeba-hq"): (800_000, 0, 8, 256, 178, (0, 0), True, 0.998),
    ("starganv2", "afhq"): (800_000, 0, 8, 256, 178, (0, 0), True, 0.998),
    # 20 + 10 epochs of 200,000
    ("ganimation", "units-128"): (6_000_000, 2_000_000, 25, 128, 178, (0, 0), True, 0),
}  # fmt: skip


def test_presets_of_the_other_papers() -> None:
    """No other presets exist, except StarGAN's and those for two cores."""
    found = {}
    for (name, preset), row in configure.PRESETS.items():
        if name != "stargan" and not preset.startswith(("demo", "smoke")):
            train, data = row.train, row.data
            found[name, preset] = (
                train.images, train.decay_images, train.batch, data.size, data.celeba_crop,
                data.celeba_shift, train.flip, train.ema,
            )  # fmt: skip
            assert train.warmup_images == 0
    assert found == OTHERS
    crops = {key: configure.PRESETS[key].train.crop for key in OTHERS}
    assert {key: crop for key, crop in crops.items() if crop != "none"} == {
        ("attgan", "celeba-128"): "shift", ("cyclegan", "celeba-128"): "shift",
        ("cyclegan", "rafd-128"): "shift", ("starganv2", "celeba-hq"): "zoom",
        ("starganv2", "afhq"): "zoom", ("drit", "yosemite-216"): "shift",
        ("drit", "cat2dog-216"): "shift", ("msgan", "yosemite-216"): "shift",
        ("msgan", "cat2dog-216"): "shift", ("drit", "celeba-216"): "shift",
        ("msgan", "celeba-216"): "shift",
    }  # fmt: skip
    # The side that the published code loads for windows of 128 and of 216 px.
    loads = {key: configure.PRESETS[key].data.load for key in OTHERS}
    assert {key: load for key, load in loads.items() if load} == {
        key: 256 if key[0] in ("drit", "msgan") else 143
        for key, crop in crops.items() if crop == "shift"
    }  # fmt: skip
    assert configure.resolve("starganv2", "afhq").model == StarGANv2(lambda_ds=2.0)
    assert configure.resolve("starganv2", "celeba-hq").model == StarGANv2()
    assert configure.resolve("starganv2", "celeba-hq").data.datasets == ("celeba-hq:folders",)
    decay = configure.resolve("starganv2", "afhq").train.ema
    assert decay ** (8 / 16) == pytest.approx(0.999, abs=1e-6)
    assert len(configure.resolve("icgan", "celeba-64").data.attributes) == 18
    assert len(configure.resolve("attgan", "celeba-128").data.attributes) == 13


def test_a_training_on_own_photos_can_start_from_the_demos_version() -> None:
    """The same networks at the same size."""
    small, demo = (configure.resolve("stargan", name) for name in ("small", "demo"))
    assert (small.model, small.data.size) == (demo.model, demo.data.size)


@pytest.mark.parametrize("name", ["demo", "small", "demo-joint", "demo-long", "smoke"])
def test_presets_for_two_cores_warm_up_and_end_with_a_falling_rate(name: str) -> None:
    config = configure.resolve("stargan", name)
    assert config.data.size == 64
    networks = config.model
    copies = networks.output == "residual"  # from the start, without a warm-up
    first = config.train.warmup_images
    assert copies == (first == 0)
    assert first < config.train.images - config.train.decay_images < config.train.images
    assert 64 % (1 << networks.d_repeat_num) == 0


class Unpainted:
    """The drawn faces' label files, and names for pictures."""

    def __init__(self, kind: str) -> None:
        jobs, tables = celeba_jobs(320, SEED) if kind == "celeba" else rafd_jobs(SUBJECTS, SEED)
        self.files = {**dict.fromkeys((job.name for job in jobs), b""), **tables}

    def names(self) -> list[str]:
        return sorted(self.files)

    def read(self, name: str) -> bytes:
        return self.files[name]

    def size(self, name: str) -> int:
        return len(self.files[name])


@pytest.fixture(scope="module")
def unpainted() -> dict[str, Unpainted]:
    return {kind: Unpainted(kind) for kind in ("celeba", "rafd")}


DRAWN = [key for key in configure.PRESETS if key[1].startswith(("demo", "smoke"))]


SPACES: dict[DataConfig, LabelSpace] = {}  # models share most


def space_of(data: DataConfig, trees: dict[str, Unpainted]) -> LabelSpace:
    """The label space of drawn faces, as the data steps build it, with their refusals."""
    if data in SPACES:
        return SPACES[data]
    sets = []
    for name, kind in split_datasets(data.datasets):
        table = read_source(kind, trees[kind], data).frame
        split, _ = assign(table, name, data)
        table = table.assign(split=split, reason="")
        table = table[select_limited(split, data.limit or len(table))].reset_index(drop=True)
        labels, values = read_labels(name, kind, table, data)
        known = (values == values).all(1)
        check_trained(labels, values[known], table["split"].to_numpy()[known], data)
        sets.append(labels)
    return SPACES.setdefault(data, LabelSpace(tuple(sets)))


@pytest.mark.parametrize(("name", "preset"), DRAWN)
def test_every_preset_for_two_cores_fits_the_drawn_faces(
    name: str, preset: str, unpainted: dict[str, Unpainted]
) -> None:
    """Each label is in the drawn files and varies; the model supports the resulting label space."""
    config = configure.resolve(name, preset)
    space = space_of(config.data, unpainted)
    with torch.device("meta"):
        nets = config.model.networks(space, config.data.size)
    assert nets.keys() == config.model.optim(space).keys()


def test_the_documented_settings_are_those_of_the_code() -> None:
    """To update it: python -m training.models.configure > docs/settings.md"""
    page = Path(__file__).parents[2] / "docs" / "settings.md"
    assert page.read_text() == configure.table()


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"celeba-64.*celeba-128"):
        configure.resolve("stargan", "celeba-64")


def job_of(dataset: Path, setting: str, model: Model) -> Job:
    return session_of(model, dataset, replace(QUICK, precision=setting)).job


def timed(monkeypatch: pytest.MonkeyPatch, seconds: dict[bool, float]) -> list[bool]:
    """Let each phase take the given seconds, by whether autocast is on; that of each."""
    passes: list[bool] = []

    def phases(model: StarGAN, space: LabelSpace) -> list[Phase]:
        def loss(nets: Nets, batch: Batch) -> Losses:
            passes.append(torch.is_autocast_enabled("cpu"))
            return model.d_loss(nets, batch, space)

        return [Phase("d", ("D",), loss)]

    monkeypatch.setattr(StarGAN, "phases", phases)
    monkeypatch.setattr("time.perf_counter", lambda: sum(seconds[bf16] for bf16 in passes))
    return passes


@pytest.mark.parametrize(("half", "faster"), [(0.5, True), (0.8, True), (0.9, False), (2.0, False)])
def test_auto_uses_bf16_if_it_was_measured_faster(
    half: float, faster: bool, monkeypatch: pytest.MonkeyPatch, binary: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """By 1.2 times, in passes of the model's own phases with autocast against passes without."""
    passes = timed(monkeypatch, {False: 1.0, True: half})
    caplog.set_level("INFO")
    assert precision.use_bf16(job_of(binary, "auto", SMALL)) is faster
    assert set(passes) == {False, True}
    assert f"1 s in fp32, {half:.3g} s in bf16" in caplog.text


def test_bf16_must_be_faster_twice(monkeypatch: pytest.MonkeyPatch, binary: Path) -> None:
    """Once may be noise of a busy machine."""
    measured = iter([1.0, 0.5, 1.0, 0.9])
    monkeypatch.setattr(precision, "_seconds", lambda *_: next(measured))
    assert not precision.use_bf16(job_of(binary, "auto", SMALL))
    assert not list(measured)


@pytest.mark.parametrize(("name", "chosen"), [("bf16", True), ("fp32", False)])
def test_a_configured_precision_is_not_measured(
    name: str, chosen: bool, monkeypatch: pytest.MonkeyPatch, binary: Path
) -> None:
    passes = timed(monkeypatch, {False: 1.0, True: 1.0})
    assert precision.use_bf16(job_of(binary, name, SMALL)) is chosen
    assert passes == []


@pytest.mark.parametrize("name", sorted(MODELS))
def test_precision_is_measured_on_every_model(
    name: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    """With its own phases, at its smallest."""
    model = MODELS[name]
    caplog.set_level("INFO")
    precision.use_bf16(job_of(request.getfixturevalue(richest(model)), "auto", model.tiny()))
    assert "precision=auto" in caplog.text


@pytest.mark.parametrize(("name", "preset"), [key for key in DRAWN if key[1] != "smoke"])
def test_the_test_split_of_the_drawn_faces_has_the_people_whom_the_gate_needs(
    name: str, preset: str, unpainted: dict[str, Unpainted]
) -> None:
    data = configure.resolve(name, preset).data
    for title, kind in split_datasets(data.datasets):
        table = read_source(kind, unpainted[kind], data).frame
        split, _ = assign(table, title, data)
        assert table.loc[split == "test", "identity"].nunique() >= PEOPLE, title

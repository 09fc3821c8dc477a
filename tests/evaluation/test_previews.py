"""Previews of models, and the held-out images used for previews and symptoms."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from training.data.batch import Batch
from training.data.dataset import Faces, to_uint8
from training.data.labels import LabelSet, LabelSpace
from training.evaluation.diagnostics import diagnostics
from training.evaluation.previews import (
    held_out,
    preview_png,
    render_previews,
    sample_grids,
    shuffled,
)
from training.models.attgan import AttGAN
from training.models.base import Diagnostic, EditOptions, Preview
from training.models.cyclegan import CycleGAN
from training.models.diat import DIAT
from training.models.drit import DRIT
from training.models.fader import Fader
from training.models.ganimation import GANimation
from training.models.icgan import IcGAN
from training.models.munit import MUNIT
from training.models.stargan import StarGAN
from training.models.starganv2 import StarGANv2
from training.models.stgan import STGAN
from training.models.styles import fixed_latent

CPU = torch.device("cpu")
_ATTGAN: dict[str, Any] = {"dim": 4, "layers": 2, "d_dim": 4, "d_layers": 2, "d_fc": 8}
PAIRS: dict[str, Any] = {"dim": 4, "blocks": 1, "d_dim": 4}
GANIMATION = GANimation(conv_dim=4, repeat_num=1, d_conv_dim=4, d_repeat_num=2)
ICGAN = IcGAN(dim=4, latent=4, e_dim=4, z_hidden=8, y_hidden=8)
BINARY, CLASSES = 3, 3  # labels of the fixtures
# data, model, and rows and columns of each picture
CASES: list[tuple[str, Any, dict[str, tuple[int, int]]]] = [
    ("binary", AttGAN(**_ATTGAN), {"intensity": (BINARY, 5)}),
    ("binary", STGAN(**_ATTGAN, shortcut_layers=1, inject_layers=1), {"intensity": (BINARY, 5)}),
    ("binary", CycleGAN(**PAIRS, d_layers=1), {"cycle": (BINARY, 3)}),
    ("binary", DIAT(**PAIRS, d_repeat_num=2), {"cycle": (BINARY, 3)}),
    ("binary", GANIMATION, {"sweep": (BINARY, 5), "attention": (4, 4), "interpolation": (13, 4)}),
    ("binary", Fader(dim=4, layers=2, hidden=8), {"slider": (BINARY, 6)}),
    ("binary", ICGAN, {"inverse": (4, 5)}),
    ("binary", MUNIT.tiny(), {"styles_1_ab": (5, 7), "styles_1_ba": (5, 7),
                              "styles_2_ab": (5, 7), "styles_2_ba": (4, 7)}),
    ("classes", DRIT(dim=4, blocks=1, d_dim=4, d_layers=2, dc_layers=0),
     {"styles_1_ab": (4, 6), "styles_2_ab": (4, 7), "styles_3_ab": (3, 7),
      "styles_1_ba": (3, 7), "styles_2_ba": (4, 7), "styles_3_ba": (4, 6)}),
    ("classes", StarGANv2(dim=4, max_dim=8, hidden=8),
     {f"styles_{k + 1}": (5, 4 + references) for k, references in enumerate((3, 2, 3))}),
]  # fmt: skip


def prepared(
    name: str, model: Any, request: pytest.FixtureRequest
) -> tuple[Faces, dict[str, Any], Batch]:
    """Held-out images, untrained networks in eval mode, and the inspected batch."""
    faces = Faces.open(request.getfixturevalue(name), "test")
    torch.manual_seed(4)
    nets = model.networks(faces.space, faces.size)
    for net in nets.values():
        net.eval()
    return faces, nets, held_out(faces.parts[0], list(range(8)), faces.space, CPU)


@pytest.mark.parametrize(("name", "model", "sizes"), CASES)
def test_previews_have_the_expected_shape(
    name: str, model: Any, sizes: dict[str, tuple[int, int]], request: pytest.FixtureRequest
) -> None:
    faces, nets, batch = prepared(name, model, request)
    with torch.no_grad():
        pictures: dict[str, Preview] = model.previews(nets, batch, faces.space)
    assert {k: tuple(p.images.shape[:2]) for k, p in pictures.items()} == sizes
    for picture in pictures.values():
        assert picture.images.shape[2:] == (3, 16, 16)
        assert len(picture.columns) in (0, picture.images.shape[1])
        assert len(picture.rows) in (0, picture.images.shape[0])
    grids = sample_grids(model, nets, faces, CPU)
    part = faces.parts[0].name
    assert set(grids) == {part, *(f"{part}-{k}" for k in sizes)}


def test_interpolation_starts_and_ends_at_single_translations(
    request: pytest.FixtureRequest,
) -> None:
    """With the source labels and with the target labels."""
    faces, nets, batch = prepared("binary", GANIMATION, request)
    png, _ = render_previews(GANIMATION, nets, batch, faces.space)["interpolation"]
    with torch.no_grad():
        picture = GANIMATION.previews(nets, batch, faces.space)["interpolation"]
        for place, labels in ((0, batch.source), (-1, batch.target)):
            single = GANIMATION.translate(nets, batch.image[:4], None, labels[:4])
            torch.testing.assert_close(picture.images[place], single)
    with Image.open(io.BytesIO(png)) as moving:
        frames = []
        for number in (0, moving.n_frames - 1):
            moving.seek(number)
            frames.append(np.asarray(moving.convert("RGB")))
    for frame, images in zip(frames, (picture.images[0], picture.images[-1]), strict=True):
        still = preview_png(Preview(images[None], (), ""))
        assert np.array_equal(frame, np.asarray(Image.open(io.BytesIO(still)).convert("RGB")))


def test_sweep_changes_only_one_label(request: pytest.FixtureRequest) -> None:
    faces, nets, batch = prepared("binary", GANIMATION, request)
    with torch.no_grad():
        sweep = GANIMATION.previews(nets, batch, faces.space)["sweep"]
        c = batch.source[:1].clone()
        c[:, 2] = 1 / 3
        third = GANIMATION.translate(nets, batch.image[:1], None, c)
    assert sweep.rows[2] == "Male"
    torch.testing.assert_close(sweep.images[2, 2], third[0])
    assert torch.equal(sweep.images[2, 0], batch.image[0])


def test_attention_preview_composes_the_edit(
    request: pytest.FixtureRequest,
) -> None:
    faces, nets, batch = prepared("binary", GANIMATION, request)
    with torch.no_grad():
        images = GANIMATION.previews(nets, batch, faces.space)["attention"].images
    x, mask, colours, edited = images.unbind(1)
    kept = (mask + 1) / 2
    torch.testing.assert_close(kept * x + (1 - kept) * colours, edited)


def test_intensities_match_the_column_titles(request: pytest.FixtureRequest) -> None:
    """Each column is the edit with the intensity in its title; 1.5 is this model's own."""
    model = AttGAN(**_ATTGAN, test_int=1.5)
    faces, nets, batch = prepared("binary", model, request)
    with torch.no_grad():
        picture = model.previews(nets, batch, faces.space)["intensity"]
        labels = faces.space.tasks(batch.source, 0)
        row = int(labels[2].changed.nonzero()[2 % len(labels[2].changed.nonzero())])
        edit = (nets, batch.image[[row]], batch.source[[row]], labels[2].target[[row]])
        own = model.translate(*edit)[0]
        columns = {
            title: model.translate(*edit, EditOptions(intensity=float(title)))[0]
            for title in picture.columns[1:]
        }
    assert picture.rows[2] == "Male"
    assert torch.equal(picture.images[2, 0], batch.image[row])
    assert len(columns) == 4
    for found, expected in zip(picture.images[2, 1:], columns.values(), strict=True):
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(columns["1.5"], own)


def test_cycle_preview_translates_the_output_back(request: pytest.FixtureRequest) -> None:
    """The row of Male, pair 1: `Gab1` takes the label away, `Gba1` gives it."""
    model = CycleGAN(**PAIRS, d_layers=1)
    faces, nets, batch = prepared("binary", model, request)
    with torch.no_grad():
        picture = model.previews(nets, batch, faces.space)["cycle"]
        x, there, back = picture.images[2].unbind(0)
        (male,) = {bool(c[2]) for image, c in zip(batch.image, batch.source, strict=True)
                   if torch.equal(image, x)}  # fmt: skip
        out, home = ("Gab1", "Gba1") if male else ("Gba1", "Gab1")
        expected = [nets[out](x[None])[0], nets[home](there[None])[0]]
    assert picture.rows[2] == "Male"
    torch.testing.assert_close(torch.stack([there, back]), torch.stack(expected))


def test_styles_come_from_latents_and_from_references_of_the_domain(
    request: pytest.FixtureRequest,
) -> None:
    model = StarGANv2(dim=4, max_dim=8, hidden=8)
    faces, nets, batch = prepared("classes", model, request)
    with torch.no_grad():
        images = model.previews(nets, batch, faces.space)["styles_2"].images
        y = torch.tensor([1])
        own = nets["G"](batch.image[2:3], nets["E"](images[0, 4:5], y)).clamp(-1, 1)
    members = [i for i in range(8) if batch.source[i, 1] == 1]
    assert torch.equal(images[0, 4], batch.image[members[0]])
    torch.testing.assert_close(images[3, 4], own[0])
    assert not torch.equal(images[1, 1], images[1, 2])


def test_each_direction_of_a_pair_shows_latents_and_references_of_its_target(
    request: pytest.FixtureRequest,
) -> None:
    """From Male to its absence, pair 1: inputs of the first domain, references of the second."""
    model = MUNIT.tiny()
    faces, nets, batch = prepared("binary", model, request)
    with torch.no_grad():
        picture = model.previews(nets, batch, faces.space)["styles_2_ab"]
        male = batch.source[:, 2] > 0.5
        x, reference = batch.image[male][:4], batch.image[~male][0]
        assert torch.equal(picture.images[1:, 0], x)
        assert torch.equal(picture.images[0, 4], reference)
        styled = nets["Gb1"](nets["Ca1"](x), nets["Sb1"](reference.expand_as(x)))
        torch.testing.assert_close(picture.images[1:, 4], styled)
        drawn = nets["Gb1"](nets["Ca1"](x), fixed_latent(x, 8, 2))
        torch.testing.assert_close(picture.images[1:, 3], drawn)
    assert picture.columns[3:5] == ("Male=0, seed 2", "Male=0, reference")


def test_attributes_come_from_latents_and_from_references_of_the_other_domain(
    request: pytest.FixtureRequest,
) -> None:
    """Pair 1, back from the third class to the first."""
    model = DRIT(dim=4, blocks=1, d_dim=4, d_layers=2, dc_layers=0)
    faces, nets, batch = prepared("classes", model, request)
    with torch.no_grad():
        images = model.previews(nets, batch, faces.space)["styles_2_ba"].images
        first, third = (batch.image[batch.source[:, k] == 1] for k in (0, 2))
        z = nets["Ea1"](first[:1], 0)[:, :8]
        own = nets["G1"](nets["Ec1"](third[:1], 1), z, 0)
    assert torch.equal(images[1:, 0], third)
    assert torch.equal(images[0, 4:], first)
    torch.testing.assert_close(images[1, 4], own[0])
    assert not torch.equal(images[1, 1], images[1, 2])


def test_model_without_previews_has_only_the_grid(
    request: pytest.FixtureRequest,
) -> None:
    model = StarGAN(conv_dim=4, repeat_num=1, d_conv_dim=4, d_repeat_num=2)
    faces, nets, _ = prepared("binary", model, request)
    assert set(sample_grids(model, nets, faces, CPU)) == {"celeba"}


def test_preview_png_has_one_cell_per_image() -> None:
    images = torch.zeros(2, 3, 3, 8, 8)
    images[1, 2] = 1.0
    picture = Preview(images, ("a", "b", "c"), "")
    page = np.asarray(Image.open(io.BytesIO(preview_png(picture))).convert("RGB"))
    assert page.shape[1] == 4 + 3 * (96 + 4)
    assert (page[-50, -50] == 255).all()
    assert (page[-50, -150] == 128).all()
    assert to_uint8(images[:1, 0])[0, 0, 0, 0] == 128


def test_animated_preview_has_one_frame_per_row() -> None:
    """It loops forever; the first and last frame are held longer."""
    images = torch.linspace(-1, 1, 5)[:, None, None, None, None].expand(5, 2, 3, 8, 8)
    with Image.open(io.BytesIO(preview_png(Preview(images, (), "", moves=True)))) as moving:
        assert (moving.format, moving.n_frames, moving.info["loop"]) == ("PNG", 5, 0)
        times, greys = [], []
        for number in range(5):
            moving.seek(number)
            times.append(moving.info["duration"])
            greys.append(moving.convert("RGB").getpixel((20, 20)))
    assert times == [900, 120, 120, 120, 900]
    assert greys == [(v, v, v) for v in (0, 64, 128, 191, 255)]


def symptom(nets: Any, image: torch.Tensor, target: torch.Tensor) -> list[Diagnostic]:
    """A diagnostic that returns the active mask column of c̃."""
    return [Diagnostic("mask", float(target[:, 6:].argmax(1).float().mean()), 0, 9, "")]


class DiagnosticModel:
    diagnostics = staticmethod(symptom)


def test_symptoms_of_a_joint_model_use_the_mask_of_each_data_set(joint: Path) -> None:
    """Also on data with its second set only; with several sets their names are appended."""
    both = Faces.open(joint, "test")
    model: Any = DiagnosticModel()
    found = diagnostics(model, {}, both, both.space, CPU)
    assert [(s.name, s.value) for s in found] == [("mask_celeba", 0.0), ("mask_rafd", 1.0)]
    alone = Faces("test", LabelSpace(both.space.sets[1:]), both.size, both.parts[1:])
    found = diagnostics(model, {}, alone, both.space, CPU)
    assert [(s.name, s.value) for s in found] == [("mask", 1.0)]


def test_labels_that_are_sorted_in_the_data_are_mixed_among_held_out_images() -> None:
    """Else the targets, which are the neighbours' labels, would be the images' own."""
    domain = torch.arange(3000) // 1000  # as of folders, one after the other
    rows = shuffled(len(domain), 64)
    assert len(set(rows)) == 64
    assert float((domain[rows] != domain[rows].roll(1)).float().mean()) > 0.4
    assert rows == shuffled(3000, 64)
    assert sorted(shuffled(5, 64)) == [0, 1, 2, 3, 4]


def test_held_out_targets_are_shifted_labels(joint: Path) -> None:
    faces = Faces.open(joint, "test")
    batch = held_out(faces.parts[1], [0, 1, 2], faces.space, CPU)
    assert batch.dataset == 1
    assert torch.equal(batch.target, batch.source[[2, 0, 1]])
    assert torch.equal(batch.source, faces.space.encode(faces.parts[1].labels[:3], 1))
    other = LabelSpace((LabelSet("pets", "binary", ("Cat",)),))
    with pytest.raises(ValueError, match="unknown data set 'rafd'"):
        held_out(faces.parts[1], [0], other, CPU)

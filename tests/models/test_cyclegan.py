"""CycleGAN against the paper: sizes, reimplemented loss terms, pairs and chains."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from training.data.batch import Batch
from training.data.dataset import Faces
from training.data.labels import LabelSet, LabelSpace
from training.data.order import Order
from training.models.cyclegan import CycleGAN
from training.models.pairs import chained, identity_mappings, pairs_of, split

FIVE = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Male", "Young")
CELEBA = LabelSet("celeba", "binary", FIVE, (FIVE[:3],))
GENDER = LabelSpace((LabelSet("faces", "onehot", ("female", "male")),))
SMALL = CycleGAN(dim=4, blocks=1, d_dim=4, d_layers=1)


@pytest.mark.parametrize(("blocks", "g"), [(6, 7_837_699), (9, 11_378_179)])
def test_parameter_counts_are_the_golden_ones(blocks: int, g: int) -> None:
    with torch.device("meta"):
        nets = CycleGAN(blocks=blocks).networks(GENDER, 128)
    counts = {name: sum(p.numel() for p in net.parameters()) for name, net in nets.items()}
    assert counts == {"Gab0": g, "Gba0": g, "Da0": 2_764_737, "Db0": 2_764_737}


def test_self_reconstruction_uses_a_network_to_a_domain_of_the_image() -> None:
    """A chain to unchanged labels would copy the input and look like a perfect reconstruction."""
    nets = SMALL.networks(LabelSpace((CELEBA,)), 32)
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    own = torch.tensor([[0.0, 1, 0, 0, 1], [0, 0, 0, 1, 0]])  # blond; neither colour, male
    with torch.no_grad():
        back = SMALL.reconstruct(nets, x, own)
        assert torch.equal(back[:1], nets["Gab0"](x[:1]))
        assert torch.equal(back[1:], nets["Gba3"](x[1:]))
        assert torch.equal(SMALL.translate(nets, x, own, own), x)


def test_the_critic_scores_patches_of_70_px() -> None:
    d = CycleGAN().networks(GENDER, 128)["Da0"]
    assert d(torch.zeros(1, 3, 128, 128)).shape == (1, 1, 14, 14)


def test_the_pairs_are_those_of_stargans_comparison() -> None:
    """Three pairs of hair colours, gender and age; for classes, all pairs."""
    assert [p.name for p in pairs_of(CELEBA)] == [
        "Black_Hair-Blond_Hair", "Black_Hair-Brown_Hair", "Blond_Hair-Brown_Hair", "Male", "Young",
    ]  # fmt: skip
    assert len(pairs_of(LabelSet("rafd", "onehot", tuple("abcdefgh")))) == 28
    black, blond = torch.eye(5)[0], torch.eye(5)[1]
    first, second = split(torch.stack([black, blond, black + torch.eye(5)[3]]), pairs_of(CELEBA)[3])
    assert (first.tolist(), second.tolist()) == ([False, False, True], [True, True, False])


def test_every_loss_term_equals_the_papers() -> None:
    torch.manual_seed(0)
    nets: dict[str, Any] = SMALL.networks(GENDER, 16)
    a, b = torch.rand(3, 3, 16, 16) * 2 - 1, torch.rand(3, 3, 16, 16) * 2 - 1
    none = torch.zeros(3, 2)
    batch = Batch(a, none, none, 0, lambda *_: none, 0.0, b[:, None])
    g, f, da, db = (nets[n] for n in ("Gab0", "Gba0", "Da0", "Db0"))

    def l1(x: Tensor, y: Tensor) -> Tensor:
        return (x - y).abs().mean()

    expected = {
        "gan_ab": ((db(g(a)) - 1) ** 2).mean(),
        "gan_ba": ((da(f(b)) - 1) ** 2).mean(),
        "cyc": 10 * (l1(f(g(a)), a) + l1(g(f(b)), b)),
        "idt": 5 * (l1(g(b), b) + l1(f(a), a)),
    }
    close(SMALL.g_loss(nets, batch, 0), expected)
    expected = {
        "a_real": ((da(a) - 1) ** 2).mean() / 2,
        "a_fake": (da(f(b)) ** 2).mean() / 2,
        "b_real": ((db(b) - 1) ** 2).mean() / 2,
        "b_fake": (db(g(a)) ** 2).mean() / 2,
    }
    close(SMALL.d_loss(nets, batch, 0), expected)


def close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)


def test_edits_of_several_attributes_are_chained() -> None:
    """Black-haired woman to blond man: through both pairs; else unchanged."""
    space = LabelSpace((CELEBA,))
    nets: dict[str, Any] = SMALL.networks(space, 16)
    used: list[str] = []
    for name, net in nets.items():
        net.forward = lambda x, name=name: (used.append(name), x + 1)[1]
    x = torch.zeros(2, 3, 16, 16)
    source = torch.tensor([[1.0, 0, 0, 0, 1], [0, 1, 0, 1, 1]])
    target = torch.tensor([[0.0, 1, 0, 1, 1], [0, 1, 0, 1, 1]])
    out = SMALL.translate(nets, x, source, target)
    assert used == ["Gab0", "Gba3"]
    assert out.amax((1, 2, 3)).tolist() == [2, 0]
    with pytest.raises(ValueError, match="give the labels of the picture"):
        SMALL.translate(nets, x, None, target)


def test_a_pairs_function_gets_the_rows_of_its_images() -> None:
    """So that it can pair them with what was given for each row, such as a style image."""
    space = LabelSpace((CELEBA,))
    source = torch.tensor([[1.0, 0, 0, 0, 1], [0, 1, 0, 1, 1], [0, 1, 0, 0, 1]])
    target = torch.tensor([[0.0, 1, 0, 1, 1], [0, 1, 0, 1, 1], [1, 0, 0, 0, 1]])
    given = torch.tensor([10.0, 20, 30])
    calls: list[tuple[str, list[float]]] = []

    def edge(direction: str, x: Tensor, rows: Tensor) -> Tensor:
        calls.append((direction, given[rows].tolist()))
        return x + given[rows, None]

    out = chained(edge, pairs_of(space.sets[0]), torch.zeros(3, 1), source, target)
    assert calls == [("ab0", [10]), ("ba0", [30]), ("ba3", [10])]
    assert out[:, 0].tolist() == [20, 0, 30]
    calls.clear()
    out = identity_mappings(edge, pairs_of(space.sets[0]), torch.zeros(3, 1), source)
    assert calls == [("ab0", [20, 30]), ("ba0", [10])]
    assert out[:, 0].tolist() == [10, 20, 30]


def test_with_a_hub_edits_between_the_others_go_through_it() -> None:
    """RaFD's neutral and seven others: happy to sad is happy to neutral to sad."""
    names = ("angry", "happy", "neutral", "sad")
    space = LabelSpace((LabelSet("rafd", "onehot", names),))
    model = replace(SMALL, hub="neutral")
    assert [p.name for p in model.pairs(space)] == ["neutral-angry", "neutral-happy", "neutral-sad"]
    nets: dict[str, Any] = model.networks(space, 16)
    for name, net in nets.items():
        net.forward = lambda x, name=name: x * 10 + 1 + int(name[-1]) + 5 * ("ba" in name)
    _, happy, neutral, sad = torch.eye(4)
    source, target = (
        torch.stack([happy, neutral, happy, sad]),
        torch.stack([sad, sad, neutral, sad]),
    )
    out = model.translate(nets, torch.zeros(4, 3, 16, 16), source, target)
    assert out.amax((1, 2, 3)).tolist() == [73, 3, 7, 0]  # Gba1 then Gab2; Gab2; Gba1; none
    with pytest.raises(ValueError, match=r"hub='bored': one of the classes is needed \(angry, "):
        replace(SMALL, hub="bored").pairs(space)


def test_d_trains_on_the_fakes_of_gs_step() -> None:
    """As published; G runs only once per step."""
    nets: dict[str, Any] = SMALL.networks(GENDER, 16)
    a, b, none = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16), torch.zeros(2, 2)
    batch = Batch(a, none, none, 0, lambda *_: none, 0.0, b[:, None])
    fakes = {"a": nets["Gba0"](b), "b": nets["Gab0"](a)}
    SMALL.g_loss(nets, batch, 0)
    with torch.no_grad():
        for name in ("Gab0", "Gba0"):
            next(nets[name].parameters()).add_(1)  # G's step
    found = SMALL.d_loss(nets, batch, 0)
    for side in "ab":
        score = nets[f"D{side}0"](fakes[side])
        torch.testing.assert_close(found[f"{side}_fake"], (score**2).mean() / 2)


def test_a_batch_shows_both_sides_of_its_pair(binary: Path) -> None:
    faces = Faces.open(binary, "train")
    order = Order(faces, 1, 8, flip=True, length=64)
    cpu = torch.device("cpu")
    for turn in range(len(SMALL.pairs(faces.space))):
        sides = SMALL.domain_masks(faces.parts[0].labels, faces.space, turn)
        batch = order.batch(0, 8, 8, slice(0, 8), cpu, sides)
        pair = SMALL.pairs(faces.space)[turn]
        assert split(batch.source, pair)[0].all()
        assert split(batch.target, pair)[1].all()
        assert batch.reference is not None
        assert batch.reference.shape == (8, 1, 3, 16, 16)
    none = torch.zeros(len(faces.parts[0]), dtype=torch.bool)
    with pytest.raises(ValueError, match="no training image on one side"):
        order.batch(0, 8, 8, slice(0, 8), cpu, (none, ~none))


def test_unsupported_label_spaces_are_refused() -> None:
    units = LabelSpace((LabelSet("faces", "continuous", ("AU12",)),))
    with pytest.raises(ValueError, match="faces: continuous: CycleGAN takes one data set"):
        SMALL.networks(units, 16)

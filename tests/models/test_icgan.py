"""IcGAN: sizes, stages and reimplemented loss terms."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from training.data.batch import Batch
from training.data.labels import LabelSet, LabelSpace
from training.models.icgan import IcGAN, edited
from training.models.layers import normal

EIGHTEEN = LabelSpace((LabelSet("celeba", "binary", tuple(f"a{i}" for i in range(18))),))
THREE = LabelSpace((LabelSet("celeba", "binary", ("a", "b", "c")),))
JOINT = LabelSpace((*THREE.sets, LabelSet("rafd", "onehot", ("happy", "sad"))))
SMALL = IcGAN(dim=4, latent=4, e_dim=4, z_hidden=8, y_hidden=8)


def test_parameter_counts_are_the_golden_ones() -> None:
    with torch.device("meta"):
        nets = IcGAN().networks(EIGHTEEN, 64)
    assert {name: sum(p.numel() for p in net.parameters()) for name, net in nets.items()} == {
        "G": 3_725_123, "D": 2_803_393, "Ez": 18_278_244, "Ey": 3_186_962,
    }  # fmt: skip


def test_stages_follow_each_other() -> None:
    spans = [(p.name, p.active_range) for p in IcGAN().phases(THREE)]
    assert spans == [
        ("d", (0, 0.625)), ("g", (0, 0.625)), ("ez", (0.625, 1)), ("ey", (0.625, 1)),
    ]  # fmt: skip


def test_a_stage_trains_only_its_networks(binary: Path, tmp_path: Path) -> None:
    """G and D do not change in the encoder stage, nor the encoders in the GAN stage."""
    from safetensors.torch import load_file

    from training.core.config import TrainConfig, to_json
    from training.train import train

    config = TrainConfig(images=64, decay_images=0, batch=8, checkpoint_images=8, log_images=8,
                         sample_images=64, precision="fp32", ema=0.0, keep=9)  # fmt: skip
    train(binary, tmp_path / "m.json", "icgan", to_json(SMALL), to_json(config),
          run=tmp_path / "run")  # fmt: skip
    moved = {}
    for name in ("G", "D", "Ez", "Ey"):
        at = [
            load_file(tmp_path / f"run/checkpoints/{images:012d}/nets/{name}.safetensors")
            for images in (8, 40, 64)
        ]
        keys = [k for k in at[0] if k.endswith("weight")]
        moved[name] = [any((a[k] != b[k]).any() for k in keys) for a, b in pairwise(at)]
    assert moved == {"G": [True, False], "D": [True, False], "Ez": [False, True],
                     "Ey": [False, True]}  # fmt: skip


def test_every_loss_term_equals_the_papers() -> None:
    torch.manual_seed(0)
    nets: dict[str, Any] = SMALL.networks(THREE, 16)
    g, d = nets["G"], nets["D"]
    u = torch.rand(4, 4)
    z = torch.distributions.Normal(0.0, 1.0).icdf(u)
    torch.testing.assert_close(normal(u), z)
    y = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, 0]])
    other, wrong = y[[1, 0, 2, 3]], y[[2, 0, 1, 1]]
    x = torch.rand(4, 3, 16, 16) * 2 - 1
    batch = Batch(x, y, other, 0, lambda name, shape: u, 0.0, other=wrong)

    def bce(score: Tensor, truth: float) -> Tensor:
        return F.binary_cross_entropy(score.sigmoid(), torch.full_like(score, truth))

    fake = g(z, other)
    expected = {
        "real": bce(d(x, y), 1),
        "wrong": bce(d(x, wrong), 0) / 2,
        "fake": bce(d(fake, other), 0) / 2,
    }
    close(SMALL.d_loss(nets, batch), expected)
    close(SMALL.g_loss(nets, batch), {"fake": bce(d(g(z, other), other), 1)})
    g.eval()
    made = g(z, other)
    close(SMALL.z_loss(nets, batch), {"z": ((nets["Ez"](made)[..., 0, 0] - z) ** 2).mean()})
    assert [p.eval_nets for p in SMALL.phases(THREE)] == [(), (), ("G",), ()]
    found = nets["Ey"](x)[..., 0, 0]
    close(SMALL.y_loss(nets, batch, THREE), {"y": ((found - (2 * y - 1)) ** 2).mean()})


def test_an_edit_replaces_labels_in_the_label_encoders_prediction() -> None:
    """Changed labels come from the target, the others are Ey's, ±1 by their sign as published.

    Without a source all come from the target.
    """
    torch.manual_seed(0)
    nets: dict[str, Any] = SMALL.networks(JOINT, 16)
    for net in nets.values():
        net.eval()
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    source = JOINT.encode(torch.tensor([[1.0, 0, 0], [0, 1, 1]]), 0)
    target = JOINT.encode(torch.tensor([[0.0, 0, 0], [0, 1, 0]]), 0)  # a, and c, change
    z, y = nets["Ez"](x)[..., 0, 0], nets["Ey"](x)[..., 0, 0]
    assert ((y > -1) & (y < 1) & (y != 0)).all()
    signed = torch.zeros(2, JOINT.dim_g)  # labels of the other data set are unknown
    signed[:, :3], signed[:, 5] = y[:, :3].sign(), 1
    signed[0, 0] = signed[1, 2] = -1
    expected = nets["G"].main(torch.cat([z, signed], 1)[..., None, None])
    torch.testing.assert_close(SMALL.translate(nets, x, source, target), expected)
    whole = SMALL.translate(nets, x, None, target)
    torch.testing.assert_close(whole, nets["G"](z, target))


def test_labels_that_the_requested_one_excludes_are_not_left_to_the_prediction() -> None:
    """G was trained on one class, and the hair colours of an edit exclude each other."""
    torch.manual_seed(0)
    hair = LabelSet("celeba", "binary", ("black", "blond", "male"), (("black", "blond"),))
    space = LabelSpace((hair, LabelSet("rafd", "onehot", ("neutral", "happy", "sad"))))
    nets: dict[str, Any] = SMALL.networks(space, 16)
    for net in nets.values():
        net.eval()
    for index, before, after, own in (
        (0, [0, 0, 0], [0, 1, 0], [0, 1]),  # a face without a colour, to blond
        (1, [1, 0, 0], [0, 1, 0], [3, 4, 5]),
    ):
        source, target = (
            space.encode(torch.tensor([row]).float(), index) for row in (before, after)
        )
        for logits in (8.0, -8.0):  # Ey sees every label, or none
            nets["Ey"].forward = lambda x, logits=logits: torch.full((len(x), 6, 1, 1), logits)
            found = edited(nets, torch.zeros(1, 3, 16, 16), source, target)
            assert torch.equal(found[:, own], target[:, own])


def test_a_prediction_becomes_labels_of_the_kind_that_g_was_trained_on() -> None:
    """Both sides of 0 for attributes, one class of classes, intensities as they are."""
    units = LabelSet("faces", "continuous", ("AU06", "AU12"))
    space = LabelSpace((*JOINT.sets, units))
    g: Any = SMALL.networks(space, 16)["G"]
    y = torch.tensor(
        [[0.2, -0.2, 1.5, -0.9, -0.8, 0.5, -1.5], [-1.2, 0.9, -0.1, 0.4, 0.3, -0.5, 2]]
    )
    expected = torch.tensor([[1, 0, 1, 0, 1, 0.75, 0], [0, 1, 0, 1, 0, 0.25, 1]])
    torch.testing.assert_close(g.labels(y), expected)


def close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [8, 48])
def test_a_size_that_is_no_power_of_two_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"size={size}: a power of two"):
        IcGAN().networks(THREE, size)

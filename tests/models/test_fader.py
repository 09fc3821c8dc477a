"""Fader Networks against the paper: sizes, reimplemented losses, λ(t), modes, slider."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from training.data.batch import Batch
from training.data.labels import LabelSet, LabelSpace
from training.engine.schedule import Schedule
from training.models import configure
from training.models.base import EditOptions, Losses
from training.models.fader import Fader
from training.models.layers import eval_mode

HAIR = LabelSet("celeba", "binary", ("Black_Hair", "Blond_Hair", "Male"),
                (("Black_Hair", "Blond_Hair"),))  # fmt: skip
MOODS = LabelSet("rafd", "onehot", ("angry", "happy", "sad", "calm"))
FACES, JOINT = LabelSpace((HAIR,)), LabelSpace((HAIR, MOODS))
SMALL = Fader(dim=4, max_dim=12, layers=2, hidden=8)
SKIPPED = Fader(dim=4, max_dim=12, layers=3, hidden=8, skips=2)


def count(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def attributes(number: int) -> LabelSpace:
    return LabelSpace((LabelSet("celeba", "binary", tuple(f"a{i}" for i in range(number))),))


@pytest.mark.parametrize(
    ("model", "size", "number", "encoder", "decoder", "d"),
    [
        (Fader(), 256, 1, 6_985_568, 7_014_944, 8_655_362),
        (Fader(), 256, 2, 6_985_568, 7_046_784, 8_656_388),
        (Fader(), 256, 13, 6_985_568, 7_397_024, 8_667_674),
        (Fader(), 256, 40, 6_985_568, 8_256_704, 8_695_376),
        (Fader(), 128, 1, 6_985_568, 7_014_944, 4_459_522),
        (Fader(), 128, 13, 6_985_568, 7_397_024, 4_471_834),
        (Fader(layers=5), 64, 1, 2_789_728, 2_803_232, 4_459_522),
        (Fader(layers=5), 64, 13, 2_789_728, 2_988_704, 4_471_834),
        (Fader(skips=1), 256, 1, 6_985_568, 9_112_096, 12_851_202),
    ],
)
def test_parameter_counts_are_the_golden_ones(
    model: Fader, size: int, number: int, encoder: int, decoder: int, d: int
) -> None:
    with torch.device("meta"):
        nets: dict[str, Any] = model.networks(attributes(number), size)
    parts = (nets["G"].encoder, nets["G"].decoder, nets["D"])
    assert tuple(map(count, parts)) == (encoder, decoder, d)
    assert count(nets["G"]) == encoder + decoder


def trained(model: Fader, space: LabelSpace) -> dict[str, Any]:
    """Networks whose batch norms have statistics and weights of their own."""
    torch.manual_seed(1)
    nets = model.networks(space, 16)
    for net in nets.values():
        for layer in net.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                for value in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                    assert value is not None
                    torch.nn.init.uniform_(value, 0.5, 1.5)
    return dict(nets)


def batch_of(space: LabelSpace, dataset: int, position: float = 0.1) -> Batch:
    torch.manual_seed(3)
    labels = [[1.0, 0, 1], [0, 1, 0], [0, 0, 1], [0, 1, 1]] if dataset == 0 else torch.eye(4)
    source = space.encode(torch.as_tensor(labels), dataset)
    kept: dict[str, Tensor] = {}

    def noise(name: str, shape: tuple[int, ...]) -> Tensor:
        return kept.setdefault(name, torch.rand(4, *shape))

    return Batch(
        torch.rand(4, 3, 16, 16) * 2 - 1, source, source, dataset, noise,
        torch.tensor(position, dtype=torch.float64),
    )  # fmt: skip


def norm(x: Tensor, w: dict[str, Tensor], name: str, training: bool) -> Tensor:
    if training:
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    else:
        mean, var = w[f"{name}.running_mean"], w[f"{name}.running_var"]
    scale = w[f"{name}.weight"] / (var + 1e-5).sqrt()
    return (x - mean[:, None, None]) * scale[:, None, None] + w[f"{name}.bias"][:, None, None]


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x)


def encode(w: dict[str, Tensor], x: Tensor, layers: int, training: bool) -> list[Tensor]:
    """Outputs of every layer; the first has no batch norm."""
    out = []
    for i in range(layers):
        name = f"encoder.{i}"
        x = F.conv2d(x, w[f"{name}.0.weight"], w[f"{name}.0.bias"], 2, 1)
        x = leaky(norm(x, w, f"{name}.1", training) if i else x)
        out.append(x)
    return out


def decode(w: dict[str, Tensor], z: list[Tensor], y: Tensor, skips: int, training: bool) -> Tensor:
    x = z[-1]
    for i in range(len(z)):
        if 1 <= i <= skips:
            x = torch.cat([x, z[len(z) - 1 - i]], 1)
        planes = y[:, :, None, None] * torch.ones(1, 1, *x.shape[2:])
        x = F.conv_transpose2d(torch.cat([x, planes], 1), w[f"decoder.{i}.0.weight"], None, 2, 1)
        if i < len(z) - 1:
            x = norm(x, w, f"decoder.{i}.1", training).clamp_min(0)
    return torch.tanh(x)


def read(w: dict[str, Tensor], x: Tensor, training: bool, noise: Any = None) -> Tensor:
    """Logits of the latent's D; 30 % of its features are dropped in training."""
    i = 0
    while f"main.{i}.0.weight" in w:
        name = f"main.{i}"
        x = F.conv2d(x, w[f"{name}.0.weight"], w[f"{name}.0.bias"], 2, 1)
        x = leaky(norm(x, w, f"{name}.1", training))
        if noise:
            keep = (noise(f"dropout{x.shape[2]}", tuple(x.shape[1:])) >= 0.3).float()
            assert 0 < keep.mean() < 1
            x = x * keep / 0.7
        i += 1
    assert x.shape[2:] == (1, 1)
    x = leaky(x[:, :, 0, 0] @ w["head.0.weight"].T + w["head.0.bias"])
    return x @ w["head.2.weight"].T + w["head.2.bias"]


def onehots(batch: Batch, space: LabelSpace) -> Tensor:
    """What the decoder gets: [is 0, is 1] of each attribute, or the class; of joint data, masks."""
    c, rows = batch.source, []
    for row in c.tolist():
        pairs = [value for label in row[:3] for value in (1 - label, label)]
        if space is JOINT:
            if batch.dataset == 1:
                pairs = [0.0] * 6
            pairs += row[3:]
        rows.append(pairs)
    return torch.tensor(rows)


def entropies(logits: Tensor, batch: Batch, *, other: bool) -> Tensor:
    """Σ over attributes of the mean cross entropy, written out."""
    total = torch.zeros(())
    for row, c in zip(logits, batch.source.tolist(), strict=True):
        if batch.dataset == 0:
            for k in range(3):
                truth = int(c[k]) if not other else 1 - int(c[k])
                total = total - torch.log_softmax(row[2 * k : 2 * k + 2], 0)[truth]
        else:
            own = c[3:7].index(1.0)
            raise_by = 0
            if other:
                place = c[3:7].index(1.0)  # row k has class k
                raise_by = 1 + int(batch.noise("other", ())[place] * 3)
            total = total - torch.log_softmax(row[6:10], 0)[(own + raise_by) % 4]
    return total / len(logits)


def close(found: Losses, expected: Losses) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)


def same_slopes(found: Losses, expected: Losses, net: torch.nn.Module) -> None:
    """Of the sum of the terms: nothing is detached that the formulas do not detach."""
    # A convolution's bias before a batch norm in training has no slope but rounding.
    over = [p for name, p in net.named_parameters() if name.endswith("weight")]
    ours, theirs = (
        torch.autograd.grad(torch.stack(list(terms.values())).sum(), over)
        for terms in (found, expected)
    )
    for one, two in zip(ours, theirs, strict=True):
        assert two.abs().max() > 0
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4 * float(two.abs().max()))


@pytest.mark.parametrize(("space", "dataset"), [(FACES, 0), (JOINT, 0), (JOINT, 1)])
@pytest.mark.parametrize("model", [SMALL, SKIPPED], ids=["plain", "skips"])
def test_every_loss_term_and_its_slopes_equal_the_papers(
    model: Fader, space: LabelSpace, dataset: int
) -> None:
    """In each phase the other network is in evaluation mode: its running statistics, no dropout.

    λ is 1e4 times the paper's, so that the slopes of its term show beside the reconstruction's.
    """
    model = replace(model, lambda_lat=1.0)
    nets, batch = trained(model, space), batch_of(space, dataset)
    g, d = (
        {k: v.clone() for k, v in nets[n].named_buffers()} | dict(nets[n].named_parameters())
        for n in "GD"
    )
    x, depth = batch.image, -1 - model.skips
    first, second = model.phases(space)
    z = encode(g, x, model.layers, training=False)
    logits = read(d, z[depth], training=True, noise=batch.noise)
    expected = {"cls": entropies(logits, batch, other=False)}
    with eval_mode({n: nets[n] for n in first.eval_nets}):
        found = first.loss(nets, batch)
    close(found, expected)
    same_slopes(found, expected, nets["D"])
    nets["D"].load_state_dict(d)  # statistics before that phase
    z = encode(g, x, model.layers, training=True)
    again = decode(g, z, onehots(batch, space), model.skips, training=True)
    logits = read(d, z[depth], training=False)
    weight = 0.1 * 1563 / 500
    expected = {
        "rec": (again - x).square().mean(),
        "lat": weight * entropies(logits, batch, other=True),
    }
    with eval_mode({n: nets[n] for n in second.eval_nets}):
        found = second.loss(nets, batch)
    close(found, expected)
    same_slopes(found, expected, nets["G"])


@pytest.mark.parametrize("steps", [0, 1, 250_000, 500_000, 1_000_000])
def test_the_weight_against_d_grows_over_the_papers_500_000_updates(steps: int) -> None:
    """λ(t) = 1e-4·min(t, 500,000)/500,000 after t updates of the auto-encoder, each one a step."""
    config = configure.resolve("fader", "celeba-256")
    model, train = config.model, config.train
    assert isinstance(model, Fader)
    schedule = Schedule(model.phases(FACES), 1, train.batch)
    position = schedule.images(steps) / train.images
    nets = trained(SMALL, FACES)
    small = Fader(dim=4, max_dim=12, layers=2, hidden=8)
    assert (small.lambda_lat, small.lambda_share) == (model.lambda_lat, model.lambda_share)
    nets["D"].requires_grad_(False)
    nets["G"].requires_grad_(False)
    with eval_mode(nets):
        lat, whole = (
            float(small.ae_loss(nets, batch_of(FACES, 0, at), FACES)["lat"]) for at in (position, 1)
        )
    assert lat / whole == pytest.approx(min(steps, 500_000) / 500_000, rel=1e-5)
    read_off = entropies(nets["D"].eval()(nets["G"].eval()(batch_of(FACES, 0).image)[0]),
                         batch_of(FACES, 0), other=True)  # fmt: skip
    assert whole == pytest.approx(1e-4 * float(read_off), rel=1e-5)


def test_both_networks_are_clipped_to_a_gradient_norm_of_5() -> None:
    assert {name: one.clip for name, one in Fader().optim(FACES).items()} == {"G": 5, "D": 5}


def test_the_papers_training_is_1000_epochs_of_1563_updates_of_each_network() -> None:
    config = configure.resolve("fader", "celeba-256")
    schedule = Schedule(config.model.phases(FACES), 1, config.train.batch)
    assert schedule.images(1000 * 1563) == config.train.images
    assert [len(configure.resolve("fader", f"celeba-256{end}").data.attributes)
            for end in ("", "-13")] == [1, 13]  # fmt: skip


def test_another_class_is_drawn_evenly_and_never_the_own_one() -> None:
    """With D certain of class k, the loss is large exactly if the drawn class is not k."""
    space, n = LabelSpace((MOODS,)), 3000
    nets = trained(SMALL, space)
    drawn = torch.zeros(4)
    uniform = (torch.arange(n) / n)[:, None]
    labels = torch.eye(4)[torch.full((n,), 2)]
    for k in range(4):
        sure = torch.full((n, 4), -50.0)
        sure[:, k] = 50.0
        fake = {"G": lambda x, c=None: (x, x), "D": lambda z, noise=(), s=sure: s}
        batch = Batch(torch.zeros(n, 3, 16, 16), labels, labels, 0,
                      lambda name, shape: uniform[:, 0], torch.ones(()))  # fmt: skip
        mean = float(SMALL.ae_loss(fake, batch, space)["lat"]) / SMALL.lambda_lat  # type: ignore[arg-type]
        drawn[k] = 1 - mean / 100
    assert drawn.tolist() == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3], abs=1e-3)
    assert nets["G"].categories.width == 4


def test_a_phase_changes_no_statistics_of_the_network_at_rest() -> None:
    """Only those of the network that it trains, although G's and D's batch norms both run."""
    nets, batch = trained(SMALL, FACES), batch_of(FACES, 0)
    for phase in SMALL.phases(FACES):
        before = {n: {k: v.clone() for k, v in net.state_dict().items()} for n, net in nets.items()}
        with eval_mode({n: nets[n] for n in phase.eval_nets}):
            phase.loss(nets, batch)
        after = {n: net.state_dict() for n, net in nets.items()}
        moved = {n for n in nets if any((before[n][k] != v).any() for k, v in after[n].items())}
        assert moved == set(phase.trains)
        assert {*phase.trains, *phase.eval_nets} == {"G", "D"}


def test_without_noise_nothing_is_dropped_and_no_noise_is_asked_for_at_zero() -> None:
    batch = batch_of(FACES, 0)
    plain = Fader(dim=4, max_dim=12, layers=2, hidden=8, dropout=0.0)
    assert plain.dropout_noise(batch, torch.zeros(4, 8, 4, 4)) == []
    shapes = [tuple(n.shape) for n in SMALL.dropout_noise(batch, torch.zeros(4, 8, 4, 4))]
    assert shapes == [(4, 12, 2, 2), (4, 12, 1, 1)]


def seen(nets: dict[str, Any], *given: Any, **options: Any) -> Tensor:
    """What the decoder's first layer gets as labels for an edit."""
    planes: list[Tensor] = []
    handle = (
        nets["G"]
        .decoder[0]
        .register_forward_pre_hook(
            lambda _, inputs: planes.append(inputs[0][:, -nets["G"].categories.width :, 0, 0])
        )
    )
    SMALL.translate(nets, *given, EditOptions(**options))
    handle.remove()
    return planes[0]


def test_the_slider_goes_from_the_own_label_over_the_target_and_beyond() -> None:
    """[1 − α, α] of what was requested; black hair, which blond excludes, goes off at once."""
    nets, x = trained(SMALL, FACES), torch.rand(1, 3, 16, 16)
    for net in nets.values():
        net.eval()
    a, b = torch.tensor([[1.0, 0, 1]]), torch.tensor([[0.0, 1, 1]])
    male = [0, 1]
    for alpha in (0.0, 0.25, 1.0, 3.0):
        found = seen(nets, x, a, b, intensity=alpha)[0].tolist()
        assert found == pytest.approx([1, 0, 1 - alpha, alpha, *male])
    # Switching a label off: α 0 is on.
    c = torch.tensor([[1.0, 0, 0]])
    assert seen(nets, x, a, c, intensity=0.0)[0].tolist() == [0, 1, 1, 0, 0, 1]
    assert seen(nets, x, a, c, intensity=2.0)[0].tolist() == [0, 1, 1, 0, 2, -1]
    assert seen(nets, x, a, c)[0].tolist() == [0, 1, 1, 0, 1, 0]  # test_int 1
    assert seen(nets, x, None, b)[0].tolist() == [1, 0, 0, 1, 0, 1]
    same = SMALL.translate(nets, x, a, c, EditOptions(intensity=0.0))
    assert torch.equal(same, SMALL.reconstruct(nets, x, a))


def test_of_several_data_sets_unknown_attributes_are_neither_on_nor_off() -> None:
    nets, x = trained(SMALL, JOINT), torch.rand(1, 3, 16, 16)
    angry, happy = (JOINT.encode(torch.eye(4)[k : k + 1], 1) for k in (0, 1))
    planes: list[Tensor] = []
    nets["G"].decoder[0].register_forward_pre_hook(
        lambda _, inputs: planes.append(inputs[0][0, -12:, 0, 0])
    )
    SMALL.translate(nets, x, angry, happy, EditOptions(intensity=2.0))
    assert planes[0].tolist() == [0] * 6 + [0, 2, 0, 0] + [0, 1]


@pytest.mark.parametrize(
    ("model", "size", "message"),
    [
        (Fader(), 48, "size=48: a power of two"),
        (Fader(), 32, "size=32: at least 64 is needed"),
        (Fader(skips=6), 64, "skips=6: between 0 and layers − 1 = 5"),
    ],
)
def test_unsupported_sizes_and_depths_are_refused(model: Fader, size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.networks(FACES, size)


def test_a_latent_of_one_pixel_leaves_d_its_two_linear_layers() -> None:
    """Six layers at 64 px: such as the paper's code does, and the reason for five."""
    with torch.device("meta"):
        d: Any = Fader().networks(FACES, 64)["D"]
    assert len(d.main) == 0
    assert count(d) == 512 * 512 + 512 + 512 * 6 + 6

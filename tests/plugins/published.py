"""The published networks, built from the papers' tables with plain torch layers.

Their names of tensors are those of the published files; nothing here is used by the project itself.
"""

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def tracked(channels: int) -> nn.Module:
    return nn.InstanceNorm2d(channels, affine=True, track_running_stats=True)


class Block(nn.Module):
    """StarGAN's residual block: Conv3, IN, ReLU, Conv3, IN, and the sum without activation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        conv = [nn.Conv2d(width, width, 3, 1, 1, bias=False) for _ in range(2)]
        self.main = nn.Sequential(conv[0], tracked(width), nn.ReLU(), conv[1], tracked(width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.main(x)  # type: ignore[no-any-return]


class StarGANGenerator(nn.Module):
    """Table 4: 7x7, two strided, residual blocks, two transposed convolutions, 7x7 and tanh."""

    def __init__(self, labels: int, width: int, blocks: int) -> None:
        super().__init__()
        w = width
        rows: list[nn.Module] = [
            nn.Conv2d(3 + labels, w, 7, 1, 3, bias=False),
            tracked(w),
            nn.ReLU(),
        ]
        for k in (w, 2 * w):
            rows += [nn.Conv2d(k, 2 * k, 4, 2, 1, bias=False), tracked(2 * k), nn.ReLU()]
        rows += [Block(4 * w) for _ in range(blocks)]
        for k in (4 * w, 2 * w):
            up = nn.ConvTranspose2d(k, k // 2, 4, 2, 1, bias=False)
            rows += [up, tracked(k // 2), nn.ReLU()]
        self.main = nn.Sequential(*rows, nn.Conv2d(w, 3, 7, 1, 3, bias=False), nn.Tanh())

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        planes = c[:, :, None, None].expand(-1, -1, *x.shape[2:])
        return self.main(torch.cat([x, planes], 1))  # type: ignore[no-any-return]


class StarGANDiscriminator(nn.Module):
    """Table 5: strided convolutions, then the patch critic (conv1) and the label head (conv2)."""

    def __init__(self, labels: int, size: int, width: int, layers: int) -> None:
        super().__init__()
        rows: list[nn.Module] = []
        inputs = 3
        for i in range(layers):
            rows += [nn.Conv2d(inputs, width << i, 4, 2, 1), nn.LeakyReLU(0.01)]
            inputs = width << i
        self.main = nn.Sequential(*rows)
        self.conv1 = nn.Conv2d(inputs, 1, 3, 1, 1, bias=False)
        self.conv2 = nn.Conv2d(inputs, labels, size >> layers, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.main(x)
        return self.conv1(h), self.conv2(h).flatten(1)


def norm(x: Tensor) -> Tensor:
    """Instance norm, written out."""
    mean, var = x.mean((2, 3), keepdim=True), x.var((2, 3), keepdim=True, unbiased=False)
    return (x - mean) / torch.sqrt(var + 1e-5)


class Res(nn.Module):
    """StarGAN v2's pre-activation block, with IN (`normed`) and halving."""

    def __init__(self, inputs: int, outputs: int, *, normed: bool, half: bool) -> None:
        super().__init__()
        self.normed, self.half = normed, half
        self.conv1 = nn.Conv2d(inputs, inputs, 3, 1, 1)
        self.conv2 = nn.Conv2d(inputs, outputs, 3, 1, 1)
        if normed:
            self.norm1 = nn.InstanceNorm2d(inputs, affine=True)
            self.norm2 = nn.InstanceNorm2d(inputs, affine=True)
        if inputs != outputs:
            self.conv1x1 = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.leaky_relu(self.norm1(x) if self.normed else x, 0.2))
        short = self.conv1x1(x) if hasattr(self, "conv1x1") else x
        if self.half:
            h, short = F.avg_pool2d(h, 2), F.avg_pool2d(short, 2)
        h = self.conv2(F.leaky_relu(self.norm2(h) if self.normed else h, 0.2))
        return (h + short) / math.sqrt(2)  # type: ignore[no-any-return]


class Adaptive(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 2 * channels)

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        scale, shift = self.fc(s)[:, :, None, None].chunk(2, 1)
        return (1 + scale) * norm(x) + shift  # type: ignore[no-any-return]


class Styled(nn.Module):
    """The decoder's block; without the shortcut's use for w_hpf > 0."""

    def __init__(self, inputs: int, outputs: int, *, double: bool, skip: bool) -> None:
        super().__init__()
        self.double, self.skip = double, skip
        self.norm1, self.norm2 = Adaptive(inputs), Adaptive(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 1, 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        if inputs != outputs:  # made with w_hpf > 0 as well
            self.conv1x1 = nn.Conv2d(inputs, outputs, 1, bias=False)

    def up(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3) if self.double else x

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        h = self.conv1(self.up(F.leaky_relu(self.norm1(x, s), 0.2)))
        h = self.conv2(F.leaky_relu(self.norm2(h, s), 0.2))
        if not self.skip:
            return h  # type: ignore[no-any-return]
        short = self.up(x)
        short = self.conv1x1(short) if hasattr(self, "conv1x1") else short
        return (h + short) / math.sqrt(2)  # type: ignore[no-any-return]


class HighPass(nn.Module):
    """The depthwise kernel, a buffer in the later published code."""

    filter: Tensor

    def __init__(self, w_hpf: float) -> None:
        super().__init__()
        kernel = torch.full((3, 3), -1.0)
        kernel[1, 1] = 8
        self.register_buffer("filter", kernel / w_hpf)


class Generator(nn.Module):
    """Down to 16 px (8 px with w_hpf > 0), two blocks on each side, and up again."""

    def __init__(self, size: int, dim: int, most: int, w_hpf: float = 0.0) -> None:
        super().__init__()
        halvings = max(1, int(math.log2(size)) - 4 + (w_hpf > 0))
        plan = [min(dim * 2**i, most) for i in range(halvings + 1)]
        steps = list(pairwise(plan))
        self.from_rgb = nn.Conv2d(3, dim, 3, 1, 1)
        down = [Res(a, b, normed=True, half=True) for a, b in steps]
        down += [Res(plan[-1], plan[-1], normed=True, half=False) for _ in range(2)]
        up = [Styled(plan[-1], plan[-1], double=False, skip=not w_hpf) for _ in range(2)]
        up += [Styled(b, a, double=True, skip=not w_hpf) for a, b in reversed(steps)]
        self.encode, self.decode = nn.ModuleList(down), nn.ModuleList(up)
        self.to_rgb = nn.Sequential(
            nn.InstanceNorm2d(dim, affine=True), nn.LeakyReLU(0.2), nn.Conv2d(dim, 3, 1)
        )
        if w_hpf:
            self.hpf = HighPass(w_hpf)

    def forward(self, x: Tensor, s: Tensor, masks: Tensor | None = None) -> Tensor:
        """With masks (n, 2, h, w), the first for 32 px, the encoder's maps skip to the decoder."""
        h, skipped = self.from_rgb(x), {}
        for block in self.encode:
            skipped[h.shape[2]] = h
            h = block(h)
        for block in self.decode:
            h = block(h, s)
            side = h.shape[2]
            if masks is not None and side in (32, 64, 128):
                mask = F.interpolate(masks[:, int(side != 32), None], (side, side), mode="bilinear")
                maps = (mask * skipped[side]).flatten(0, 1)[:, None]
                sharp = F.conv2d(maps, self.hpf.filter[None, None], padding=1)
                h = h + sharp.unflatten(0, h.shape[:2])[:, :, 0]
        return self.to_rgb(h)  # type: ignore[no-any-return]


# StarGAN v2's landmark network: blocks of residual convolutions by their place, with channels.
FAN_BLOCKS = {
    "conv2": (64, 128), "conv3": (128, 128), "conv4": (128, 256), "top_m_0": (256, 256),
    **{f"m0.b{i}_{level}": (256, 256) for level in (1, 2, 3, 4) for i in (1, 2, 3)},
    "m0.b2_plus_1": (256, 256),
}  # fmt: skip


def fan_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the section `fan` of a published file; 6,333,603 of them are trained."""
    norms = {"bn1": 64, "bn_end0": 256}
    shapes: dict[str, tuple[int, ...]] = {
        "conv1.conv.weight": (64, 6, 7, 7), "conv1.conv.bias": (64,),
        "m0.coordconv.conv.weight": (256, 259, 1, 1), "m0.coordconv.conv.bias": (256,),
        "conv_last0.weight": (256, 256, 1, 1), "conv_last0.bias": (256,),
        "l0.weight": (99, 256, 1, 1), "l0.bias": (99,),
    }  # fmt: skip
    for name, (a, b) in FAN_BLOCKS.items():
        parts = ((a, b // 2), (b // 2, b // 4), (b // 4, b // 4))
        for i, (inputs, outputs) in enumerate(parts, 1):
            norms[f"{name}.bn{i}"] = inputs
            shapes[f"{name}.conv{i}.weight"] = (outputs, inputs, 3, 3)
        if a != b:
            norms[f"{name}.downsample.0"] = a
            shapes[f"{name}.downsample.2.weight"] = (b, a, 1, 1)
    for name, width in norms.items():
        shapes |= {f"{name}.{part}": (width,) for part in (
            "weight", "bias", "running_mean", "running_var")}  # fmt: skip
        shapes[f"{name}.num_batches_tracked"] = ()
    return shapes


def fan_state(seed: int = 0) -> dict[str, Tensor]:
    """Random tensors whose maps of the chin's last point and of an eye are alive, near 0."""
    stream = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in fan_shapes().items():
        value = torch.rand(shape, generator=stream)
        if not shape:
            value = torch.tensor(9)
        elif len(shape) == 4:
            value = (value - 0.5) * (6 / value[0].numel()) ** 0.5
        elif name.endswith(("bias", "mean")):
            value = value - 0.5
        else:
            value = value + 0.5
        state[name] = value
    chin, eye = state["l0.bias"][[24, 96]] - torch.tensor([0.1, 3.5])
    state["l0.bias"].fill_(-9)
    state["l0.bias"][24], state["l0.bias"][96] = chin, eye
    return state


def fan(w: dict[str, Tensor], x: Tensor) -> Tensor:
    """Heat-maps (n, 98, 64, 64) of images (n, 3, s, s) in [-1, 1]; its own last map left out."""

    def act(name: str, x: Tensor) -> Tensor:
        norm = F.batch_norm(
            x, w[f"{name}.running_mean"], w[f"{name}.running_var"], w[f"{name}.weight"],
            w[f"{name}.bias"],
        )  # fmt: skip
        return norm.clamp_min(0)

    def block(name: str, x: Tensor) -> Tensor:
        one = F.conv2d(act(f"{name}.bn1", x), w[f"{name}.conv1.weight"], padding=1)
        two = F.conv2d(act(f"{name}.bn2", one), w[f"{name}.conv2.weight"], padding=1)
        three = F.conv2d(act(f"{name}.bn3", two), w[f"{name}.conv3.weight"], padding=1)
        if f"{name}.downsample.2.weight" in w:
            x = F.conv2d(act(f"{name}.downsample.0", x), w[f"{name}.downsample.2.weight"])
        return torch.cat([one, two, three], 1) + x

    def located(name: str, x: Tensor, **how: int) -> Tensor:
        """A convolution of the maps and of each pixel's row, column and radius."""
        n, _, height, width = x.shape
        row = torch.linspace(-1, 1, height)[:, None].expand(height, width)
        column = torch.linspace(-1, 1, width)[None].expand(height, width)
        places = torch.stack([row, column, torch.hypot(row, column) / math.sqrt(2)])
        x = torch.cat([x, places[None].expand(n, -1, -1, -1).to(x)], 1)
        return F.conv2d(x, w[f"{name}.conv.weight"], w[f"{name}.conv.bias"], **how)

    def glass(x: Tensor, level: int) -> Tensor:
        low = block(f"m0.b2_{level}", F.avg_pool2d(x, 2))
        low = block("m0.b2_plus_1", low) if level == 1 else glass(low, level - 1)
        low = block(f"m0.b3_{level}", low).repeat_interleave(2, 2).repeat_interleave(2, 3)
        return block(f"m0.b1_{level}", x) + low

    x = (F.interpolate(x, (256, 256), mode="bilinear") + 1) / 2
    h = act("bn1", located("conv1", x, stride=2, padding=3))
    h = block("conv4", block("conv3", F.avg_pool2d(block("conv2", h), 2)))
    h = block("top_m_0", glass(located("m0.coordconv", h), 4))
    h = act("bn_end0", F.conv2d(h, w["conv_last0.weight"], w["conv_last0.bias"]))
    return F.conv2d(h, w["l0.weight"], w["l0.bias"])[:, :98]


def mlp(*widths: int) -> list[nn.Module]:
    rows: list[nn.Module] = []
    for a, b in pairwise(widths):
        rows += [nn.Linear(a, b), nn.ReLU()]
    return rows


class Mapping(nn.Module):
    def __init__(self, domains: int, h: int) -> None:
        super().__init__()
        self.shared = nn.Sequential(*mlp(16, h, h, h, h))
        heads = [nn.Sequential(*mlp(h, h, h, h), nn.Linear(h, 64)) for _ in range(domains)]
        self.unshared = nn.ModuleList(heads)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        h = self.shared(z)
        return torch.stack([self.unshared[int(k)](h[i]) for i, k in enumerate(y)])


def trunk(size: int, dim: int, most: int) -> tuple[list[nn.Module], int]:
    plan = [min(dim * 2**i, most) for i in range(int(math.log2(size)) - 1)]
    rows: list[nn.Module] = [nn.Conv2d(3, dim, 3, 1, 1)]
    rows += [Res(a, b, normed=False, half=True) for a, b in pairwise(plan)]
    return [*rows, nn.LeakyReLU(0.2), nn.Conv2d(plan[-1], plan[-1], 4), nn.LeakyReLU(0.2)], plan[-1]


class StyleEncoder(nn.Module):
    def __init__(self, size: int, dim: int, most: int, domains: int) -> None:
        super().__init__()
        rows, width = trunk(size, dim, most)
        self.shared = nn.Sequential(*rows)
        self.unshared = nn.ModuleList(nn.Linear(width, 64) for _ in range(domains))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.shared(x).flatten(1)
        return torch.stack([self.unshared[int(k)](h[i]) for i, k in enumerate(y)])


class Discriminator(nn.Module):
    def __init__(self, size: int, dim: int, most: int, domains: int) -> None:
        super().__init__()
        rows, width = trunk(size, dim, most)
        self.main = nn.Sequential(*rows, nn.Conv2d(width, domains, 1))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.main(x).flatten(1)
        return torch.stack([h[i, int(k)] for i, k in enumerate(y)])


def random(net: nn.Module) -> nn.Module:
    """With affine norms and statistics that are not the initial ones."""
    with torch.no_grad():
        for name, value in (*net.named_parameters(), *net.named_buffers()):
            if name.endswith("filter") or not value.is_floating_point():
                continue
            value.normal_(0, 0.3) if value.dim() > 1 else value.uniform_(0.5, 1.5)
    return net


def stargan(labels: int, size: int, width: int, blocks: int, layers: int) -> dict[str, nn.Module]:
    return {
        "G": random(StarGANGenerator(labels, width, blocks)),
        "D": random(StarGANDiscriminator(labels, size, width, layers)),
    }


def stargan_v2(
    domains: int, size: int, dim: int, most: int, hidden: int, w_hpf: float = 0.0
) -> dict[str, nn.Module]:
    return {
        "generator": random(Generator(size, dim, most, w_hpf)),
        "mapping_network": random(Mapping(domains, hidden)),
        "style_encoder": random(StyleEncoder(size, dim, most, domains)),
        "discriminator": random(Discriminator(size, dim, most, domains)),
    }


def states(nets: dict[str, nn.Module], *names: str) -> dict[str, Any]:
    """The content of a StarGAN v2 file."""
    return {name: nets[name].state_dict() for name in names or nets}
